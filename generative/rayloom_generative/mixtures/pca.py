"""Principal component analysis: Pearson (1901), as the probabilistic model of Tipping and Bishop (1999)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Gathered, Metric, Rule, Spec, UserError
from rayloom_generative.equations.probabilistic_pca import ProbabilisticPCA, log_likelihood
from rayloom_generative.fields import data_field, drawn, originals_above, size_of
from rayloom_generative.mixtures.vectors import vectors


@dataclass(frozen=True, kw_only=True)
class PCAConfig(AlgorithmConfig):
    """Settings of principal component analysis."""

    components: Annotated[int, Ge(1)] = 8
    """Directions to keep, fewer than the data have."""


class Projection(nn.Module):
    """Maps raw examples [B, ...] to their coordinates along the components [B, K]."""

    mean: Tensor
    components: Tensor

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)

    def forward(self, data: Tensor) -> Tensor:
        """Return [B, K]."""
        coordinates: Tensor = (vectors(data) - self.mean) @ self.components.T
        return coordinates.float()


class PCA(Algorithm):
    """The eigenvectors of the covariance with the largest eigenvalues, in closed form from one pass over the data.

    The mean of the other eigenvalues is the noise of probabilistic PCA, which gives a likelihood and samples (Tipping
    and Bishop 1999, equations 7 and 8). Variances are divided by N - 1. The largest number of each component is
    positive. In double precision: the sums of squares lose as many digits as the mean is larger than the deviations.
    """

    Config = PCAConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "reconstruction": Metric(better="min", meaning="squared error, summed over the numbers of an example"),
        "nll": Metric(better="min", unit="nats", meaning="-log p(x) of probabilistic PCA"),
        "explained": Metric(better="max", meaning="share of the variance along the components"),
    }
    mean: Tensor
    components: Tensor
    variances: Tensor
    noise_variance: Tensor

    def __init__(self, config: PCAConfig, spec: Spec) -> None:
        """Build mean [D], components [K, D] in rows and their variances [K], largest first."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.shape, size = example.shape, size_of(example)
        if config.components >= size:
            raise UserError(f"algorithm.components: the data have {size} dimensions; keep fewer than that")
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("components", torch.eye(config.components, size, dtype=torch.float64))
        self.register_buffer("variances", torch.ones(config.components, dtype=torch.float64))
        self.register_buffer("noise_variance", torch.ones((), dtype=torch.float64))

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        changes = (self.mean, self.components, self.variances, self.noise_variance)
        return [Rule("eigenvectors", self.gather, self.decompose, changes, over="epoch")]

    def gather(self, batch: Batch) -> Gathered:
        """Return the first and second moments."""
        points = vectors(batch[self.field])
        return Gathered({"first": points.sum(0), "second": points.T @ points})

    def decompose(self, sums: dict[str, Tensor], count: float) -> dict[str, Tensor]:
        """Take the eigenvectors of the covariance."""
        mean = sums["first"] / count
        covariance = (sums["second"] - count * torch.outer(mean, mean)) / max(count - 1, 1.0)
        values, vectors_ = torch.linalg.eigh(covariance)
        values, rows, kept = values.flip(0).clamp(min=0), vectors_.flip(1).T, self.config.components
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        self.mean.copy_(mean)
        self.components.copy_((rows * largest.sign())[:kept])
        self.variances.copy_(values[:kept])
        self.noise_variance.copy_(values[kept:].mean())
        return {"explained": values[:kept].sum() / values.sum()}

    def project(self, points: Tensor) -> Tensor:
        """Return the coordinates [B, K] of points [B, D]."""
        return (points - self.mean) @ self.components.T

    def reconstruct(self, coordinates: Tensor) -> Tensor:
        """Return the points [B, D] at coordinates [B, K]."""
        return self.mean + coordinates @ self.components

    def model(self) -> ProbabilisticPCA:
        """Return the parameters of probabilistic PCA; its noise is kept above 0."""
        noise = self.noise_variance.clamp(min=1e-9)
        scale = (self.variances - noise).clamp(min=0).sqrt()
        return ProbabilisticPCA(self.mean, self.components.T * scale, noise)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the squared error and -log p(x), [B]."""
        points = vectors(batch[self.field])
        error = (self.reconstruct(self.project(points)) - points).square().sum(1)
        return {"reconstruction": error, "nll": -log_likelihood(points, self.model())}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return the components, the plane of the first two, and reconstructions of images."""
        points = vectors(batch[self.field])
        coordinates = self.project(points)
        shown = {}
        if coordinates.shape[1] >= 2:
            groups = batch.get("label")
            labels = self.spec["label"].labels if groups is not None else ()
            axes = ("first component", "second component")
            shown["plane"] = Figure("points", coordinates[:, :2].float(), groups=groups, labels=labels, axes=axes)
        if self.field != "image":
            return {**shown, "components": Figure("matrix", self.components.float())}
        scaled = 0.5 + self.components / (2 * self.components.abs().amax(1, keepdim=True))
        shown["components"] = Figure("images", scaled.float().reshape(-1, *self.shape))
        rebuilt = self.reconstruct(coordinates[:32]).clamp(0, 1).float().reshape(-1, *self.shape)
        originals = points[:32].float().reshape(-1, *self.shape)
        return {**shown, "reconstructions": originals_above(originals, rebuilt)}

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw from probabilistic PCA: points with their noise, of images the mean without, cut to 0..1."""
        device, model = generator.device, self.model()
        kept, size = self.components.shape
        code = torch.randn(count, kept, generator=generator, device=device, dtype=torch.float64)
        noise = torch.randn(count, size, generator=generator, device=device, dtype=torch.float64)
        means = model.mean.to(device) + code @ model.weight.T.to(device)
        if self.field == "image":
            return drawn(means.clamp(0, 1).float().reshape(-1, *self.shape))
        return drawn((means + noise * model.variance.to(device).sqrt()).float())

    def inference_module(self) -> nn.Module:
        """Return the module that maps raw examples to their coordinates [B, K]."""
        return Projection(self.mean, self.components)

    def inference_input(self) -> str:
        """Return the field that is modelled."""
        return self.field
