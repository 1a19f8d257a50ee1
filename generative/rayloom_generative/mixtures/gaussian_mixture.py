"""Mixture of normal distributions by expectation maximisation: Dempster, Laird and Rubin (1977)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Gathered, Metric, Rule, Spec, Table
from rayloom_generative.equations.gaussian_mixture import log_joint, maximise, moments
from rayloom_generative.equations.k_means import plus_plus, squared_distances
from rayloom_generative.fields import data_field, drawn, size_of
from rayloom_generative.mixtures.vectors import some_rows, vectors

_SEEDING_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class GaussianMixtureConfig(AlgorithmConfig):
    """Settings of the mixture."""

    components: Annotated[int, Ge(1)] = 10
    """Normal distributions."""
    covariance: Literal["full", "diagonal"] = "full"
    """Any covariance, or independent coordinates."""
    ridge: Annotated[float, Gt(0)] = 1e-6
    """Added to every variance, so that no component collapses onto a point."""
    start: Literal["plus_plus", "first_rows"] = "plus_plus"
    """The first means: points that are far apart (k-means++), or the first rows of the training data. All components
    begin with equal weights and one variance: the mean squared distance from the nearest of them, per coordinate."""


class GaussianMixture(Algorithm):
    """p(x) = sum_k weight_k N(x; mean_k, covariance_k), whose likelihood no pass over the data lowers.

    Each pass is one step: responsibilities of the components for every example, then the parameters that maximise the
    expected log-likelihood (Bishop 2006, equations 9.23 to 9.27). Departure: a ridge on the variances, with which the
    likelihood may fall by as much as the ridge costs. All in double precision.
    """

    Config = GaussianMixtureConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "log_likelihood": Metric(better="max", unit="nats", meaning="log p(x) with the parameters of the last pass"),
        "nll": Metric(better="min", unit="nats", meaning="-log p(x)"),
        "components_used": Metric(meaning="exponential of the entropy of the weights"),
    }
    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __init__(self, config: GaussianMixtureConfig, spec: Spec) -> None:
        """Build weights [K], means [K, D] and covariances [K, D, D] or [K, D] for the field `image` or `point`."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.shape, size, count = example.shape, size_of(example), config.components
        covariance = torch.eye(size) if config.covariance == "full" else torch.ones(size)
        self.register_buffer("weights", torch.full((count,), 1 / count, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(count, size, dtype=torch.float64))
        self.register_buffer("covariances", covariance.double().repeat(count, *[1] * covariance.ndim))

    def initialize(self, data: Table | None) -> None:
        """Choose the first means, and a variance as wide as the gaps between them."""
        assert data is not None
        count = self.config.components
        rows = some_rows(data, self.field, _SEEDING_ROWS, count)
        first = self.config.start == "first_rows"
        chosen = vectors(data.rows(torch.arange(count))[self.field]) if first else plus_plus(rows, count)
        self.means.copy_(chosen)
        size = self.means.shape[1]
        variance = squared_distances(rows, chosen).amin(1).mean() / size + self.config.ridge
        unit = torch.eye(size) if self.config.covariance == "full" else torch.ones(size)
        self.covariances.copy_(unit.to(variance) * variance)

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        changes = (self.weights, self.means, self.covariances)
        return [Rule("maximise", self.expect, self.maximise, changes, over="epoch")]

    def _log_joint(self, points: Tensor) -> Tensor:
        return log_joint(points, self.weights, self.means, self.covariances)

    def expect(self, batch: Batch) -> Gathered:
        """Return the moments of the examples, weighed by the components' responsibilities for them."""
        points = vectors(batch[self.field])
        joint = self._log_joint(points)
        sums = moments(points, joint.softmax(1), self.config.covariance == "diagonal")
        return Gathered(sums, {"log_likelihood": joint.logsumexp(1)})

    def maximise(self, sums: dict[str, Tensor], count: float) -> None:
        """Take the parameters of maximum likelihood."""
        found = maximise(sums, count, self.config.ridge)
        for buffer, value in zip((self.weights, self.means, self.covariances), found, strict=True):
            buffer.copy_(value)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log p(x) [B]."""
        return {"nll": -self._log_joint(vectors(batch[self.field])).logsumexp(1)}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return how many components the weights amount to."""
        return {"components_used": (-torch.special.xlogy(self.weights, self.weights).sum()).exp()}, {}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return the means of images, or points of the plane with their likeliest components."""
        if self.field == "image":
            return {"means": Figure("images", self.means.float().clamp(0, 1).reshape(-1, *self.shape))}
        if self.shape != (2,):
            return {"means": Figure("matrix", self.means.float())}
        points = batch[self.field][:2000]
        return {"components": Figure("points", points, groups=self._log_joint(vectors(points)).argmax(1))}

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw a component by its weight and an example of it; images are cut to 0..1."""
        device = generator.device
        chosen = torch.multinomial(self.weights.to(device), count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], 1, generator=generator, device=device, dtype=torch.float64)
        covariances = self.covariances.to(device)
        full = self.config.covariance == "full"
        factors = torch.linalg.cholesky(covariances) if full else covariances.sqrt().diag_embed()
        samples = (self.means.to(device)[chosen] + (factors[chosen] @ noise).squeeze(2)).float()
        return drawn((samples.clamp(0, 1) if self.field == "image" else samples).reshape(-1, *self.shape))
