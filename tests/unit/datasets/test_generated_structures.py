"""Generated data with known structure: textbook networks and a grammar of tagged sentences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rayloom import datasets
from rayloom.datasets.causes import ASIA, SPRINKLER, Network
from rayloom.datasets.tagged_grammar import LEXICON, TAGS, WORDS


def probability_of(network: Network, name: str) -> float:
    """Return p(name = yes) by a loop over all joint states."""
    names, total = list(network), 0.0
    for values in itertools.product((0, 1), repeat=len(names)):
        state = dict(zip(names, values, strict=True))
        weight = 1.0
        for each, (parents, table) in network.items():
            yes = float(table[tuple(state[parent] for parent in parents)])
            weight *= yes if state[each] else 1 - yes
        total += weight * state[name]
    return total


@pytest.mark.parametrize(
    ("network", "name", "published"),
    [
        (SPRINKLER, "sprinkler", 0.3),
        (SPRINKLER, "wet_grass", 0.6471),
        # Lauritzen and Spiegelhalter (1988), table 2 and the text around it.
        (ASIA, "tuberculosis", 0.0104),
        (ASIA, "cancer", 0.055),
        (ASIA, "either", 0.0648),
        (ASIA, "xray", 0.1103),
        (ASIA, "dyspnoea", 0.4360),
    ],
)
def test_the_networks_have_their_published_marginals(network: Network, name: str, published: float) -> None:
    assert probability_of(network, name) == pytest.approx(published, abs=6e-5)


@pytest.mark.parametrize(("kind", "network"), [("sprinkler", SPRINKLER), ("asia", ASIA)])
def test_samples_have_the_frequencies_of_the_network(kind: str, network: Network) -> None:
    data = datasets.load({"kind": kind, "train_size": 40_000}, 0)
    assert set(data.spec) == set(network) and (len(data.train), len(data.test)) == (40_000, 2_000)
    for name, (parents, table) in network.items():
        values = data.train[name].double()
        expected = probability_of(network, name)
        assert abs(float(values.mean()) - expected) < 4 * math.sqrt(expected * (1 - expected) / 40_000) + 1e-9
        given = torch.ones(40_000, dtype=torch.bool)
        for parent in parents:
            given &= data.train[parent] == 1
        yes = float(table[(1,) * len(parents)])
        margin = 4 * math.sqrt(yes * (1 - yes) / max(1, int(given.sum()))) + 1e-9
        assert not given.any() or abs(float(values[given].mean()) - yes) < margin


def test_sentences_follow_the_grammar() -> None:
    data = datasets.load({"kind": "tagged-grammar", "train_size": 300}, 0)
    batch = data.train.rows(torch.arange(300))
    assert torch.equal(batch["token_length"], batch["tag_length"])
    follow = {("determiner", "verb"), ("determiner", "preposition"), ("adjective", "verb"), ("verb", "adjective"),
              ("preposition", "verb"), ("pronoun", "noun"), ("noun", "adjective"), ("verb", "noun")}  # fmt: skip
    for tokens, tags, length in zip(batch["token"].tolist(), batch["tag"].tolist(), batch["tag_length"], strict=True):
        names = [TAGS[tag] for tag in tags[: int(length)]]
        assert names.count("verb") == 1 and names[0] in ("determiner", "pronoun")
        assert not follow & set(itertools.pairwise(names))
        words = [WORDS[token] for token in tokens[: int(length)]]
        assert all(word in LEXICON[name] for word, name in zip(words, names, strict=True))


def test_most_words_of_the_grammar_are_ambiguous() -> None:
    ambiguous = [word for word in WORDS if sum(word in words for words in LEXICON.values()) > 1]
    assert len(ambiguous) >= len(WORDS) / 2


@pytest.mark.parametrize("kind", ["sprinkler", "asia", "tagged-grammar"])
def test_the_seed_decides(kind: str) -> None:
    sizes = {"train_size": 50, "validation_size": 5, "test_size": 5}
    one, again, other = (datasets.load({"kind": kind, **sizes}, seed) for seed in (1, 1, 2))
    assert one.digest == again.digest != other.digest
