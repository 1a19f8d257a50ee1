"""The conditional random field: gradient, baseline, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec
from rayloom.errors import UserError
from rayloom_generative.graphical.linear_chain_crf import LinearChainCRF, LinearChainCRFConfig


def sequences(values: int) -> TensorSpec:
    return TensorSpec(shape=(4,), dtype=torch.int64, num_values=values, ragged=True)


SPEC = {"token": sequences(5), "tag": sequences(3)}


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    length = torch.tensor([4, 2, 1])
    token, tag = (torch.randint(high, (3, 4), generator=generator) for high in (5, 3))
    return {"token": token, "tag": tag, "token_length": length, "tag_length": length}


def random_crf(**settings: Any) -> LinearChainCRF:
    torch.manual_seed(1)
    model = LinearChainCRF(LinearChainCRFConfig(**settings), SPEC).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.mark.parametrize("settings", [{}, {"window": 1}, {"transitions": False}])
def test_the_gradient_equals_finite_differences(settings: dict[str, Any]) -> None:
    model, data = random_crf(**settings), batch()
    loss = model.loss(data).per_example.sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    step = 1e-6
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        flat = parameter.data.view(-1)
        for place in range(0, flat.numel(), 3):
            value = float(flat[place])
            sides = []
            for moved in (value + step, value - step):
                flat[place] = moved
                sides.append(float(model.loss(data).per_example.detach().sum()))
            flat[place] = value
            assert float(gradient.view(-1)[place]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-7)


def test_the_gradient_is_expected_minus_observed_features() -> None:
    model, data = LinearChainCRF(LinearChainCRFConfig(), SPEC).double(), batch()
    model.loss(data).per_example.sum().backward()
    # All weights are 0: every transition is expected a ninth of the time.
    rows = zip(data["tag"].tolist(), data["tag_length"].tolist(), strict=True)
    pairs = [pair for row, size in rows for pair in itertools.pairwise(row[:size])]
    observed = torch.zeros(3, 3, dtype=torch.float64)
    for pair in pairs:
        observed[pair] += 1
    assert model.transition.grad is not None
    torch.testing.assert_close(model.transition.grad, len(pairs) / 9 - observed)


def test_without_transitions_it_is_a_softmax_for_each_position() -> None:
    model, data = random_crf(transitions=False), batch()
    logits = model.weight[0][data["token"]].log_softmax(2)
    for row, size in enumerate(data["tag_length"].tolist()):
        expected = -sum(logits[row, place, data["tag"][row, place]] for place in range(size))
        torch.testing.assert_close(model.loss(data).per_example[row], expected)
    assert [name for name, _ in model.named_parameters()] == ["weight"]


def test_the_loss_equals_a_search_over_all_labels() -> None:
    model, data = random_crf(), batch()
    for row, size in enumerate(data["tag_length"].tolist()):
        scores = {}
        for labels in itertools.product(range(3), repeat=size):
            score = sum(model.weight[0, data["token"][row, place], label] for place, label in enumerate(labels))
            score = score + sum(model.transition[pair] for pair in itertools.pairwise(labels))
            scores[labels] = float((score + model.ends[0, labels[0]] + model.ends[1, labels[-1]]).detach())
        partition = torch.tensor(list(scores.values()), dtype=torch.float64).logsumexp(0)
        expected = float(partition) - scores[tuple(data["tag"][row, :size].tolist())]
        assert float(model.loss(data).per_example[row].detach()) == pytest.approx(expected, abs=1e-10)
        best = max(scores, key=scores.__getitem__)
        assert tuple(model.decode(data["token"], data["tag_length"])[row, :size].tolist()) == best


def test_the_window_sees_neighbours_and_the_outside() -> None:
    model = random_crf(window=1, transitions=False)
    token, length = torch.tensor([[2, 4, 1]]), torch.tensor([2])
    expected = model.weight[0, 2] + model.weight[1, 4] + model.weight[2, 5]
    torch.testing.assert_close(model.emission(token, length)[0, 1], expected)


def test_scores_are_per_token_and_per_sequence() -> None:
    model, data = random_crf(), batch()
    found = model.evaluate(data)
    guessed = model.decode(data["token"], data["token_length"])
    right = [sum(int(guessed[r, p] == data["tag"][r, p]) for p in range(n)) for r, n in enumerate((4, 2, 1))]
    assert found["accuracy"][0].tolist() == right and found["accuracy"][1].tolist() == [4, 2, 1]
    assert found["exact"].tolist() == [float(hit == size) for hit, size in zip(right, (4, 2, 1), strict=True)]
    _, figures = model.summarize({"_confusion": found["_confusion"]})
    matrix = figures["confusion_matrix"].data
    assert matrix is not None and float(matrix.sum()) == 7 and float(matrix.trace()) == sum(right)
    assert model.loss(data).count.tolist() == [4, 2, 1]


def test_sequences_are_shown_with_their_mistakes() -> None:
    data = datasets.load({"kind": "tagged-grammar", "train_size": 4}, 0)
    model = LinearChainCRF(LinearChainCRFConfig(), data.spec)
    text = model.figures(data.train.rows(torch.arange(4)))["sequences"].text
    assert text.count("\n") == 3 and "/determiner" in text and "(not verb)" in text


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="tag is missing"):
        LinearChainCRF(LinearChainCRFConfig(), {"token": SPEC["token"]})
