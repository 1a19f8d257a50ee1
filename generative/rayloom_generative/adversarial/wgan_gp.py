"""Wasserstein GAN with gradient penalty: Gulrajani et al. (2017), "Improved training of Wasserstein GANs"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom.datasets.gaussian import GridConfig, RingConfig, grid_centers, ring_centers
from rayloom_generative.evaluation.mode_quality import mode_quality
from rayloom_generative.fields import data_field, drawn, shown_latents, unit_range
from rayloom_generative.networks.feed_forward import conv_critic, conv_generator, mlp_critic, mlp_generator
from rayloom_supervised.layers.activations import Activation

Size = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class WGANGPConfig(AlgorithmConfig):
    """Settings of the Wasserstein GAN."""

    latent_size: Size = 64
    """Standard normal inputs of the generator."""
    network: Literal["mlp", "conv"] = "mlp"
    """Both networks fully connected, or convolutional in the manner of DCGAN (images only)."""
    hidden_sizes: tuple[Size, ...] = (128, 128, 128)
    """Units of the hidden layers of both networks (mlp)."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers (mlp)."""
    channels: Size = 32
    """Feature maps at half the image's size, in both networks (conv)."""
    critic_steps: Size = 5
    """Steps of the critic before each step of the generator."""
    constraint: Literal["gradient_penalty", "clip"] = "gradient_penalty"
    """What keeps the critic Lipschitz: the penalty, or clipped weights (Arjovsky et al. 2017)."""
    penalty_weight: Annotated[float, Ge(0)] = 10.0
    """lambda of the gradient penalty: 10 for images, 0.1 for points in the plane."""
    clip: Annotated[float, Gt(0)] = 0.01
    """Largest absolute value of the critic's weights (clip)."""
    betas: tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]] | None = (0.0, 0.9)
    """Decay of Adam's moments for both networks; null: what learner.optimizer says."""
    known_modes: Literal["none", "gaussian-grid", "gaussian-ring"] = "none"
    """Evaluations count the modes of this data set, which must have its default geometry."""


