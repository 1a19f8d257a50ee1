"""Variational autoencoder: Kingma and Welling (2014), "Auto-encoding variational Bayes"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_generative.equations.densities import (
    bernoulli_log_density,
    gaussian_log_density,
    importance_weighted_bound,
    standard_normal_divergence,
)
from rayloom_generative.fields import data_field, drawn, originals_above, shown_latents, size_of, unit_range
from rayloom_generative.networks.feed_forward import GaussianEncoder
from rayloom_supervised.layers.activations import Activation
from rayloom_supervised.networks.perceptrons import MLP

Size = Annotated[int, Ge(1)]
_CHUNK = 2**22  # numbers that one step of the importance-weighted bound decodes


@dataclass(frozen=True, kw_only=True)
class VAEConfig(AlgorithmConfig):
    """Settings of the variational autoencoder."""

    latent_size: Size = 16
    """Latent variables."""
    hidden_sizes: tuple[Size, ...] = (256, 256)
    """Units of the encoder's hidden layers, in reverse those of the decoder; []: a linear VAE."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """p(x|z): independent bits, or independent normal coordinates of one common variance."""
    deviation: Annotated[float, Gt(0)] | None = None
    """Standard deviation of the gaussian likelihood; null: learned."""
    binarize: Literal["none", "dynamic"] = "none"
    """dynamic draws each pixel's bit anew whenever an image is read, with the grey value as its probability."""
    beta: Annotated[float, Ge(0)] = 1.0
    """Weight of the divergence in the loss (beta-VAE: Higgins et al. 2017); evaluations always count it once."""
    kl_warmup_updates: Annotated[int, Ge(0)] = 0
    """The weight rises from 0 to beta over the first updates (Bowman et al. 2016) (unit: updates)."""
    importance_samples: tuple[Size, ...] = (5, 50)
    """Evaluations report the importance-weighted bound with each of these numbers of samples."""


class Embedding(nn.Module):
    """Maps raw examples [B, ...] to the mean of their latent variables [B, L]."""

    def __init__(self, encoder: GaussianEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, data: Tensor) -> Tensor:
        """Return [B, L]."""
        mean: Tensor = self.encoder(unit_range(data))[0]
        return mean


