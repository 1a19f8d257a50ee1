"""Markov random field of spins on a grid: Geman and Geman (1984) and Besag (1986) restore images with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_generative.equations.ising import (
    Couplings,
    gibbs_sweep,
    iterated_conditional_modes,
    loopy_magnetizations,
    pseudo_log_likelihood,
)
from rayloom_generative.fields import unit_range


@dataclass(frozen=True, kw_only=True)
class MarkovRandomFieldConfig(AlgorithmConfig):
    """Settings of the Markov random field."""

    threshold: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Pixels above it, of 0..1, are spins up."""
    homogeneous: bool = False
    """Whether all pixels share one bias and all neighbours one coupling to the right and one downwards."""
    flip: Annotated[float, Gt(0), Lt(0.5)] = 0.1
    """Share of the pixels that is flipped in the evaluations, which restore the image."""
    restore: Literal["icm", "loopy", "gibbs"] = "loopy"
    """How: iterated conditional modes, loopy belief propagation, or annealed Gibbs sampling."""
    iterations: Annotated[int, Ge(1)] = 30
    """Sweeps or rounds of the restoration."""
    damping: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Share of the old messages of loopy."""
    sample_sweeps: Annotated[int, Ge(1)] = 200
    """Sweeps of Gibbs sampling, cooled down to temperature 1 over the first half, before a sample is taken."""


class MarkovRandomField(Algorithm):
    """Biases and couplings of neighbouring pixels, learnt by maximum pseudo-likelihood (Besag 1975).

    Evaluations flip pixels and restore them with the posterior p(s|y) ~ p(s) p(y|s), which is another field of spins
    whose biases are moved by half the log odds of a flip. References: as in the module, and Murphy, Weiss and Jordan
    (1999) for loopy propagation. Departures: any of torch's optimisers; the pseudo-likelihood is convex.
    """

    Config = MarkovRandomFieldConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="negative pseudo-log-likelihood of an image"),
        "noisy_error": Metric(meaning="share of pixels that were flipped"),
        "restored_error": Metric(better="min", meaning="share of wrong pixels after the restoration"),
    }

    def __init__(self, config: MarkovRandomFieldConfig, spec: Spec) -> None:
        """Make biases and couplings for the field `image` [1, H, W] with at least 2x2 pixels."""
        super().__init__(config, spec)
        shape = spec["image"].shape if "image" in spec else ()
        if len(shape) != 3 or shape[0] != 1 or min(shape) < 1 or min(shape[1:]) < 2:
            raise UserError(
                f"source.dataset: a Markov random field needs the field image with one channel and at least 2x2 "
                f"pixels, not {list(shape) or sorted(spec)}"
            )
        self.height, self.width = shape[1:]
        one = config.homogeneous
        self.bias = nn.Parameter(torch.zeros((1, 1) if one else (self.height, self.width)))
        self.right = nn.Parameter(torch.zeros((1, 1) if one else (self.height, self.width - 1)))
        self.down = nn.Parameter(torch.zeros((1, 1) if one else (self.height - 1, self.width)))

    def couplings(self) -> Couplings:
        """Return J [H, W-1] and [H-1, W]."""
        return Couplings(self.right.expand(self.height, self.width - 1), self.down.expand(self.height - 1, self.width))

    def phases(self) -> list[Phase]:
        """Return the one phase that climbs the pseudo-likelihood."""
        return [Phase("pseudo_likelihood", self.loss, (self.bias, self.right, self.down))]

    def prepare(self, trajectory: Batch) -> Batch:
        """Turn images into spins [B, H, W], -1 and 1, and draw which of them are flipped."""
        spins = 2 * (unit_range(trajectory["image"])[:, 0] > self.config.threshold).float() - 1
        flipped = self.noise.uniform(len(spins), self.height, self.width) < self.config.flip
        return {**trajectory, "image": spins, "flipped": flipped}

    def loss(self, batch: Batch) -> Loss:
        """Return -sum_i log p(s_i | the others) [B]."""
        return Loss(-pseudo_log_likelihood(batch["image"], self.bias, self.couplings()))

    def restored(self, noisy: Tensor) -> Tensor:
        """Return the spins [B, H, W] that were likely before a share `flip` of them was turned round."""
        odds = 0.5 * math.log((1 - self.config.flip) / self.config.flip)
        field, couplings = self.bias + odds * noisy, self.couplings()
        if self.config.restore == "icm":
            return iterated_conditional_modes(noisy, field, couplings, self.config.iterations)
        if self.config.restore == "loopy":
            mean = loopy_magnetizations(field, couplings, self.config.iterations, self.config.damping).mean
            return torch.where(mean >= 0, 1.0, -1.0)
        generator = torch.Generator().manual_seed(0)
        for sweep in range(self.config.iterations):
            cooled = 4.0 ** (2 * (sweep + 1) / self.config.iterations - 1)  # from 1/4 to 4
            noisy = gibbs_sweep(noisy, field, couplings, generator, cooled)
        return noisy

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the negative pseudo-log-likelihood and the shares of wrong pixels before and after restoring, [B]."""
        spins = batch["image"]
        restored = self.restored(torch.where(batch["flipped"], -spins, spins))
        return {
            "loss": self.loss(batch).per_example,
            "noisy_error": batch["flipped"].float().mean((1, 2)),
            "restored_error": (restored != spins).float().mean((1, 2)),
        }

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return images, their noisy forms and what was restored, in rows below each other; and samples."""
        spins = batch["image"][:16]
        noisy = torch.where(batch["flipped"][:16], -spins, spins)
        restored = self.restored(noisy)
        columns = min(8, len(spins))
        rows = [
            each[start : start + columns]
            for start in range(0, len(spins) - columns + 1, columns)
            for each in (spins, noisy, restored)
        ]
        shown = Figure("images", _pixels(torch.cat(rows)), columns=columns)
        return {"restored": shown, "samples": self.sample(64, torch.Generator().manual_seed(0))}

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw images by annealed Gibbs sampling."""
        spins = torch.ones(count, self.height, self.width, device=self.bias.device)
        half = self.config.sample_sweeps / 2
        with torch.no_grad():
            for sweep in range(self.config.sample_sweeps):
                heated = min(1.0, (sweep + 1) / half)
                spins = gibbs_sweep(spins, self.bias, self.couplings(), generator, heated)
        return Figure("images", _pixels(spins))


def _pixels(spins: Tensor) -> Tensor:
    """Return spins [M, H, W] as images [M, 1, H, W] in 0..1."""
    return (spins[:, None] + 1) / 2
