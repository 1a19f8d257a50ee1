"""Padding influences no system of sequences, trees and graphs, in value or gradient, whatever stands there.

Of every case of the chapters, in float64: a batch is cut into its rows, each padded to its own length only, and the
padding of the whole batch is filled with what would be seen at once. Losses per token and gradients stay the same.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cases import case
from rayloom import datasets
from rayloom.contract import Algorithm, Batch, Phase, Spec
from systems import sequences, structures

NAMES = sorted({**sequences.TREES, **structures.TREES})
ROWS = 6


def wide(batch: Batch) -> Batch:
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def filled(batch: Batch, spec: Spec) -> Batch:
    """Return the batch two places longer, with NaN, or the last category, or a 1 in all padding."""
    found = dict(batch)
    for name, field in spec.items():
        if not field.ragged:
            continue
        short = batch[name]
        number = float("nan") if short.is_floating_point() else (field.num_values or 2) - 1  # type: ignore[operator]
        longer = short.new_full((len(short), short.shape[1] + 2, *short.shape[2:]), number)
        for row, length in enumerate(batch[f"{name}_length"].tolist()):
            longer[row, :length] = short[row, :length]
        found[name] = longer
    return found


def judged(phase: Phase, batches: list[Batch]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the losses of all examples, how much they count for, and the gradient of their mean."""
    losses = [phase.loss(batch) for batch in batches]
    each = torch.cat([loss.per_example for loss in losses])
    count = torch.cat(
        [torch.ones_like(loss.per_example) if loss.count is None else loss.count.double() for loss in losses]
    )
    gradients = torch.autograd.grad(each.sum() / count.sum(), phase.parameters, allow_unused=True)
    return each.detach(), count, [torch.zeros(()) if gradient is None else gradient for gradient in gradients]


@pytest.fixture(params=NAMES)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Algorithm, Batch]:
    config = case(request.param, output=str(tmp_path))
    data = datasets.load(config.source.dataset, 0)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    algorithm = config.algorithm_class()(config.algorithm, data.spec)
    algorithm.initialize(data.train)
    batch = data.train.rows(torch.arange(ROWS))
    return algorithm.double().eval(), wide(batch)


def test_padding_and_company_change_nothing(system: tuple[Algorithm, Batch]) -> None:
    algorithm, batch = system
    lengths = [name for name in batch if name.endswith("_length")]
    rows = [
        {
            name: value[row : row + 1, : int(batch[f"{name}_length"][row])]
            if f"{name}_length" in batch
            else value[row : row + 1]
            for name, value in batch.items()
        }
        for row in range(ROWS)
    ]
    for phase in algorithm.phases():
        assert isinstance(phase, Phase)
        whole = judged(phase, [batch])
        cuts = [rows]
        if lengths:
            cuts.append([filled(batch, algorithm.spec)])
        for batches in cuts:
            found = judged(phase, batches)
            for first, second in itertools.zip_longest((*whole[:2], *whole[2]), (*found[:2], *found[2])):
                torch.testing.assert_close(second, first, rtol=1e-9, atol=1e-11)
