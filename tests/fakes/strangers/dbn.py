"""Deep belief network: greedy layers of restricted Boltzmann machines, then fine-tuning (Hinton et al. 2006).

The machines learn by one step of contrastive divergence (Hinton 2002), each on the probabilities of the one below it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Gathered, Loss, Metric, Phase, Progress, Rule, Spec


class Machine(nn.Module):
    """A restricted Boltzmann machine of V visible and H hidden units."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(hidden, visible))
        self.visible = nn.Parameter(torch.zeros(visible))
        self.hidden = nn.Parameter(torch.zeros(hidden))

    def up(self, visible: Tensor) -> Tensor:
        """Return the probabilities [B, H] of the hidden units."""
        return torch.sigmoid(visible @ self.weight.T + self.hidden)

    def down(self, hidden: Tensor) -> Tensor:
        """Return the probabilities [B, V] of the visible units."""
        return torch.sigmoid(hidden @ self.weight + self.visible)


class DBN(Algorithm):
    """Classifies images by a stack of machines; its layers take turns over the first part of the run."""

    sources = frozenset({"dataset"})
    metrics: ClassVar = {
        "accuracy": Metric(better="max"),
        "reconstruction": Metric(better="min", meaning="mean squared error of a pixel or unit"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        hidden_sizes: tuple[int, ...] = (64, 64)
        """Hidden units of each machine."""
        pretraining: float = 0.6
        """Share of the run in which the machines learn, in equal parts one after the other."""
        machine_rate: float = 0.2
        """Learning rate of contrastive divergence."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        sizes = (math.prod(spec["image"].shape), *config.hidden_sizes)
        self.machines = nn.ModuleList(Machine(*pair) for pair in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], spec["label"].categories)

    def turn(self, progress: Progress) -> int:
        """Return whose turn it is: a machine's number, or for fine-tuning how many machines there are."""
        pretraining, machines = self.config.pretraining, len(self.machines)
        return machines if progress.fraction >= pretraining else int(progress.fraction / pretraining * machines)

    def phases(self) -> list[Phase | Rule]:
        steps: list[Phase | Rule] = []
        for number, machine in enumerate(self.machines):
            gather, apply = partial(self.gather, number), partial(self.apply_to, machine)
            when = partial(self.is_turn, number)
            steps.append(Rule(f"machine_{number}", gather, apply, tuple(machine.parameters()), when=when))
        tuned = [parameter for machine in self.machines for parameter in (machine.weight, machine.hidden)]
        tuned.extend(self.head.parameters())
        return [*steps, Phase("fine_tuning", self.loss, tuple(tuned), when=partial(self.is_turn, len(self.machines)))]

    def is_turn(self, number: int, progress: Progress) -> bool:
        return self.turn(progress) == number

    def prepare(self, batch: Batch) -> Batch:
        return {**batch, "image": batch["image"].flatten(1) / 255}

    def features(self, batch: Batch, depth: int) -> Tensor:
        """Return the probabilities [B, H] of the units of layer `depth`; layer 0 are the pixels."""
        features = batch["image"]
        for machine in self.machines[:depth]:
            features = machine.up(features)
        return features

    def gather(self, number: int, batch: Batch) -> Gathered:
        """Return the statistics of the data minus those of its reconstructions (CD-1)."""
        machine, visible = self.machines[number], self.features(batch, number)
        hidden = machine.up(visible)
        dreamt = machine.down(self.noise.bernoulli(hidden))
        recalled = machine.up(dreamt)
        sums = {
            "weight": hidden.T @ visible - recalled.T @ dreamt,
            "visible": (visible - dreamt).sum(0),
            "hidden": (hidden - recalled).sum(0),
        }
        return Gathered(sums, {"reconstruction": (visible - dreamt).square().mean(1)})

    def apply_to(self, machine: Machine, sums: dict[str, Tensor], count: float) -> None:
        for name, parameter in machine.named_parameters():
            parameter.add_(sums[name], alpha=self.config.machine_rate / count)

    def logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.head(self.features(batch, len(self.machines)))
        return logits

    def loss(self, batch: Batch) -> Loss:
        return Loss(cross_entropy(self.logits(batch), batch["label"], reduction="none"))

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        down = self.features(batch, len(self.machines))
        for machine in reversed(self.machines):
            down = machine.down(down)
        error = (down - batch["image"]).square().mean(1)
        correct = self.logits(batch).argmax(1) == batch["label"]
        return {"accuracy": correct.float(), "reconstruction": error}
