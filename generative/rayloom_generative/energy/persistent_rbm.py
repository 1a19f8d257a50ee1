"""Restricted Boltzmann machine by persistent contrastive divergence: Tieleman (2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rayloom.contract import Batch, Gathered, Rule, Spec, Table
from rayloom_generative.energy.rbm import RBM, RBMConfig, Size
from rayloom_generative.networks.restricted_boltzmann import Draw


@dataclass(frozen=True, kw_only=True)
class PersistentRBMConfig(RBMConfig):
    """Settings of the restricted Boltzmann machine with persistent chains."""

    chains: Size = 64
    """Chains over all learners. K learners repeat one learner where it is a multiple of the batch size."""


class PersistentRBM(RBM):
    """The machine whose chains never start anew: they go on from update to update, so that they forget the data.

    Reference: Tieleman (2008), "Training restricted Boltzmann machines using approximations to the likelihood
    gradient"; a step size that falls (`final_learning_rate`) lets the chains keep up. Departure: the chains move once
    before each update, whatever the batch. Each learner has its part of them.
    """

    Config: ClassVar[type[PersistentRBMConfig]] = PersistentRBMConfig
    per_learner = frozenset({"chains"})
    chains: Tensor

    def __init__(self, config: PersistentRBMConfig, spec: Spec) -> None:
        """Build the machine and its chains [chains, D]."""
        super().__init__(config, spec)
        self.register_buffer("chains", torch.zeros(config.chains, len(self.base)))
        self._moved = self.chains

    def initialize(self, data: Table | None) -> None:
        """Set biases to the log-odds of the data, and the chains to independent bits of those odds."""
        super().initialize(data)
        self.chains.copy_(torch.bernoulli(torch.sigmoid(self.base).expand_as(self.chains)))

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        return [Rule("contrast", self.gather, self.change, (*self.machine.state_tensors(), self.chains))]

    def gather(self, batch: Batch) -> Gathered:
        """Return the sums of the statistics of the data and of the chains, a few steps on."""
        draw = self._chain_bits(len(batch["bits"]))
        self._moved, _ = self.machine.gibbs(self.chains, self.config.gibbs_steps, draw)
        return self._contrast(batch["bits"], self._moved)

    def _chain_bits(self, rows: int) -> Draw:
        """Return what draws bits for the chains, by noise of the `rows` examples: a part of them for each example."""
        each = -(-len(self.chains) // rows)

        def draw(probability: Tensor) -> Tensor:
            uniform = self.noise.uniform(rows, each, probability.shape[1]).flatten(0, 1)
            return (uniform[: len(probability)] < probability).to(probability.dtype)

        return draw

    def change(self, sums: dict[str, Tensor], count: float) -> None:
        """Climb, and keep where `gather` has led the chains."""
        super().change(sums, count)
        self.chains.copy_(self._moved)
