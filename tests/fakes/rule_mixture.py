"""Expectation maximisation for a mixture of normal distributions: Dempster, Laird and Rubin (1977)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Gathered, Rule, Spec, Table


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(AlgorithmConfig):
    """Settings of the mixture."""

    parts: int = 3
    """Normal distributions; the first rows of the training data are their first means."""
    ridge: float = 1e-6
    """Added to the diagonal of every covariance."""


class Mixture(Algorithm):
    """Weights [K], means [K, D] and covariances [K, D, D]."""

    Config = MixtureConfig
    sources = frozenset({"dataset"})

    def __init__(self, config: MixtureConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        (size,), parts = spec["point"].shape, config.parts
        self.register_buffer("weights", torch.full((parts,), 1 / parts, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(parts, size, dtype=torch.float64))
        self.register_buffer("covariances", torch.eye(size, dtype=torch.float64).repeat(parts, 1, 1))

    def initialize(self, data: Table | None) -> None:
        assert data is not None
        self.means.copy_(data.rows(torch.arange(self.config.parts))["point"])

    def phases(self) -> list[Rule]:
        changes = (self.weights, self.means, self.covariances)
        return [Rule("maximise", self.expect, self.maximise, changes, over="epoch")]

    def _joint(self, points: Tensor) -> Tensor:
        """Return log p(x, k) [B, K]."""
        factors = torch.linalg.cholesky(self.covariances)
        centred = (points[:, None] - self.means).permute(1, 2, 0)
        whitened = torch.linalg.solve_triangular(factors, centred, upper=False).square().sum(1).T
        log_determinants = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
        return self.weights.log() - 0.5 * (points.shape[1] * math.log(2 * math.pi) + log_determinants + whitened)

    def expect(self, batch: Batch) -> Gathered:
        points = batch["point"].double()
        joint = self._joint(points)
        share = joint.softmax(1)
        sums = {
            "share": share.sum(0),
            "first": share.T @ points,
            "second": torch.einsum("bk,bi,bj->kij", share, points, points),
        }
        return Gathered(sums, {"log_likelihood": joint.logsumexp(1)})

    def maximise(self, sums: dict[str, Tensor], count: float) -> None:
        share = sums["share"]
        means = sums["first"] / share[:, None]
        covariances = sums["second"] / share[:, None, None] - means[:, :, None] * means[:, None, :]
        self.weights.copy_(share / count)
        self.means.copy_(means)
        self.covariances.copy_(covariances + self.config.ridge * torch.eye(means.shape[1], dtype=torch.float64))
