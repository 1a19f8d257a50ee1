"""Classification of texts: padding, filters by hand, pieces of packages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayloom import datasets
from rayloom.contract import TensorSpec, UserError
from rayloom_supervised.data.python_packages import PACKAGES
from rayloom_supervised.networks.text import TEXT_NETWORKS, TextCNN, TextNetwork
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
    [
        ("text_cnn", {}),
        ("text_cnn", {"pairs": 50, "bag": True}),
        ("text_rnn", {}),
        ("text_rnn", {"attention": True}),
        ("text_rnn", {"cell": "peephole_lstm"}),
    ],
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


def test_a_frequent_pair_has_a_vector_beside_the_words() -> None:
    network = classifier("text_cnn", pairs=2, bag=True, embedding_size=4).network
    token, lengths = torch.tensor([[5, 7, 5, 7, 9]]), torch.tensor([4])
    assert network.pairs is not None and network.pairs.weight.shape == (3, 4)
    unknown = network.vectors(token, lengths)[0, :, 4:]
    assert torch.equal(unknown, network.pairs.weight[[0] * 5]), "none is known before they are counted"
    counted = [(torch.tensor([[5, 7, 5, 7, 3, 2], [8, 8, 8, 8, 5, 7]]), torch.tensor([6, 4])), (token, lengths)]
    network.count_pairs(counted)  # 5 7: four times, 8 8: three times, 7 5: twice, one too many; all others once
    assert network.known.tolist() == [5 * 20 + 7, 8 * 20 + 8]
    vectors = network.vectors(token, lengths)[0]
    torch.testing.assert_close(vectors[:, :4], network.embedding.weight[[5, 7, 5, 7, 9]])
    torch.testing.assert_close(vectors[:, 4:], network.pairs.weight[[1, 0, 1, 0, 0]])
    features = network.features(token, lengths)[0]
    torch.testing.assert_close(features[-8:], vectors[:4].sum(dim=0) / 2)


def test_words_and_numbers_of_vectors_are_dropped_in_training() -> None:
    seen: list[Tensor] = []

    class Kept(TextNetwork):
        def read(self, vectors: Tensor, lengths: Tensor) -> Tensor:
            seen.append(vectors != 0)
            return super().read(vectors, lengths)

    algorithm = classifier("text_cnn")
    network = Kept(20, 3, 6, TextCNN(6, 4, (2,)))
    batch = {"token": torch.full((40, 9), 3), "token_length": torch.full((40,), 9), "label": torch.zeros(40).long()}
    algorithm.network = network
    for name in ("vector_dropout", "word_dropout"):
        algorithm.config = replace(algorithm.config, **{name: 0.5})
        algorithm.loss(batch)
    numbers, both = seen
    assert bool((numbers == numbers[:, :1]).all()) and 0.35 < float(numbers.float().mean()) < 0.65
    words = both.any(dim=2)
    assert 0.35 < float(words.float().mean()) < 0.65 and not bool((words == words[:, :1]).all())
    algorithm.eval().loss(batch)
    assert bool(seen[-1].all())


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
    words, packages, total = data.spec["token"].labels, data.spec["label"].labels, 0
    assert len(packages) >= 9 and [name for name in PACKAGES if name in packages] == list(packages)
    for split in (data.train, data.validation, data.test):
        batch = split.rows(torch.arange(len(split)))
        assert set(batch["label"].tolist()) == set(range(len(packages)))
        assert int(batch["token_length"].min()) >= 10 and int(batch["token_length"].max()) <= 40
        for label, package in enumerate(packages):
            seen = {words[token] for token in batch["token"][batch["label"] == label].unique().tolist()}
            assert len(seen) > 50 and not any(package in word for word in seen), "the answer stands nowhere"
        total += len(split)
    assert len(data.train) > 0.75 * total


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="needs the fields token and label"):
        TextClassifier(TextClassifier.Config(), {"label": SPEC["label"]})
