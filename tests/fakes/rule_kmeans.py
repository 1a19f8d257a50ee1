"""Lloyd's k-means as a rule: Lloyd (1982), "Least squares quantization in PCM"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Gathered, Metric, Rule, Spec, Table


@dataclass(frozen=True, kw_only=True)
class KMeansConfig(AlgorithmConfig):
    """Settings of k-means."""

    clusters: int = 25
    """Centres; the first rows of the training data are the first ones."""


class KMeans(Algorithm):
    """Centres [K, D], each the mean of the points that are nearest to it, once for every pass."""

    Config = KMeansConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar = {"distortion": Metric(better="min", unit="squared distance"), "shift": Metric()}
    initialized = 0

    def __init__(self, config: KMeansConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.register_buffer("centres", torch.zeros(config.clusters, *spec["point"].shape, dtype=torch.float64))

    def initialize(self, data: Table | None) -> None:
        assert data is not None
        type(self).initialized += 1
        self.centres.copy_(data.rows(torch.arange(self.config.clusters))["point"])

    def phases(self) -> list[Rule]:
        return [Rule("lloyd", self.gather, self.apply, (self.centres,), over="epoch")]

    def distances(self, batch: Batch) -> Tensor:
        """Return the squared distances [B, K]."""
        return (batch["point"].double()[:, None] - self.centres).square().sum(-1)

    def gather(self, batch: Batch) -> Gathered:
        distances = self.distances(batch)
        nearest = torch.nn.functional.one_hot(distances.argmin(1), self.config.clusters)
        sums = {"points": nearest.double().T @ batch["point"].double(), "members": nearest.sum(0)}
        return Gathered(sums, {"distortion": distances.amin(1)})

    def apply(self, sums: dict[str, Tensor], count: float) -> dict[str, Tensor]:
        assert float(sums["members"].sum()) == count
        members = sums["members"][:, None]
        moved = torch.where(members > 0, sums["points"] / members.clamp(min=1), self.centres)
        shift = (moved - self.centres).norm()
        self.centres.copy_(moved)
        return {"shift": shift}

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        return {"distortion": self.distances(batch).amin(1)}
