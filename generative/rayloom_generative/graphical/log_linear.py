"""Log-linear model of discrete variables: p(x) ~ exp(w . f(x)). Della Pietra, Della Pietra and Lafferty (1997)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_generative.graphical.discrete_fields import known_variables, state_figure, states, variables_of
from rayloom_generative.graphical.factors import Factor, FactorGraph, eliminate
from rayloom_generative.graphical.gibbs import gibbs_sweep, random_states


@dataclass(frozen=True, kw_only=True)
class LogLinearConfig(AlgorithmConfig):
    """Settings of the log-linear model."""

    features: tuple[tuple[str, ...], ...]
    """Groups of the data set's fields: each joint value of a group has an indicator with a weight."""
    sample_sweeps: Annotated[int, Ge(1)] = 50
    """Sweeps of Gibbs sampling before a sample is taken."""


class LogLinearModel(Algorithm):
    """Maximum likelihood of the weights of indicators, with the exact partition function by variable elimination.

    At the optimum the model's expectation of every feature equals the data's. References: as in the module. Departures:
    any of torch's optimisers instead of iterative scaling.
    """

    Config = LogLinearConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="-log p(x)"),
        "feature_gap": Metric(better="min", meaning="largest difference of a feature's mean in the model and the data"),
    }

    def __init__(self, config: LogLinearConfig, spec: Spec) -> None:
        """Make a table of weights, all 0, for each group; UserError for groups of unknown or doubled variables."""
        super().__init__(config, spec)
        fields = tuple(variables_of(spec))
        known_variables([name for group in config.features for name in group], fields, "algorithm.features")
        wrong = [group for group in config.features if not group or len(set(group)) < len(group)]
        if wrong or not config.features:
            shown = list(wrong[0]) if wrong else "[]"
            raise UserError(f"algorithm.features: {shown} is no group of different variables; write [[a, b], [b, c]]")
        used = {name for group in config.features for name in group}
        self.sizes = variables_of(spec, [name for name in fields if name in used])
        self.names = tuple(self.sizes)
        shapes = [[self.sizes[name] for name in group] for group in config.features]
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in shapes])
        eliminate(self.graph(), ())  # what is too large is told before there is a run

    def graph(self) -> FactorGraph:
        """Return the model as a factor graph whose variables are numbered as `names`."""
        factors = [
            Factor(tuple(self.names.index(name) for name in group), weight)
            for group, weight in zip(self.config.features, self.weights, strict=True)
        ]
        return FactorGraph(tuple(self.sizes.values()), tuple(factors))

    def phases(self) -> list[Phase]:
        """Return the one phase that climbs the likelihood."""
        return [Phase("likelihood", self.loss, tuple(self.weights))]

    def log_probability(self, values: Tensor) -> Tensor:
        """Return log p(x) of joint states [N, V] in the order of `names`, [N]."""
        graph = self.graph()
        return graph.log_score(values) - eliminate(graph, ())

    def loss(self, batch: Batch) -> Loss:
        """Return -log p(x) [B]."""
        return Loss(-self.log_probability(states(batch, self.names)))

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log p(x) [B], and the states for `summarize`."""
        values = states(batch, self.names)
        return {"loss": -self.log_probability(values), "_state": values}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the largest difference of a feature's mean under the model and over the split."""
        gaps = [
            (self.expectation(group) - self._observed(group, outputs["_state"])).abs().max()
            for group in range(len(self.weights))
        ]
        return {"feature_gap": torch.stack(gaps).max()}, {}

    def expectation(self, group: int) -> Tensor:
        """Return the model's probabilities of a group's joint values, in the shape of its weights."""
        table = eliminate(self.graph(), [self.names.index(name) for name in self.config.features[group]])
        return table.flatten().softmax(0).view(table.shape)

    def _observed(self, group: int, values: Tensor) -> Tensor:
        columns = [values[:, self.names.index(name)] for name in self.config.features[group]]
        counts = torch.zeros_like(self.weights[group])
        counts.index_put_(tuple(columns), counts.new_ones(len(values)), accumulate=True)
        return counts / len(values)

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return the weights of each group: one row for each joint value of all but its last variable."""
        return {
            "weights_" + "_".join(group): Figure("matrix", weight.detach().reshape(-1, weight.shape[-1]))
            for group, weight in zip(self.config.features, self.weights, strict=True)
        }

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw joint states by Gibbs sampling, a chain for each."""
        with torch.no_grad():
            graph = self.graph()
            graph = FactorGraph(
                graph.cardinalities, tuple(Factor(f.variables, f.log_table.cpu()) for f in graph.factors)
            )
            values = random_states(graph, count, generator)
            for _ in range(self.config.sample_sweeps):
                values = gibbs_sweep(graph, values, generator)
        return state_figure(values, self.names)
