"""Boltzmann machine with connections among all units: Ackley, Hinton and Sejnowski (1985)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Gathered, Metric, Rule, Spec, Table, UserError
from rayloom_generative.energy.binary_data import bits, mean_bits
from rayloom_generative.equations.boltzmann import ENUMERABLE, all_states, energy, state_index
from rayloom_generative.fields import data_field, drawn, size_of

Size = Annotated[int, Ge(1)]
_CHECKED_SWEEPS = 60
_SHOWN_STATES = 256


@dataclass(frozen=True, kw_only=True)
class BoltzmannMachineConfig(AlgorithmConfig):
    """Settings of the Boltzmann machine."""

    hidden_units: Annotated[int, Ge(0)] = 0
    """Hidden bits beside the visible ones, which are those of the data; at most 20 in all."""
    chains: Size = 100
    """Persistent chains of the model over all learners."""
    sweeps: Size = 1
    """Gibbs sweeps of the chains in each update."""
    clamped_sweeps: Size = 10
    """Gibbs sweeps of the hidden units from random bits, with the data held."""
    learning_rate: Annotated[float, Gt(0)] = 0.1
    """Step size at the start, from where it falls in a line to 0 over the run."""
    sample_sweeps: Size = 100
    """Gibbs sweeps from random bits to a sample."""
    checked_chains: Size = 5_000
    """Chains of an evaluation, of which 60 states each are compared with the enumerated ones."""


class BoltzmannMachine(Algorithm):
    """Bits s with p(s) = exp(1/2 s' W s + b' s) / Z, W symmetric with a diagonal of zeros, learnt by Gibbs sampling.

    dlog p / dW_ij = <s_i s_j> with the data held minus <s_i s_j> of the free-running machine (Ackley, Hinton and
    Sejnowski 1985, "A learning algorithm for Boltzmann machines"). A sweep visits one unit after the other and turns it
    on with probability sigmoid(sum_j w_ij s_j + b_i), the temperature being 1. Departures: persistent chains in place
    of simulated annealing for each average. All states are enumerated in evaluations, so that the likelihood is exact.
    """

    Config = BoltzmannMachineConfig
    sources = frozenset({"dataset"})
    per_learner = frozenset({"chains"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "nll_exact": Metric(better="min", unit="nats", meaning="-log p of the visible bits, by enumeration"),
        "total_variation": Metric(better="min", meaning="between the model's visible states and the held-out data's"),
        "gibbs_total_variation": Metric(better="min", meaning="between the sampler's and the model's visible states"),
    }
    chains: Tensor

    def __init__(self, config: BoltzmannMachineConfig, spec: Spec) -> None:
        """Build the machine for the field `point` [D] or `image` [C, H, W], of bits; UserError beyond 20 units."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.shape, self.visible = example.shape, size_of(example)
        units = self.visible + config.hidden_units
        if units > ENUMERABLE:
            raise UserError(
                f"algorithm.hidden_units: {units} units have too many states to enumerate, {ENUMERABLE} are possible; "
                "take fewer, or a restricted machine"
            )
        weight = torch.randn(units, units).triu(1) * 0.01
        self.weight = nn.Parameter(weight + weight.T)
        self.bias = nn.Parameter(torch.zeros(units))
        self.register_buffer("chains", torch.bernoulli(torch.full((config.chains, units), 0.5)))
        self._moved = self.chains

    def initialize(self, data: Table | None) -> None:
        """Check that the data are bits."""
        assert data is not None
        mean_bits(data, self.field, "threshold")

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        return [Rule("contrast", self.gather, self.change, (self.weight, self.bias, self.chains))]

    def prepare(self, trajectory: Batch) -> Batch:
        """Add `bits` [B, D]."""
        return {**trajectory, "bits": bits(trajectory[self.field], "threshold", self.noise)}

    def sweep(self, states: Tensor, uniform: Tensor, first: int = 0) -> Tensor:
        """Return states [B, N] after one visit of the units from `first` on, by uniform numbers [B, N - first]."""
        states = states.clone()
        for unit in range(first, states.shape[1]):
            probability = torch.sigmoid(states @ self.weight[:, unit] + self.bias[unit])
            states[:, unit] = (uniform[:, unit - first] < probability).to(states)
        return states

    def _completed(self, visible: Tensor, uniform: Callable[[], Tensor]) -> Tensor:
        """Return states [B, N] whose hidden bits have run with the visible ones [B, V] held; [B, H] numbers a sweep."""
        if not self.config.hidden_units:
            return visible
        states = torch.cat((visible, (uniform() < 0.5).to(visible)), 1)
        for _ in range(self.config.clamped_sweeps):
            states = self.sweep(states, uniform(), self.visible)
        return states

    def gather(self, batch: Batch) -> Gathered:
        """Return the sums of s s' and s over the data and over the chains, a few sweeps on."""
        data, units, rows = batch["bits"], len(self.bias), len(batch["bits"])
        states = self._completed(data, partial(self.noise.uniform, rows, self.config.hidden_units))
        each = -(-len(self.chains) // rows)
        moved = self.chains
        for _ in range(self.config.sweeps):
            moved = self.sweep(moved, self.noise.uniform(rows, each, units).flatten(0, 1)[: len(moved)])
        self._moved = moved
        sums = {"data_pairs": states.T @ states, "data": states.sum(0)}
        sums |= {"model_pairs": moved.T @ moved, "model": moved.sum(0)}
        sums["chains"] = torch.tensor(float(len(moved)), device=data.device)
        return Gathered(sums)

    def change(self, sums: dict[str, Tensor], count: float) -> None:
        """Climb, and keep where `gather` has led the chains."""
        rate = self.config.learning_rate * (1 - self.progress.fraction)
        pairs = sums["data_pairs"] / count - sums["model_pairs"] / sums["chains"]
        self.weight.add_(pairs - pairs.diag().diag(), alpha=rate)
        self.bias.add_(sums["data"] / count - sums["model"] / sums["chains"], alpha=rate)
        self.chains.copy_(self._moved)

    def visible_log_probabilities(self) -> Tensor:
        """Return log p of every state of the visible units, [2^V] in the order of `all_states`, by enumeration."""
        states = all_states(len(self.bias)).to(self.weight)
        negative = -energy(states, self.weight, self.bias).double()
        together: Tensor = negative.reshape(2**self.visible, -1).logsumexp(1)
        return together - together.logsumexp(0)

    def gibbs(self, count: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        """Yield the states [count, N] of chains, after `sample_sweeps` from random bits and after each sweep more."""
        device = generator.device if generator else self.weight.device
        shape = (count, len(self.bias))
        states = (torch.rand(shape, generator=generator, device=device) < 0.5).to(self.weight)
        for number in itertools.count(1):
            states = self.sweep(states, torch.rand(shape, generator=generator, device=device).to(self.weight))
            if number >= self.config.sample_sweeps:
                yield states

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log p(v) [B]."""
        index = state_index(batch["bits"])
        return {"nll_exact": -self.visible_log_probabilities()[index], "_index": index}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Compare the model's visible states with the data's and with the sampler's, and draw all three."""
        model = self.visible_log_probabilities().exp()
        data = frequencies(outputs["_index"], self.visible)
        chains = itertools.islice(self.gibbs(self.config.checked_chains, None), _CHECKED_SWEEPS)
        gibbs = frequencies(torch.cat([state_index(states[:, : self.visible]) for states in chains]), self.visible)
        metrics = {"total_variation": distance(model, data), "gibbs_total_variation": distance(model, gibbs)}
        figures = {"weights": Figure("matrix", self.weight.detach().clone())}
        if len(model) <= _SHOWN_STATES:
            curves = torch.stack((data, model, gibbs)).float()
            axes = ("state of the visible bits", "probability")
            figures["states"] = Figure("curves", curves, labels=("data", "model", "Gibbs"), axes=axes)
        return metrics, figures

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw visible bits by `sample_sweeps` Gibbs sweeps."""
        with torch.no_grad():
            states = next(self.gibbs(count, generator))[:, : self.visible]
        return drawn(states.reshape(-1, *self.shape))


def frequencies(index: Tensor, units: int) -> Tensor:
    """Return the share of each of the 2^units states among indices [B], in float64."""
    return torch.bincount(index, minlength=2**units).double() / len(index)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the total variation of two distributions [S], between 0 and 1."""
    return 0.5 * (first - second).abs().sum()
