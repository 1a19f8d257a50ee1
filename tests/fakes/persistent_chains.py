"""An algorithm whose learners each keep chains of their own, as persistent contrastive divergence does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Phase, Spec, Table


class Chains(Algorithm):
    """Moves its mean towards the data and away from eight chains, which diffuse around it."""

    per_learner = frozenset({"walk.chains"})
    sources = frozenset({"dataset"})

    def __init__(self, config: AlgorithmConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.mean = nn.Parameter(torch.zeros(2))
        self.walk = nn.Module()
        self.walk.register_buffer("chains", torch.zeros(8, 2))
        self.register_buffer("scale", torch.ones(2))

    def initialize(self, data: Table | None) -> None:
        assert data is not None and not torch.is_grad_enabled()
        points = torch.cat([batch["point"] for batch in data.batches(100)])
        self.scale.copy_(points.std(0))
        self.walk.chains.copy_(points[:8])

    def phases(self) -> list[Phase]:
        return [Phase("means", self.loss, (self.mean,), compilable=False)]

    def loss(self, batch: Batch) -> Loss:
        chains = self.walk.chains
        with torch.no_grad():
            noise = self.noise.normal(len(batch["point"]), 2)
            chains.mul_(0.9).add_(noise[: len(chains)] * self.scale)
        away = (self.mean - chains.mean(0)).square().sum()
        return Loss((self.mean - batch["point"]).square().sum(1) - 0.1 * away)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        return {"distance": (self.mean - batch["point"]).square().sum(1)}
