"""Recursive networks against recursion written out; padding does not matter; formulas against Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rayloom import datasets
from rayloom.contract import TensorSpec, UserError
from rayloom_supervised.data.formulas import TOKENS
from rayloom_supervised.layers.trees import RecursiveCell, TreeCell, TreeLayer, TreeLSTMCell
from rayloom_supervised.networks.trees import TREE_NETWORKS
from rayloom_supervised.tasks.tree_classification import TreeClassifier

Array = np.ndarray
F, H = 3, 4
TREES = ([(-1, -1), (-1, -1), (0, 1), (-1, -1), (2, 3)], [(-1, -1)], [(-1, -1), (0, -1), (-1, -1), (2, 1)])
DATA = {"import": "rayloom_supervised.data.formulas:formulas", "train_size": 80, "validation_size": 5, "test_size": 5}


def s(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def recursive(p: dict[str, Array], x: Array, below: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    both = np.concatenate([h for h, _ in below])
    h = np.tanh(p["input.weight"] @ x + p["input.bias"] + p["below.weight"] @ both)
    return h, h


def tree_lstm(p: dict[str, Array], x: Array, below: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    w, b, u = (np.split(p[name], 5) for name in ("input.weight", "input.bias", "below.weight"))
    both = np.concatenate([h for h, _ in below])
    i, left, right, o, new = (w[gate] @ x + b[gate] + u[gate] @ both for gate in range(5))
    c = s(i) * np.tanh(new) + s(left) * below[0][1] + s(right) * below[1][1]
    return s(o) * np.tanh(c), c


CELLS = {"recursive": (RecursiveCell, recursive), "tree_lstm": (TreeLSTMCell, tree_lstm)}


def made(cell: type[TreeCell]) -> TreeLayer:
    torch.manual_seed(0)
    layer = TreeLayer(cell(F, H)).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return layer


def batch(filling: float = 0.0, child: int = 0, nodes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(1)
    inputs = torch.full((3, nodes, F), filling, dtype=torch.float64)
    children = torch.full((3, nodes, 2), child)
    for row, tree in enumerate(TREES):
        inputs[row, : len(tree)] = torch.randn(len(tree), F, generator=chance, dtype=torch.float64)
        children[row, : len(tree)] = torch.tensor(tree)
    return inputs, children, torch.tensor([len(tree) for tree in TREES])


@pytest.mark.parametrize("name", CELLS)
def test_states_are_composed_recursively(name: str) -> None:
    kind, compose = CELLS[name]
    layer, (inputs, children, lengths) = made(kind), batch()
    p = {key.removeprefix("cell."): value.detach().numpy() for key, value in layer.named_parameters()}
    outputs, roots = layer(inputs, children, lengths)

    def state(row: int, node: int) -> tuple[Array, Array]:
        if node < 0:
            return np.zeros(H), np.zeros(H)
        return compose(p, inputs[row, node].numpy(), [state(row, child) for child in TREES[row][node]])

    for row, tree in enumerate(TREES):
        for node in range(len(tree)):
            np.testing.assert_allclose(outputs[row, node].detach(), state(row, node)[0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(roots[row], outputs[row, len(tree) - 1])
        assert not outputs[row, len(tree) :].any()


@pytest.mark.parametrize("name", CELLS)
def test_padding_changes_no_value_and_no_gradient(name: str) -> None:
    layer, found = made(CELLS[name][0]), []
    for filling, child, nodes in ((0.0, 0, 5), (float("nan"), 10**6, 8)):
        inputs, children, lengths = batch(filling, child, nodes)
        inputs.requires_grad_()
        outputs, roots = layer(inputs, children, lengths)
        gradients = torch.autograd.grad((outputs**2).sum() + roots.sum(), [inputs, *layer.parameters()])
        found.append((outputs[:, :5].detach(), roots.detach(), gradients[0][:, :5], *gradients[1:]))
        assert not gradients[0][1, 1:].any()
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-13, atol=1e-13)


def test_formulas_are_true_where_python_says_so() -> None:
    batch = datasets.load({**DATA, "test_most": 40}, 0).train.rows(torch.arange(80))
    words = {"implies": "<=", "xor": "!=", "true": "True", "false": "False"}
    for row, length in enumerate(batch["token_length"].tolist()):
        written: list[str] = []
        for token, (left, right) in zip(batch["token"][row].tolist(), batch["children"][row].tolist(), strict=True):
            if len(written) == length:
                break
            word = words.get(TOKENS[token], TOKENS[token])
            parts = [written[child] for child in (left, right) if child >= 0]
            written.append(f"({word} {parts[0]})" if len(parts) == 1 else f"({f' {word} '.join(parts) or word})")
        assert eval(written[-1], {"__builtins__": {}}) == bool(batch["label"][row])  # noqa: S307  our own formulas
    assert batch["label"].float().mean() == 0.5


def test_only_the_longest_formulas_are_in_the_test_split() -> None:
    found = datasets.load({**DATA, "fewest": 3, "most": 4, "test_most": 40, "test_size": 40}, 0)
    leaves = [
        ((split.rows(torch.arange(len(split)))["children"] < 0).all(dim=2)).sum(dim=1).max()
        for split in (found.train, found.test)
    ]
    assert leaves[0] <= 4 < 20 < leaves[1]


@pytest.mark.parametrize("network", ["recursive", "bag"])
def test_a_tree_is_judged_alike_in_any_batch(network: str) -> None:
    found = datasets.load(DATA, 0)
    torch.manual_seed(0)
    classifier = TreeClassifier(TreeClassifier.Config(network=TREE_NETWORKS.component(network)), found.spec)
    sizes = found.train.rows(torch.arange(80))["token_length"]
    short, long = int(sizes.argmin()), int(sizes.argmax())
    alone, together = (found.train.rows(torch.tensor(rows)) for rows in ([short], [long, short]))
    torch.testing.assert_close(classifier.loss(alone).per_example[0], classifier.loss(together).per_example[1])
    outputs = classifier.evaluate(found.train.rows(torch.arange(16)))
    curve = classifier.summarize({name: outputs[name] for name in ("_right", "_nodes")})[1]["accuracy"]
    assert curve.x is not None and curve.x.diff().min() >= 0 and curve.data is not None
    assert float(curve.data.mean()) == pytest.approx(float(outputs["accuracy"].mean()))


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="needs the ragged fields token and children, and label, not"):
        TreeClassifier(TreeClassifier.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
    with pytest.raises(UserError, match="at least fewest"):
        datasets.load({**DATA, "fewest": 20}, 0)
