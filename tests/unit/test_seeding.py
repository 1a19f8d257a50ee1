"""The seed tree: golden values that no release may change, and independence of its leaves."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from rayloom.seeding import derive_seed, numpy_generator, seed_process, torch_generator


@pytest.mark.parametrize(
    ("seed", "path", "text"),
    [
        (0, (), "(0,)"),
        (0, ("rollout", 1, "environment", 3), "(0, 'rollout', 1, 'environment', 3)"),
        (42, ("learner",), "(42, 'learner')"),
        (42, ("größer",), "(42, 'größer')"),
    ],
)
def test_a_seed_is_the_start_of_a_sha256(seed: int, path: tuple[str | int, ...], text: str) -> None:
    start = hashlib.sha256(text.encode()).hexdigest()[:16]
    little_endian = int("".join(start[i : i + 2] for i in range(14, -2, -2)), 16)
    assert derive_seed(seed, *path) == little_endian // 2


@pytest.mark.parametrize(
    ("seed", "path", "value"),
    [
        (0, (), 3582888934675442504),
        (1, (), 4919923341562865044),
        (0, ("rollout", 1, "environment", 3), 6488334449475785531),
        (42, ("learner",), 6264112163613498001),
    ],
)
def test_seeds_are_golden(seed: int, path: tuple[str | int, ...], value: int) -> None:
    assert derive_seed(seed, *path) == value


def test_streams_are_golden() -> None:
    drawn = torch.randint(0, 10**9, (3,), generator=torch_generator(0, "golden"))
    assert drawn.tolist() == [188833164, 707558081, 43827896]
    assert numpy_generator(0, "golden").integers(0, 10**9, 3).tolist() == [277530867, 941038473, 57319854]


def test_leaves_differ_and_lie_in_range() -> None:
    paths: list[tuple[str | int, ...]] = [
        (role, worker, "environment", index)
        for role in ("rollout", "evaluate")
        for worker in range(20)
        for index in range(20)
    ]
    paths += [(1, 2), (12,), ("1", 2), ("1", "2"), ("12",), (1, "2"), ("a", "b"), ("ab",), ("a, b",), ()]
    seeds = [derive_seed(root, *path) for root in (0, 1, 2**63, 10**30) for path in paths]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # the whole range is used
    # Each of the 63 bits is a fair coin: 3,240 throws, six standard deviations.
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds]).mean(axis=0)
    assert np.all(np.abs(bits - 0.5) < 6 * 0.5 / len(seeds) ** 0.5)


def test_neighbouring_leaves_give_uncorrelated_streams() -> None:
    streams = np.stack([numpy_generator(0, "rollout", worker).standard_normal(10_000) for worker in range(8)])
    correlation = np.corrcoef(streams) - np.eye(8)
    assert np.abs(correlation).max() < 6 / 100  # six standard errors of 1 / sqrt(10,000)
    torch_streams = torch.stack([torch.randn(10_000, generator=torch_generator(0, "a", i)) for i in range(8)]).numpy()
    assert np.abs(np.corrcoef(torch_streams) - np.eye(8)).max() < 6 / 100


def test_generators_repeat_and_leave_the_global_ones_alone() -> None:
    seed_process(3)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    seed_process(3)
    first = torch.rand(4, generator=torch_generator(5, "x")), numpy_generator(5, "x").random(4)
    second = torch.rand(4, generator=torch_generator(5, "x")), numpy_generator(5, "x").random(4)
    assert torch.equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def draws() -> tuple[float, float, float]:
    """Return a number of each global generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(1, dtype=torch.float64))


def test_seeding_a_process_fixes_all_three_global_generators_apart() -> None:
    seed_process(11, "learner", 0)
    first = draws()
    draws()
    seed_process(11, "learner", 0)
    assert draws() == first
    for other in ((11, "learner", 1), (12, "learner", 0)):
        seed_process(*other)
        assert all(mine != theirs for mine, theirs in zip(draws(), first, strict=True))
    # Python and NumPy share the Mersenne twister: equal seeds would give equal streams.
    assert len(set(first)) == 3
