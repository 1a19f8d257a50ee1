"""Principal components as a rule: the eigenvectors of the covariance that a pass has summed up."""

from __future__ import annotations

import torch
from torch import Tensor

from rayloom.contract import Algorithm, Batch, Gathered, Rule, Spec


class PCA(Algorithm):
    """Mean [D], components [D, D] in rows and their variances [D], largest first."""

    sources = frozenset({"dataset"})

    def __init__(self, config: object, spec: Spec) -> None:
        super().__init__(config, spec)
        (size,) = spec["point"].shape
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("components", torch.eye(size, dtype=torch.float64))
        self.register_buffer("variances", torch.ones(size, dtype=torch.float64))

    def phases(self) -> list[Rule]:
        changes = (self.mean, self.components, self.variances)
        return [Rule("eigenvectors", self.gather, self.apply, changes, over="epoch")]

    def gather(self, batch: Batch) -> Gathered:
        points = batch["point"].double()
        return Gathered({"first": points.sum(0), "second": points.T @ points})

    def apply(self, sums: dict[str, Tensor], count: float) -> None:
        mean = sums["first"] / count
        covariance = (sums["second"] - count * torch.outer(mean, mean)) / (count - 1)
        values, vectors = torch.linalg.eigh(covariance)
        self.mean.copy_(mean)
        self.variances.copy_(values.flip(0))
        self.components.copy_(vectors.flip(1).T)