class WGANGP(Algorithm):
    """Two networks: a critic, which estimates the Wasserstein distance, and a generator, which descends it.

    The critic maximises E D(x) - E D(G(z)) and pays lambda (|grad D| - 1)^2, two-sided, at a random point between each
    real example and its fake (algorithm 1 of the paper). With `constraint: clip` it is the WGAN of Arjovsky et al.
    (2017), whose weights are clipped before each use; take rmsprop with a learning rate of 5e-5 for that paper's
    settings. Departures: small networks for small data; no normalisation layers in either network. The estimate of a
    critic with a finite lambda is a little too large: a linear critic of data at distance m has slope
    1 + m / (2 lambda).

    Codes and interpolation coefficients are fields of the prepared batch: the losses are functions of their batch.
    """

    Config = WGANGPConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "wasserstein": Metric(meaning="the critic's estimate of the distance"),
        "penalty": Metric(better="min", meaning="squared departure of the critic's slope from 1"),
        "slope": Metric(meaning="norm of the critic's gradient between real and fake"),
        "good_fraction": Metric(better="max", meaning="share of the samples that are close to a mode"),
        "modes_covered": Metric(better="max", meaning="modes with a good sample"),
        "mode_divergence": Metric(better="min", unit="nats", meaning="of the good samples' modes from the uniform"),
    }

    def __init__(self, config: WGANGPConfig, spec: Spec) -> None:
        """Build critic and generator for the field `image` [C, H, W] or `point` [D]."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.generator: nn.Module
        self.critic: nn.Module
        if config.network == "conv":
            self.generator = conv_generator(config.latent_size, example, config.channels)
            self.critic = conv_critic(example, config.channels)
        else:
            self.generator = mlp_generator(config.latent_size, example, config.hidden_sizes, config.activation)
            self.critic = mlp_critic(example, config.hidden_sizes, config.activation)
        self._modes, self._mode_deviation = known_modes(config.known_modes)
        if self._modes is not None and example.shape != (2,):
            raise UserError(f"algorithm.known_modes: {config.known_modes} lies in the plane; set known_modes to none")

    def phases(self) -> list[Phase]:
        """Return the critic's phase and the generator's.

        Never compiled or rounded: torch.compile drops the penalty's graph, and bfloat16 its digits.
        """
        optimizer: dict[str, Any] = {} if self.config.betas is None else {"betas": self.config.betas}
        steps = self.config.critic_steps
        eager: dict[str, Any] = {"compilable": False, "autocast": False}
        return [
            Phase("critic", self.critic_loss, tuple(self.critic.parameters()), optimizer, repeat=steps, **eager),
            Phase("generator", self.generator_loss, tuple(self.generator.parameters()), optimizer, **eager),
        ]

    def prepare(self, trajectory: Batch) -> Batch:
        """Scale images to -1..1 and draw codes for both phases [B, L] and coefficients [B]."""
        raw = trajectory[self.field]
        data = 2 * unit_range(raw) - 1 if self.field == "image" else raw
        # The generator's phase reuses the critic's last batch, so that it needs codes of its own.
        codes = self.noise.normal(len(data), 2, self.config.latent_size)
        between = self.noise.uniform(len(data))
        return {**trajectory, self.field: data, "code": codes[:, 0], "generator_code": codes[:, 1], "between": between}

    def critic_loss(self, batch: Batch) -> Loss:
        """Return D(fake) - D(real) + lambda (|grad D| - 1)^2 of each example [B]; fakes carry no gradient."""
        real = batch[self.field]
        with torch.no_grad():
            self._clip()
            fake = self.generator(batch["code"])
        scores = self.critic(torch.cat((real, fake)))
        distance = scores[: len(real)] - scores[len(real) :]
        metrics = {"wasserstein": distance.detach()}
        if self.config.constraint == "clip":
            return Loss(-distance, metrics)
        slope = self.slope(interpolate(real, fake, batch["between"]))
        penalty = (slope - 1).square()
        metrics |= {"penalty": penalty.detach(), "slope": slope.detach()}
        return Loss(self.config.penalty_weight * penalty - distance, metrics)

    def slope(self, points: Tensor) -> Tensor:
        """Return the norm of the critic's gradient by its input [B], differentiable by the critic's parameters."""
        points = points.detach().requires_grad_()
        # The critic treats examples apart, so that the gradient of the sum holds each example's own.
        (gradient,) = torch.autograd.grad(self.critic(points).sum(), points, create_graph=True)
        # The root has no derivative at 0, where a critic with dead units can be.
        return (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()

    def generator_loss(self, batch: Batch) -> Loss:
        """Return -D(G(z)) of each example [B]."""
        with torch.no_grad():
            self._clip()
        return Loss(-self.critic(self.generator(batch["generator_code"])))

    def _clip(self) -> None:
        """Clip the critic's weights in place; before each use, which leaves none unclipped in any loss."""
        if self.config.constraint == "clip":
            for parameter in self.critic.parameters():
                parameter.clamp_(-self.config.clip, self.config.clip)

    def after_update(self, update: int) -> None:
        """Clip once more, so that evaluations and checkpoints see clipped weights."""
        self._clip()

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the critic's estimate on held-out data [B]; of points also the samples, for `summarize`."""
        fake = self.generator(batch["code"])
        found = {"wasserstein": self.critic(batch[self.field]) - self.critic(fake)}
        return found if self._modes is None else {**found, "_generated": fake}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the share of good samples, the modes covered and the divergence over modes, where modes are known."""
        if self._modes is None:
            return {}, {}
        generated = outputs["_generated"]
        quality = mode_quality(generated, self._modes.to(generated.device), self._mode_deviation)
        return quality._asdict(), {}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return samples from the same codes at every call, points before held-out ones."""
        data = batch[self.field]
        count = 64 if self.field == "image" else 1000
        samples = self._visible(self.generator(shown_latents(count, self.config.latent_size, data.device)))
        return {"samples": drawn(samples, None if self.field == "image" else data[:1000])}

    def _visible(self, samples: Tensor) -> Tensor:
        return (samples + 1) / 2 if self.field == "image" else samples

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw images in 0..1 or points."""
        code = torch.randn(count, self.config.latent_size, generator=generator, device=generator.device)
        with torch.no_grad():
            return drawn(self._visible(self.generator(code.to(next(self.parameters()).device))))


def interpolate(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return share * real + (1 - share) * fake for examples [B, ...] and shares [B]."""
    share = share.reshape(-1, *[1] * (real.ndim - 1))
    return share * real + (1 - share) * fake


def known_modes(name: str) -> tuple[Tensor | None, float]:
    """Return the modes [M, 2] of a generated data set with its default settings and their standard deviation."""
    if name == "gaussian-grid":
        grid = GridConfig()
        return grid_centers(grid), grid.standard_deviation * grid.scale
    if name == "gaussian-ring":
        ring = RingConfig()
        return ring_centers(ring), ring.standard_deviation * ring.scale
    return None, 0.0
