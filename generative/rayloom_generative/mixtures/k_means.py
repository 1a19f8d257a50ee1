"""k-means: Lloyd (1982), "Least squares quantization in PCM"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Gathered, Metric, Rule, Spec, Table
from rayloom_generative.equations.k_means import plus_plus, squared_distances
from rayloom_generative.fields import data_field, size_of
from rayloom_generative.mixtures.vectors import some_rows, vectors

_SEEDING_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class KMeansConfig(AlgorithmConfig):
    """Settings of k-means."""

    clusters: Annotated[int, Ge(1)] = 10
    """Centres."""
    start: Literal["plus_plus", "first_rows"] = "plus_plus"
    """The first centres: far apart (Arthur and Vassilvitskii 2007), or the first rows of the training data."""


class KMeans(Algorithm):
    """Centres, each of which moves to the mean of the points that are nearest to it, once for every pass over the data.

    Departures: a centre without points stays where it is. With labels, the purity tells how far clusters are classes;
    they are never learnt from.
    """

    Config = KMeansConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "distortion": Metric(better="min", meaning="squared distance from the nearest centre"),
        "shift": Metric(better="min", meaning="how far the centres have moved, as one vector"),
        "purity": Metric(better="max", meaning="share of the examples that have their cluster's commonest label"),
    }
    centres: Tensor

    def __init__(self, config: KMeansConfig, spec: Spec) -> None:
        """Build centres [K, D] for the field `image` [C, H, W] or `point` [D]."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.shape = example.shape
        self.register_buffer("centres", torch.zeros(config.clusters, size_of(example), dtype=torch.float64))

    def initialize(self, data: Table | None) -> None:
        """Choose the first centres."""
        assert data is not None
        count = self.config.clusters
        rows = some_rows(data, self.field, _SEEDING_ROWS, count)
        first = self.config.start == "first_rows"
        self.centres.copy_(vectors(data.rows(torch.arange(count))[self.field]) if first else plus_plus(rows, count))

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        return [Rule("lloyd", self.gather, self.move, (self.centres,), over="epoch")]

    def gather(self, batch: Batch) -> Gathered:
        """Return how many points each centre has, and their sum."""
        points = vectors(batch[self.field])
        distances = squared_distances(points, self.centres)
        nearest = F.one_hot(distances.argmin(1), len(self.centres)).double()
        return Gathered({"points": nearest.T @ points, "members": nearest.sum(0)}, {"distortion": distances.amin(1)})

    def move(self, sums: dict[str, Tensor], count: float) -> dict[str, Tensor]:
        """Move the centres to the means."""
        members = sums["members"][:, None]
        moved = torch.where(members > 0, sums["points"] / members.clamp(min=1), self.centres)
        shift = (moved - self.centres).norm()
        self.centres.copy_(moved)
        return {"shift": shift}

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the squared distance from the nearest centre [B]."""
        nearest = squared_distances(vectors(batch[self.field]), self.centres).min(1)
        found = {"distortion": nearest.values}
        if "label" in batch:
            found |= {"_cluster": nearest.indices, "_label": batch["label"]}
        return found

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the purity and the table of clusters and labels, where there are labels."""
        if "_label" not in outputs:
            return {}, {}
        labels = self.spec["label"]
        pairs = outputs["_cluster"] * labels.categories + outputs["_label"]
        table = torch.bincount(pairs, minlength=len(self.centres) * labels.categories)
        table = table.reshape(len(self.centres), -1).double()
        purity = table.amax(1).sum() / table.sum()
        return {"purity": purity}, {"clusters_and_labels": Figure("matrix", table, column_labels=labels.labels)}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return the centres of images, or points of the plane with their clusters."""
        if self.field == "image":
            return {"centres": Figure("images", self.centres.float().clamp(0, 1).reshape(-1, *self.shape))}
        if self.shape != (2,):
            return {"centres": Figure("matrix", self.centres.float())}
        points = batch[self.field][:2000]
        clusters = squared_distances(vectors(points), self.centres).argmin(1)
        return {"clusters": Figure("points", points, groups=clusters)}
