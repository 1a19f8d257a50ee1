"""Restricted Boltzmann machine by contrastive divergence: Hinton (2002)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from rayloom.contract import Algorithm, Batch, Figure, Gathered, Metric, Rule, Spec, Table
from rayloom_generative.energy.binary_data import Binarize, bits, mean_bits
from rayloom_generative.energy.partition import PartitionConfig, check_partition, find_log_partition, random_bits
from rayloom_generative.energy.pictures import chains_over_time, filters
from rayloom_generative.evaluation.annealed_importance_sampling import base_biases
from rayloom_generative.fields import data_field, drawn, size_of
from rayloom_generative.networks.restricted_boltzmann import RestrictedBoltzmannMachine

Size = Annotated[int, Ge(1)]
_SHOWN_CHAINS, _SHOWN_STATES, _SHOWN_SWEEPS = 8, 8, 50


@dataclass(frozen=True, kw_only=True)
class RBMConfig(PartitionConfig):
    """Settings of the restricted Boltzmann machine."""

    hidden_units: Size = 128
    """Hidden bits."""
    gibbs_steps: Size = 1
    """Steps up and down of a chain in each update, the k of CD-k."""
    learning_rate: Annotated[float, Gt(0)] = 0.05
    """Step size at the start."""
    final_learning_rate: Annotated[float, Ge(0)] | None = None
    """Step size at the end, to which it falls in a line over the run; null: constant."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Share of the last change that the next one repeats."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """L2 penalty on the weights, not on the biases."""
    binarize: Binarize = "dynamic"
    """dynamic draws each pixel's bit anew whenever an image is read, with the grey value as its probability; threshold
    compares it with one half."""
    sample_sweeps: Size = 1000
    """Gibbs sweeps from random bits to a sample."""


class RBM(Algorithm):
    """Two layers of bits that climb the likelihood by the difference of two averages: over the data and over a chain.

    The gradient of log p(v) by a parameter is the mean of -dE/dparameter over the data minus that over the model. CD-k
    estimates the latter by k Gibbs steps that start at the data, which is biased. Reference: Hinton (2002), "Training
    products of experts by minimizing contrastive divergence"; practice as Hinton (2012): visible biases start at the
    log-odds of the data, and hidden units count by their probabilities. Departure: the chain's visible bits are drawn
    in every step, also the last, so that its statistics are those of the sampler. It is a rule with a step size,
    momentum and decay of its own, so that `learner.optimizer` has no say.
    """

    Config: ClassVar[type[RBMConfig]] = RBMConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "reconstruction": Metric(better="min", meaning="squared error of one step up and down, summed over the bits"),
        "free_energy": Metric(unit="nats", meaning="-log p(v) - log Z of the data"),
        "free_energy_gap": Metric(unit="nats", meaning="free energy of the data minus that of the chains"),
        "nll_*_bits": Metric(better="min", unit="nats", meaning="-log p(v), by the method and of the bits in its name"),
        "log_partition_*": Metric(unit="nats", meaning="log Z, and the standard error of its estimate"),
        "ais_effective_chains": Metric(better="max", meaning="Kish's effective number of annealed chains"),
    }
    base: Tensor

    def __init__(self, config: RBMConfig, spec: Spec) -> None:
        """Build the machine for the field `image` [C, H, W] or `point` [D], with values in 0..1."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.shape, size = example.shape, size_of(example)
        check_partition(config, size, config.hidden_units)
        self.machine = RestrictedBoltzmannMachine(size, config.hidden_units)
        self.register_buffer("base", torch.zeros(size))

    def initialize(self, data: Table | None) -> None:
        """Set the visible biases to the log-odds of the data."""
        assert data is not None
        self.base.copy_(base_biases(mean_bits(data, self.field, self.config.binarize)))
        self.machine.visible_bias.copy_(self.base)

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        return [Rule("contrast", self.gather, self.change, self.machine.state_tensors())]

    def prepare(self, trajectory: Batch) -> Batch:
        """Add `bits` [B, D]."""
        return {**trajectory, "bits": bits(trajectory[self.field], self.config.binarize, self.noise)}

    def gather(self, batch: Batch) -> Gathered:
        """Return the sums of the statistics of the data and of chains that start there."""
        dreamt, _ = self.machine.gibbs(batch["bits"], self.config.gibbs_steps, self.noise.bernoulli)
        return self._contrast(batch["bits"], dreamt)

    def _contrast(self, data: Tensor, dreamt: Tensor) -> Gathered:
        """Return the sums over data [B, D] and over the model's states [M, D], and M."""
        sums = {f"data_{name}": value for name, value in self.machine.statistics(data).items()}
        sums |= {f"model_{name}": value for name, value in self.machine.statistics(dreamt).items()}
        sums["states"] = torch.tensor(float(len(dreamt)), device=data.device)
        gap = self.machine.free_energy(data) - self.machine.free_energy(dreamt).mean()
        return Gathered(sums, {"reconstruction": self._reconstruction(data), "free_energy_gap": gap})

    def change(self, sums: dict[str, Tensor], count: float) -> None:
        """Climb by the difference of the averages."""
        names = [name for name, _ in self.machine.named_parameters()]
        gradient = {name: sums[f"data_{name}"] / count - sums[f"model_{name}"] / sums["states"] for name in names}
        config, rate = self.config, self.config.learning_rate
        if config.final_learning_rate is not None:
            rate += (config.final_learning_rate - rate) * self.progress.fraction
        self.machine.climb(gradient, rate, config.momentum, config.weight_decay)

    def _reconstruction(self, data: Tensor) -> Tensor:
        """Return the squared error [B] of the probabilities one step up and down."""
        return (self.machine.down(self.machine.up(data)) - data).square().sum(1)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the reconstruction's error and the free energy, [B]."""
        free = self.machine.free_energy(batch["bits"])
        return {"reconstruction": self._reconstruction(batch["bits"]), "free_energy": free, "_free_energy": free}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the mean of -log p(v), with log Z found once for the whole split."""
        log_partition, metrics = find_log_partition(self.config, self.machine, self.base)
        if log_partition is None:
            return {}, {}
        name = f"nll_{self.config.partition}_{self.config.binarize}_bits"
        return {**metrics, name: outputs["_free_energy"].double().mean() + log_partition}, {}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return filters and, of images, reconstructions and chains that start at held-out examples."""
        shown = {"filters": filters(self.machine.weight, self.shape)}
        if self.field == "image":
            visible = batch["bits"][:_SHOWN_CHAINS]
            states = [visible]
            for _ in range(_SHOWN_STATES - 1):
                visible, probability = self.machine.gibbs(visible, _SHOWN_SWEEPS, torch.bernoulli)
                states.append(probability)
            shown["gibbs_chains"] = chains_over_time(states, self.shape)
        return shown

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw bits by `sample_sweeps` Gibbs sweeps from random ones; of images show the last probabilities."""
        draw = partial(random_bits, generator=generator)
        with torch.no_grad():
            start = draw(torch.sigmoid(self.base).expand(count, -1))
            visible, probability = self.machine.gibbs(start, self.config.sample_sweeps, draw)
        shown = probability if self.field == "image" else visible
        return drawn(shown.reshape(-1, *self.shape))