class VAE(Algorithm):
    """Autoencoder with a stochastic code, minimising the negative evidence lower bound (nats per example).

    References: Kingma and Welling (2014) for the bound, its closed-form divergence and the reparameterisation; Burda
    et al. (2016) for the importance-weighted bounds and dynamic binarisation. Departures: one sample of the code per
    example; any of torch's optimisers. A linear VAE (no hidden layers, gaussian likelihood, fewer codes than
    dimensions) has probabilistic PCA as its optimum (Lucas et al. 2019), see `probabilistic_pca`.

    The noise of the reparameterisation is a field of the prepared batch: the loss is a function of its batch.
    """

    Config = VAEConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="negative evidence lower bound"),
        "reconstruction": Metric(better="min", unit="nats", meaning="-log p(x|z)"),
        "kl": Metric(unit="nats", meaning="divergence of the code from its prior"),
        "nll_iw*": Metric(better="min", unit="nats", meaning="importance-weighted bound on -log p(x)"),
    }

    def __init__(self, config: VAEConfig, spec: Spec) -> None:
        """Build encoder and decoder for the field `image` [C, H, W] or `point` [D]."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        if self.field == "point" and config.likelihood == "bernoulli":
            raise UserError("algorithm.likelihood: points are real numbers; use gaussian")
        if config.likelihood == "gaussian" and config.binarize == "dynamic":
            raise UserError("algorithm.binarize: bits need the likelihood bernoulli; set binarize to none")
        if config.likelihood == "bernoulli" and config.deviation is not None:
            raise UserError("algorithm.deviation: only the likelihood gaussian has one; remove it")
        self.shape = example.shape
        hidden = config.hidden_sizes
        self.encoder = GaussianEncoder(size_of(example), config.latent_size, hidden, config.activation)
        self.decoder = MLP((config.latent_size, *reversed(hidden), size_of(example)), config.activation)
        log_variance = torch.tensor(2 * math.log(config.deviation or 1.0))
        if config.likelihood == "gaussian" and config.deviation is None:
            self.log_variance = nn.Parameter(log_variance)
        else:
            self.register_buffer("log_variance", log_variance)

    def phases(self) -> list[Phase]:
        """Return the one phase; the warm-up reads the progress of the run, so that it cannot be compiled."""
        return [Phase("autoencode", self.loss, tuple(self.parameters()), compilable=not self.config.kl_warmup_updates)]

    def prepare(self, trajectory: Batch) -> Batch:
        """Scale images to 0..1, draw their bits where configured, and draw the noise [B, L] of the code."""
        data = unit_range(trajectory[self.field])
        if self.config.binarize == "dynamic":
            data = self.noise.bernoulli(data)
        noise = self.noise.normal(len(data), self.config.latent_size)
        return {**trajectory, self.field: data, "noise": noise}

    def loss(self, batch: Batch) -> Loss:
        """Return reconstruction + beta * divergence [B]."""
        reconstruction, divergence = self._bound(batch)
        warmup = self.config.kl_warmup_updates
        weight = self.config.beta * (min(1.0, self.progress.updates / warmup) if warmup else 1.0)
        metrics = {"reconstruction": reconstruction.detach(), "kl": divergence.detach()}
        return Loss(reconstruction + weight * divergence, metrics)

    def _bound(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return -log p(x|z) with the batch's noise and the divergence of the code, [B] each."""
        data = batch[self.field].flatten(1)
        mean, log_variance = self.encoder(data)
        decoded = self.decoder(mean + (0.5 * log_variance).exp() * batch["noise"])
        return -self._log_likelihood(data, decoded), standard_normal_divergence(mean, log_variance)

    def _log_likelihood(self, data: Tensor, decoded: Tensor) -> Tensor:
        """Return log p(data|z) [...] for flat data and the decoder's outputs [..., D]."""
        if self.config.likelihood == "bernoulli":
            return bernoulli_log_density(data, decoded)
        return gaussian_log_density(data, decoded, self.log_variance)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return bounds on -log p(x), [B] in nats: `loss` by one sample, `nll_iw<K>` by K; and its parts."""
        reconstruction, divergence = self._bound(batch)
        found = {"loss": reconstruction + divergence, "reconstruction": reconstruction, "kl": divergence}
        if self.config.importance_samples:
            log_weights = self.log_weights(batch[self.field].flatten(1), max(self.config.importance_samples))
            for count in self.config.importance_samples:
                found[f"nll_iw{count}"] = -importance_weighted_bound(log_weights[:count])
        return found

    def log_weights(self, data: Tensor, count: int) -> Tensor:
        """Return log p(x, z) - log q(z|x) of `count` codes of flat data [B, D], [count, B]; some codes at a time."""
        mean, log_variance = self.encoder(data)
        chunk = max(1, _CHUNK // data.numel())
        found = []
        for start in range(0, count, chunk):
            noise = torch.randn(min(chunk, count - start), *mean.shape, device=data.device)
            code = mean + (0.5 * log_variance).exp() * noise
            decoded = self.decoder(code.flatten(0, 1)).unflatten(0, noise.shape[:2])
            # The constants of the two normal densities cancel.
            ratio = 0.5 * (noise.square() + log_variance - code.square()).sum(-1)
            found.append(self._log_likelihood(data, decoded) + ratio)
        return torch.cat(found)

    def decode(self, code: Tensor) -> Tensor:
        """Return the mean of p(x|z) for codes [B, L], [B, *shape]: images in 0..1 or points."""
        decoded: Tensor = self.decoder(code).unflatten(1, self.shape)
        if self.config.likelihood == "bernoulli":
            return decoded.sigmoid()
        return decoded.clamp(0, 1) if self.field == "image" else decoded

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return samples from the same codes at every call and, of images, reconstructions below their originals."""
        data = batch[self.field]
        samples = self.decode(
            shown_latents(64 if self.field == "image" else 1000, self.config.latent_size, data.device)
        )
        if self.field == "point":
            return {"samples": drawn(self._with_noise(samples, None), data[:1000])}
        reconstructions = self.decode(self.encoder(data[:32])[0])
        return {"samples": drawn(samples), "reconstructions": originals_above(data[:32], reconstructions)}

    def _with_noise(self, means: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(means.shape, generator=generator, device=generator.device if generator else means.device)
        return means + (0.5 * self.log_variance).exp() * noise.to(means.device)

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Draw samples: points from p(x), of images the mean of p(x|z) with z from the prior."""
        code = torch.randn(count, self.config.latent_size, generator=generator, device=generator.device)
        with torch.no_grad():
            means = self.decode(code.to(next(self.parameters()).device))
            return drawn(self._with_noise(means, generator) if self.field == "point" else means)

    def inference_module(self) -> nn.Module:
        """Return the module that maps raw examples to the mean of their codes [B, L]; it shares the weights."""
        return Embedding(self.encoder)

    def inference_input(self) -> str:
        """Return the field that is modelled."""
        return self.field
