"""Classification of texts: padding, filters by hand, pieces of packages."""

from __future__ import annotations

import math

import pytest
import torch

from rayloom import datasets
from rayloom.contract import TensorSpec, UserError
from rayloom_supervised.data.python_packages import PACKAGES
from rayloom_supervised.networks.text import TEXT_NETWORKS, TextCNN
from rayloom_supervised.tasks.text_classification import TextClassifier

SPEC = {
    "token": TensorSpec(shape=(9,), dtype=torch.int64, num_values=20, ragged=True),
    "token_length": TensorSpec(shape=(), dtype=torch.int64),
    "label": TensorSpec(shape=(), dtype=torch.int64, num_values=3),
}


def classifier(kind: str, **settings: object) -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier(TextClassifier.Config(network=TEXT_NETWORKS.component(kind, **settings)), SPEC)


def test_a_feature_is_the_largest_answer_of_a_filter_to_whole_windows() -> None:
    torch.manual_seed(0)
    network = TextCNN(3, 4, (2, 5))
    vectors, lengths = torch.randn(3, 8, 3), [8, 6, 3]
    found = network(vectors, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        text = torch.cat((vectors[row, :length], torch.zeros(max(0, 5 - length), 3)))
        wanted = []
        for width, layer in zip((2, 5), network.convolutions, strict=True):
            weight, bias = layer.weight, layer.bias
            assert isinstance(weight, torch.Tensor)
            windows = range(max(length - width + 1, 1))
            answers = [(weight * text[begin : begin + width].T).sum(dim=(1, 2)) + bias for begin in windows]
            wanted.append(torch.relu(torch.stack(answers)).amax(dim=0))
        torch.testing.assert_close(found[row], torch.cat(wanted))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("text_cnn", {}), ("text_rnn", {}), ("text_rnn", {"attention": True}), ("text_rnn", {"cell": "peephole_lstm"})],
)
def test_padding_does_not_matter(kind: str, settings: dict[str, object]) -> None:
    algorithm = classifier(kind, **settings).eval()
    token, length = torch.randint(2, 20, (1, 2)), torch.tensor([2])
    wide = torch.cat((token, torch.randint(2, 20, (1, 7))), dim=1)
    torch.testing.assert_close(algorithm.network(token, length), algorithm.network(wide, length))
    parameters = tuple(algorithm.parameters())
    pairs = [
        torch.autograd.grad(algorithm.network(tokens, length).square().sum(), parameters, allow_unused=True)
        for tokens in (token, wide)
    ]
    for first, second in zip(*pairs, strict=True):
        if first is not None and second is not None:
            torch.testing.assert_close(first, second)


def test_dropout_is_for_training_alone() -> None:
    algorithm = classifier("text_cnn")
    batch = {
        "token": torch.randint(2, 20, (4, 9)),
        "token_length": torch.tensor([9, 3, 1, 5]),
        "label": torch.arange(4) % 3,
    }
    algorithm.eval()
    assert torch.equal(algorithm.loss(batch).per_example, algorithm.evaluate(batch)["loss"])
    algorithm.train()
    assert not torch.equal(algorithm.loss(batch).per_example, algorithm.loss(batch).per_example)
    torch.nn.init.zeros_(algorithm.network.head.weight)
    torch.nn.init.zeros_(algorithm.network.head.bias)
    assert algorithm.loss(batch).per_example.tolist() == pytest.approx([math.log(3)] * 4)


def test_pieces_are_of_one_package_and_of_one_split() -> None:
    data = datasets.load({"import": "rayloom_supervised.data.python_packages:python_packages"}, 0)
    words, total = data.spec["token"].labels, 0
    for split in (data.train, data.validation, data.test):
        batch = split.rows(torch.arange(len(split)))
        assert set(batch["label"].tolist()) == set(range(len(PACKAGES)))
        assert int(batch["token_length"].min()) >= 10 and int(batch["token_length"].max()) <= 40
        for label, package in enumerate(PACKAGES):
            seen = {words[token] for token in batch["token"][batch["label"] == label].unique().tolist()}
            assert len(seen) > 50 and not any(package in word for word in seen), "the answer stands nowhere"
        total += len(split)
    assert len(data.train) > 0.75 * total


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="needs the fields token and label"):
        TextClassifier(TextClassifier.Config(), {"label": SPEC["label"]})
