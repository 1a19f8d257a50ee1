"""Sparse coding: Olshausen and Field (1996), with the shrinkage algorithm of Daubechies et al. (2004)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Gathered, Metric, Rule, Spec, Table
from rayloom_generative.equations.sparse_codes import iterative_shrinkage, objective
from rayloom_generative.fields import data_field, originals_above, size_of, unit_range

_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class SparseCodingConfig(AlgorithmConfig):
    """Settings of sparse coding."""

    atoms: Annotated[int, Ge(1)] = 100
    """Rows of the dictionary; more than dimensions for an overcomplete one."""
    penalty: Annotated[float, Gt(0)] = 0.5
    """Weight of the sum of absolute coefficients, for data whose numbers have a variance of 1 on average."""
    inference_steps: Annotated[int, Ge(1)] = 50
    """Steps of the shrinkage algorithm for each code."""
    learning_rate: Annotated[float, Gt(0)] = 0.5
    """Step size of the dictionary at the start, from where it falls in a line to 0 over the run."""


class SparseCoding(Algorithm):
    """A dictionary of unit vectors, few of which suffice for each example: min 1/2 |x - a D|^2 + penalty |a|_1.

    Olshausen and Field (1996), "Emergence of simple-cell receptive field properties by learning a sparse code for
    natural images", equations 2 to 4 with S(a) = |a|: codes are found with the dictionary held, then the dictionary
    descends the squared error, a step for each batch. Departures: codes by iterative shrinkage, which solves the convex
    problem, in place of conjugate gradients; atoms are scaled to length 1 instead of by the variances of their
    coefficients. Data are centred and scaled by one number from the training split.
    """

    Config = SparseCodingConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "objective": Metric(better="min", meaning="half the squared error plus the penalty"),
        "reconstruction": Metric(better="min", meaning="squared error, summed over the numbers of an example"),
        "active": Metric(meaning="coefficients that are not 0, of an example"),
    }
    mean: Tensor
    scale: Tensor

    def __init__(self, config: SparseCodingConfig, spec: Spec) -> None:
        """Build the dictionary [A, D] for the field `image` [C, H, W] or `point` [D]."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.shape, size = example.shape, size_of(example)
        atoms = torch.randn(config.atoms, size)
        self.dictionary = nn.Parameter(atoms / atoms.norm(dim=1, keepdim=True))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))

    def initialize(self, data: Table | None) -> None:
        """Take the mean and the common deviation of the training data."""
        assert data is not None
        chosen = torch.linspace(0, len(data) - 1, min(_ROWS, len(data)), dtype=torch.float64).long()
        rows = unit_range(data.rows(chosen)[self.field]).flatten(1)
        self.mean.copy_(rows.mean(0))
        self.scale.copy_((rows - rows.mean(0)).square().mean().sqrt().clamp(min=1e-6))

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        return [Rule("dictionary", self.gather, self.descend, (self.dictionary,))]

    def prepare(self, trajectory: Batch) -> Batch:
        """Add `centred` [B, D]."""
        data = unit_range(trajectory[self.field]).flatten(1)
        return {**trajectory, "centred": (data - self.mean) / self.scale}

    def encode(self, centred: Tensor) -> Tensor:
        """Return codes [B, A] of centred data [B, D]."""
        return iterative_shrinkage(centred, self.dictionary, self.config.penalty, self.config.inference_steps)

    def gather(self, batch: Batch) -> Gathered:
        """Return the negative gradient of the squared error by the dictionary, summed over the examples."""
        codes = self.encode(batch["centred"])
        return Gathered({"slope": codes.T @ (batch["centred"] - codes @ self.dictionary)}, self._measures(batch, codes))

    def descend(self, sums: dict[str, Tensor], count: float) -> None:
        """Move the atoms, and scale them back to length 1."""
        rate = self.config.learning_rate * (1 - self.progress.fraction)
        moved = self.dictionary + rate / count * sums["slope"]
        self.dictionary.copy_(moved / moved.norm(dim=1, keepdim=True).clamp(min=1e-12))

    def _measures(self, batch: Batch, codes: Tensor) -> dict[str, Tensor]:
        """Return objective, squared error (in units of the data) and number of coefficients, [B]."""
        error = (batch["centred"] - codes @ self.dictionary).square().sum(1) * self.scale.square()
        found = objective(batch["centred"], codes, self.dictionary, self.config.penalty)
        return {"objective": found, "reconstruction": error, "active": (codes != 0).sum(1).float()}

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return objective, squared error and number of coefficients, [B]."""
        return self._measures(batch, self.encode(batch["centred"]))

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return the atoms, and reconstructions of images."""
        atoms = self.dictionary.detach()
        if self.field != "image":
            return {"atoms": Figure("matrix", atoms.clone())}
        scaled = 0.5 + atoms / (2 * atoms.abs().amax(1, keepdim=True).clamp(min=1e-12))
        centred = batch["centred"][:32]
        rebuilt = self.encode(centred) @ self.dictionary
        originals, images = ((self.mean + self.scale * part).clamp(0, 1) for part in (centred, rebuilt))
        return {
            "atoms": Figure("images", scaled.reshape(-1, *self.shape), columns=10),
            "reconstructions": originals_above(originals.reshape(-1, *self.shape), images.reshape(-1, *self.shape)),
        }
