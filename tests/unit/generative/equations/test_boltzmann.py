"""Energies and partition functions against sums over all states, written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rayloom_generative.equations.boltzmann import (
    all_states,
    energy,
    free_energy,
    restricted_log_partition,
    state_index,
)


def machine(visible: int, hidden: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((visible, hidden), (visible,), (hidden,))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def joint(visible: tuple[int, ...], hidden: tuple[int, ...], parts: tuple[torch.Tensor, ...]) -> float:
    weight, a, b = (part.numpy() for part in parts)
    v, h = np.array(visible), np.array(hidden)
    return float(np.exp(v @ weight @ h + v @ a + h @ b))


def bits(units: int) -> list[tuple[int, ...]]:
    return list(itertools.product((0, 1), repeat=units))


def test_states_come_in_binary_order() -> None:
    assert [tuple(state) for state in all_states(3).int().tolist()] == bits(3)
    assert torch.equal(state_index(all_states(5)), torch.arange(32))


def test_free_energy_sums_over_the_hidden_units() -> None:
    parts = machine(4, 3)
    expected = [-math.log(sum(joint(visible, hidden, parts) for hidden in bits(3))) for visible in bits(4)]
    assert free_energy(all_states(4).double(), *parts).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", [(4, 3), (3, 5)])
def test_the_partition_function_is_enumerated_over_the_smaller_side(sizes: tuple[int, int]) -> None:
    parts = machine(*sizes)
    expected = math.log(sum(joint(v, h, parts) for v in bits(sizes[0]) for h in bits(sizes[1])))
    assert float(restricted_log_partition(*parts)) == pytest.approx(expected, rel=1e-12)


def test_energy_counts_each_pair_once() -> None:
    weight = torch.tensor([[0.0, 2.0, -1.0], [2.0, 0.0, 0.5], [-1.0, 0.5, 0.0]])
    bias = torch.tensor([0.1, 0.2, 0.3])
    found = energy(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]), weight, bias)
    assert found.tolist() == pytest.approx([-(2.0 + 0.3), -(2.0 - 1.0 + 0.5 + 0.6)])
