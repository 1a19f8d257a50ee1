"""Linear chains against a search over all label sequences."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rayloom_generative.equations.linear_chain import label_marginals, log_partition, sequence_score, viterbi

LABELS, STEPS = 3, 5
LENGTHS = torch.tensor([5, 1, 3, 2])


def problem(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    emission = torch.randn(len(LENGTHS), STEPS, LABELS, generator=generator, dtype=torch.float64)
    return emission, torch.randn(LABELS, LABELS, generator=generator, dtype=torch.float64)


def search(emission: Tensor, transition: Tensor, length: int) -> dict[tuple[int, ...], float]:
    """Return the score of every label sequence of one example [T, K]."""
    found = {}
    for labels in itertools.product(range(LABELS), repeat=length):
        score = sum(float(emission[place, label]) for place, label in enumerate(labels))
        found[labels] = score + sum(float(transition[pair]) for pair in itertools.pairwise(labels))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_all_quantities_equal_a_search(seed: int) -> None:
    emission, transition = problem(seed)
    partition = log_partition(emission, transition, LENGTHS)
    best, score = viterbi(emission, transition, LENGTHS)
    marginals = label_marginals(emission, transition, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        scores = search(emission[row], transition, length)
        values = torch.tensor(list(scores.values()), dtype=torch.float64)
        torch.testing.assert_close(partition[row], values.logsumexp(0), rtol=0, atol=1e-10)
        winner = max(scores, key=scores.__getitem__)
        assert tuple(best[row].tolist()) == winner + (0,) * (STEPS - length)
        assert float(score[row]) == pytest.approx(scores[winner], abs=1e-10)
        expected = torch.zeros(STEPS, LABELS, dtype=torch.float64)
        for labels, probability in zip(scores, values.softmax(0), strict=True):
            for place, label in enumerate(labels):
                expected[place, label] += probability
        torch.testing.assert_close(marginals[row], expected, rtol=0, atol=1e-10)


def test_the_score_is_that_of_the_search() -> None:
    emission, transition = problem(4)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(LABELS, (len(LENGTHS), STEPS), generator=generator)
    found = sequence_score(emission, transition, labels, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        scores = search(emission[row], transition, length)
        assert float(found[row]) == pytest.approx(scores[tuple(labels[row, :length].tolist())], abs=1e-12)


def test_nothing_behind_the_end_plays_a_part() -> None:
    emission, transition = problem(5)
    other = emission.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        other[row, length:] = 1e6
    for work in (log_partition, lambda *given: viterbi(*given)[0]):
        torch.testing.assert_close(work(other, transition, LENGTHS), work(emission, transition, LENGTHS))
