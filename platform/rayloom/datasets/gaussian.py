"""Points drawn from normal distributions and their mixtures, generated from the run's seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from rayloom.components import component
from rayloom.contract import TensorSpec
from rayloom.datasets.dataset import Dataset
from rayloom.errors import UserError
from rayloom.seeding import torch_generator

Draw = Callable[[int, torch.Generator], Tensor]
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SizeConfig:
    """How many points to draw."""

    train_size: Annotated[int, Ge(1), Le(100_000_000)] = 100_000
    """Points to learn from."""
    validation_size: Annotated[int, Ge(1), Le(100_000_000)] = 10_000
    """Held-out points for development."""
    test_size: Annotated[int, Ge(1), Le(100_000_000)] = 10_000
    """Held-out points for the last word."""


@dataclass(frozen=True, kw_only=True)
class GridConfig(SizeConfig):
    """Points of 25 normal modes on a 5x5 grid, generated."""

    spacing: Annotated[float, Gt(0)] = 2.0
    """Distance of neighbouring modes before scaling."""
    standard_deviation: Annotated[float, Ge(0)] = 0.05
    """Of each mode and coordinate, before scaling."""
    scale: Annotated[float, Gt(0)] = 1 / (2 * math.sqrt(2))
    """Factor on all points; 1 / (2 sqrt 2) gives each coordinate a variance of one."""


@dataclass(frozen=True, kw_only=True)
class RingConfig(SizeConfig):
    """Points of normal modes (8 unless told) on a circle, generated."""

    modes: Annotated[int, Ge(1)] = 8
    """Number of modes."""
    radius: Annotated[float, Gt(0)] = 2.0
    """Radius of the circle before scaling."""
    standard_deviation: Annotated[float, Ge(0)] = 0.02
    """Of each mode and coordinate, before scaling."""
    scale: Annotated[float, Gt(0)] = 1 / math.sqrt(2)
    """Factor on all points; 1 / sqrt 2 gives each coordinate a variance of one."""


@dataclass(frozen=True, kw_only=True)
class GaussianConfig(SizeConfig):
    """Points of one normal distribution in any dimension, generated."""

    dimension: Annotated[int, Ge(1)] = 2
    """Coordinates of a point."""
    mean: float | tuple[float, ...] = 0.0
    """Mean, one number for all coordinates or one for each."""
    covariance: float | tuple[float, ...] | tuple[tuple[float, ...], ...] = 1.0
    """Covariance: the common variance, the variances, or the whole positive definite matrix."""


def grid_centers(config: GridConfig) -> Tensor:
    """Return the modes of `gaussian-grid`, [25, 2], after scaling."""
    line = torch.arange(-2, 3, dtype=torch.float32) * config.spacing
    return torch.stack((line.repeat_interleave(5), line.repeat(5)), dim=1) * config.scale


def ring_centers(config: RingConfig) -> Tensor:
    """Return the modes of `gaussian-ring`, [modes, 2], after scaling."""
    angle = torch.arange(config.modes, dtype=torch.float32) * (2 * math.pi / config.modes)
    return torch.stack((angle.cos(), angle.sin()), dim=1) * (config.radius * config.scale)


def moments(config: GaussianConfig) -> tuple[Tensor, Tensor]:
    """Return the mean [d] and covariance [d, d] of `gaussian` in float64; UserError where they do not fit."""
    size = config.dimension
    mean = torch.tensor(config.mean, dtype=torch.float64)
    if mean.shape not in ((), (size,)):
        raise UserError(f"source.dataset.mean: give one number or {size}, as the dimension says")
    try:
        covariance = torch.tensor(config.covariance, dtype=torch.float64)
    except ValueError:
        raise UserError("source.dataset.covariance: make all rows of the matrix equally long") from None
    if covariance.shape not in ((), (size,), (size, size)):
        raise UserError(f"source.dataset.covariance: give one number, {size}, or {size} rows of {size}")
    if covariance.ndim < 2:
        covariance = torch.diag(covariance.expand(size))
    if not torch.equal(covariance, covariance.T) or bool(torch.linalg.cholesky_ex(covariance).info):
        raise UserError("source.dataset.covariance: the matrix must be symmetric and positive definite")
    return mean.expand(size).clone(), covariance


@component("data set", GridConfig)
def load_grid(config: GridConfig, seed: int) -> Dataset:
    """Return the 25-mode grid of Gulrajani et al. (2017), appendix of "Improved Training of Wasserstein GANs"."""
    return _mixture(seed, "gaussian-grid", config, grid_centers(config), config.standard_deviation * config.scale)


@component("data set", RingConfig)
def load_ring(config: RingConfig, seed: int) -> Dataset:
    """Return equally likely modes on a circle (Metz et al. 2017, "Unrolled Generative Adversarial Networks")."""
    return _mixture(seed, "gaussian-ring", config, ring_centers(config), config.standard_deviation * config.scale)


@component("data set", GaussianConfig)
def load_gaussian(config: GaussianConfig, seed: int) -> Dataset:
    """Return points of one normal distribution in any dimension."""
    mean, covariance = moments(config)
    factor = torch.linalg.cholesky(covariance)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(count, config.dimension, generator=generator, dtype=torch.float64)
        points: Tensor = mean + noise @ factor.T
        return points.float()

    return _points(seed, "gaussian", config, config.dimension, draw)


def _mixture(seed: int, name: str, config: SizeConfig, centers: Tensor, deviation: float) -> Dataset:
    def draw(count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(centers), (count,), generator=generator)
        return centers[chosen] + deviation * torch.randn(count, 2, generator=generator)

    return _points(seed, name, config, 2, draw)


def _points(seed: int, name: str, config: SizeConfig, dimension: int, draw: Draw) -> Dataset:
    sizes = (config.train_size, config.validation_size, config.test_size)
    train, validation, test = (
        {"point": draw(size, torch_generator(seed, "dataset", name, split))}
        for split, size in zip(_SPLITS, sizes, strict=True)
    )
    spec = {"point": TensorSpec(shape=(dimension,), dtype=torch.float32)}
    return Dataset(train, validation, test, spec, name)
