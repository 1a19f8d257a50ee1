"""Variational autoencoder: Kingma and Welling (2014), "Auto-encoding variational Bayes"."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from rayloom.contract import Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_generative.adversarial.alarms import Alarm
from rayloom_generative.autoencoders import latent_pictures
from rayloom_generative.autoencoders.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood
from rayloom_generative.equations.adversarial import WALK_STEPS, round_trip
from rayloom_generative.equations.densities import (
    bernoulli_entropy,
    importance_weighted_bound,
    standard_normal_divergences,
)
from rayloom_generative.evaluation.judged import JudgedConfig, JudgedModel
from rayloom_generative.fields import (
    check_unit_range,
    check_walk,
    data_field,
    drawn,
    originals_above,
    shown_latents,
    size_of,
    unit_range,
)
from rayloom_generative.networks.feed_forward import GaussianEncoder
from rayloom_generative.networks.variational import ConvolutionalDecoder, ConvolutionalEncoder, one_hot
from rayloom_supervised.layers.activations import Activation
from rayloom_supervised.networks.perceptrons import MLP

Size = Annotated[int, Ge(1)]
_CHUNK = 2**22  # numbers that one step of the importance-weighted bound decodes
_ACTIVE = 0.01  # variance of a latent variable's mean over the data
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VAEConfig(JudgedConfig):
    """Settings of the variational autoencoder."""

    latent_size: Size = 16
    """Latent variables."""
    hidden_sizes: tuple[Size, ...] = (256, 256)
    """Units of the encoder's hidden layers, in reverse those of the decoder; []: a linear VAE."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    network: Literal["mlp", "conv"] = "mlp"
    """Fully connected, or two convolutions of stride 2 below the last of the hidden layers (images only)."""
    channels: Size = 16
    """Feature maps at half the image's size (conv); twice as many at a quarter."""
    conditional: bool = False
    """Encoder and decoder see the label too (Sohn et al. 2015); the bounds are then on -log p(x|label)."""
    likelihood: Literal["bernoulli", "gaussian", "categorical"] = "bernoulli"
    """p(x|z): independent bits, normal coordinates of one common variance, or grey values as one of several levels."""
    levels: Annotated[int, Ge(2)] = 17
    """Grey levels of the categorical likelihood, from 0 to 1."""
    deviation: Annotated[float, Gt(0)] | None = None
    """Standard deviation of the gaussian likelihood; null: learned."""
    binarize: Literal["none", "dynamic"] = "none"
    """dynamic draws each pixel's bit anew whenever an image is read, with the grey value as its probability."""
    beta: Annotated[float, Ge(0)] = 1.0
    """Weight of the divergence in the loss (beta-VAE: Higgins et al. 2017); evaluations always count it once."""
    kl_warmup_updates: Annotated[int, Ge(0)] = 0
    """The weight rises from 0 to beta over the first updates (Bowman et al. 2016) (unit: updates)."""
    free_bits: Annotated[float, Ge(0)] = 0.0
    """Divergence of each latent variable that costs nothing in the loss (Kingma et al. 2016) (unit: nats)."""
    training_samples: Size = 1
    """Codes of each example in the loss; more than one: the importance-weighted bound (Burda et al. 2016)."""
    importance_samples: tuple[Size, ...] = (5, 50)
    """Evaluations report the importance-weighted bound with each of these numbers of samples, as nll_iw<K>; of grey
    pixels, which are no draws from the model, as grey_bound_iw<K>."""


class Embedding(nn.Module):
    """Maps raw examples [B, ...] to the mean of their latent variables [B, L]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, data: Tensor) -> Tensor:
        """Return [B, L]."""
        mean: Tensor = self.encoder(unit_range(data))[0]
        return mean


class VAE(JudgedModel):
    """Autoencoder with a stochastic code, minimising the negative evidence lower bound (nats per example).

    References: Kingma and Welling (2014) for the bound, its closed-form divergence and the reparameterisation; Burda
    et al. (2016) for the importance-weighted bounds, in training and evaluation, dynamic binarisation and active units.
    Departures: any of torch's optimisers; free bits are counted for each example, where Kingma et al. (2016) take the
    mean over the batch, which would couple its examples. A linear VAE (no hidden layers, gaussian likelihood, fewer
    codes than dimensions) has probabilistic PCA as its optimum (Lucas et al. 2019), see `probabilistic_pca`.

    The noise of the reparameterisation is a field of the prepared batch: the loss is a function of its batch.
    """

    Config = VAEConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="negative evidence lower bound"),
        "reconstruction": Metric(better="min", unit="nats", meaning="-log p(x|z)"),
        "elbo": Metric(
            better="max", unit="nats", meaning="evidence lower bound, beside the tighter one that is trained"
        ),
        "kl": Metric(unit="nats", meaning="divergence of the code from its prior"),
        "nll_iw*": Metric(better="min", unit="nats", meaning="importance-weighted bound on -log p(x)"),
        "grey_bound_iw*": Metric(better="min", unit="nats", meaning="the same of grey pixels, which is no likelihood"),
        "squared_error": Metric(better="min", meaning="of the decoded mean of the code, summed over the numbers"),
        "active_units": Metric(better="max", meaning="latent variables whose mean varies with x by more than 0.01"),
        "alarm_posterior_collapse": Metric(better="min", meaning="1 where hardly any latent variable is active"),
    }

    def __init__(self, config: VAEConfig, spec: Spec) -> None:
        """Build encoder and decoder for the field `image` [C, H, W] or `point` [D]."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        _check(config, self.field)
        self.shape, size, hidden = example.shape, size_of(example), config.hidden_sizes
        self.classes = _classes(spec) if config.conditional else 0
        self.likelihood = _likelihood(config, bounded=self.field == "image")
        self.encoder: nn.Module
        self.decoder: nn.Module
        inputs, outputs = config.latent_size + self.classes, self.likelihood.outputs
        if config.network == "conv":
            width = hidden[-1]
            self.encoder = ConvolutionalEncoder(example, config.latent_size, config.channels, width, self.classes)
            self.decoder = ConvolutionalDecoder(inputs, example, config.channels, width, outputs)
        else:
            self.encoder = GaussianEncoder(size + self.classes, config.latent_size, hidden, config.activation)
            self.decoder = MLP((inputs, *reversed(hidden), size * outputs), config.activation)
        self.take_on_judges(config, spec)
        self._told = False

    def phases(self) -> list[Phase]:
        """Return the one phase; the warm-up reads the progress of the run, so that it cannot be compiled."""
        learnt = tuple(parameter for parameter in self.parameters() if parameter.requires_grad)
        return [Phase("autoencode", self.loss, learnt, compilable=not self.config.kl_warmup_updates)]

    def prepare(self, trajectory: Batch) -> Batch:
        """Scale images to 0..1, draw their bits where configured, and draw the noise [B, L] of the code."""
        self.check_judges()
        if self.field == "image" and self.progress.updates == 0:  # later it would make every step wait for the device
            check_unit_range(trajectory[self.field])
        data = unit_range(trajectory[self.field])
        if self.config.binarize == "dynamic":
            data = self.noise.bernoulli(data)
        samples = self.config.training_samples
        shape = (self.config.latent_size,) if samples == 1 else (samples, self.config.latent_size)
        return {**trajectory, self.field: data, "noise": self.noise.normal(len(data), *shape)}

    def loss(self, batch: Batch) -> Loss:
        """Return reconstruction + beta * divergence [B], or minus the importance-weighted bound."""
        if self.config.training_samples > 1:
            mean, log_variance = self.encode(batch)
            log_weights = self._log_weights(batch, mean, log_variance, batch["noise"].movedim(1, 0))
            return Loss(-importance_weighted_bound(log_weights), {"elbo": log_weights.detach().mean(0)})
        reconstruction, divergences = self._bound(batch)
        warmup = self.config.kl_warmup_updates
        weight = self.config.beta * (min(1.0, self.progress.updates / warmup) if warmup else 1.0)
        metrics = {"reconstruction": reconstruction.detach(), "kl": divergences.detach().sum(1)}
        paid = divergences.clamp(min=self.config.free_bits) if self.config.free_bits else divergences
        return Loss(reconstruction + weight * paid.sum(1), metrics)

    def _condition(self, batch: Batch) -> Tensor | None:
        """Return the labels as one-hot numbers [B, C]; None without condition."""
        return one_hot(batch["label"], self.classes) if self.classes else None

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the codes of a prepared batch, [B, L] each."""
        mean, log_variance = self.encoder(batch[self.field], self._condition(batch))
        return mean, log_variance

    def _decoded(self, code: Tensor, condition: Tensor | None) -> Tensor:
        """Return the decoder's outputs [..., D * outputs] for codes [..., B, L] under conditions [B, C]."""
        if condition is not None:
            code = torch.cat((code, condition.expand(*code.shape[:-1], -1)), -1)
        flat: Tensor = self.decoder(code.reshape(-1, code.shape[-1]))
        return flat.reshape(*code.shape[:-1], -1)

    def _bound(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return -log p(x|z) [B] with the batch's noise, and the divergence of each latent variable [B, L]."""
        mean, log_variance = self.encode(batch)
        noise = batch["noise"] if batch["noise"].ndim == 2 else batch["noise"][:, 0]
        decoded = self._decoded(mean + (0.5 * log_variance).exp() * noise, self._condition(batch))
        data = batch[self.field].flatten(1)
        return -self.likelihood.log_density(data, decoded), standard_normal_divergences(mean, log_variance)

    def _log_weights(self, batch: Batch, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Return log p(x, z) - log q(z|x) [K, B] of the codes with noise [K, B, L]."""
        code = mean + (0.5 * log_variance).exp() * noise
        # The constants of the two normal densities cancel.
        ratio = 0.5 * (noise.square() + log_variance - code.square()).sum(-1)
        decoded = self._decoded(code, self._condition(batch))
        return self.likelihood.log_density(batch[self.field].flatten(1), decoded) + ratio

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return bounds on -log p(x), [B] in nats: `loss` by one sample, `bound_name` by more; its parts; the error."""
        reconstruction, divergences = self._bound(batch)
        divergence = divergences.sum(1)
        found = {"loss": reconstruction + divergence, "reconstruction": reconstruction, "kl": divergence}
        if self.config.importance_samples:
            log_weights = self.log_weights(batch, max(self.config.importance_samples))
            for count in self.config.importance_samples:
                found[self.bound_name(count)] = -importance_weighted_bound(log_weights[:count])
        mean, _ = self.encode(batch)
        rebuilt = self.likelihood.mean(self._decoded(mean, self._condition(batch)))
        error = (rebuilt - batch[self.field].flatten(1)).square().sum(1)
        return {**found, "squared_error": error, "_mean": mean}

    def bound_name(self, count: int) -> str:
        """Return the name of the bound by `count` codes: a number on grey pixels is not called a likelihood.

        Under a Bernoulli likelihood they are no outcomes but probabilities, and a density of them has no lower end.
        """
        outcomes = self.field == "point" or self.config.binarize != "none" or self.config.likelihood == "categorical"
        return f"{'nll' if outcomes else 'grey_bound'}_iw{count}"

    def least_nats(self, examples: Batch) -> Tensor | None:
        """Return the entropy [B] of the bits that raw examples are drawn as, below whose mean no bound can lie.

        None without dynamic binarisation.
        """
        if self.config.binarize != "dynamic":
            return None
        return bernoulli_entropy(unit_range(examples[self.field]).flatten(1).double())

    def log_weights(self, batch: Batch, count: int) -> Tensor:
        """Return log p(x, z) - log q(z|x) of `count` codes of a prepared batch, [count, B]; some codes at a time."""
        mean, log_variance = self.encode(batch)
        chunk = max(1, _CHUNK // (batch[self.field].numel() * self.likelihood.outputs))
        found = []
        for start in range(0, count, chunk):
            noise = torch.randn(min(chunk, count - start), *mean.shape, device=mean.device)
            found.append(self._log_weights(batch, mean, log_variance, noise))
        return torch.cat(found)

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the active units (Burda et al. 2016, section 5.2) and whether the posterior has collapsed."""
        active = (outputs["_mean"].var(0, correction=0) > _ACTIVE).sum()
        alarm = collapse(int(active), self.config.latent_size)
        if alarm.raised and not self._told:
            self._told = True
            _log.warning("update %d, %s", self.progress.updates, alarm)
        found = {"active_units": active.float(), "alarm_posterior_collapse": torch.tensor(float(alarm.raised))}
        return found, {"alarms": Figure("text", text=str(alarm))} if alarm.raised else {}

    def decode(self, code: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z) for codes [B, L] (and labels [B]), [B, *shape]: images in 0..1 or points.

        A conditional model without labels decodes all classes in turn.
        """
        if self.classes and label is None:
            label = torch.arange(len(code), device=code.device) % self.classes
        condition = one_hot(label, self.classes) if self.classes and label is not None else None
        return self.likelihood.mean(self._decoded(code, condition)).reshape(-1, *self.shape)

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return samples from the same codes at every call and pictures of the space of codes.

        Those are the plane of the two codes that tell most, with the classes; of images also reconstructions below
        their originals, traversals of the codes, those that tell most first, interpolations between examples and, of
        two codes, the whole manifold.
        """
        data, size = batch[self.field], self.config.latent_size
        mean, log_variance = self.encode(batch)
        order = standard_normal_divergences(mean, log_variance).mean(0).argsort(descending=True)
        shown = {}
        if size >= 2:
            groups = batch.get("label")
            labels = self.spec["label"].labels if groups is not None else ()
            shown["latent_means"] = latent_pictures.plane(mean, order, groups, labels)
        columns = self.classes or 8  # of a conditional model each column is a class
        samples = self.decode(shown_latents(8 * columns if self.field == "image" else 1000, size, data.device))
        if self.field == "point":
            return {**shown, "samples": drawn(self._with_noise(samples, None), data[:1000], animate=True)}
        labels_of = batch.get("label")
        rebuilt = self.decode(mean[:32], labels_of[:32] if self.classes and labels_of is not None else None)
        shown["samples"] = Figure("images", samples, columns=columns, animate=True)
        shown["reconstructions"] = originals_above(data[:32], rebuilt)
        if self.classes:
            return shown  # codes mean something beside a label only
        shown["traversals"] = latent_pictures.traversals(self.decode, mean[0], order)
        if len(mean) >= 2:
            shown["interpolations"] = latent_pictures.interpolations(self.decode, mean)
        if size == 2:
            shown["manifold"] = latent_pictures.manifold(self.decode, data.device)
        return shown

    def _with_noise(self, means: Tensor, generator: torch.Generator | None) -> Tensor:
        assert isinstance(self.likelihood, Gaussian)
        noise = torch.randn(means.shape, generator=generator, device=generator.device if generator else means.device)
        return means + (0.5 * self.likelihood.log_variance).exp() * noise.to(means.device)

    def sample(self, count: int, generator: torch.Generator, *, walk: bool = False, label: int | None = None) -> Figure:
        """Draw samples: points from p(x), of images the mean of p(x|z) with z from the prior; of `label`, if given.

        With `walk`, an animation from each image to the next and back to the first.
        """
        check_walk(walk, self.field)
        code = torch.randn(count, self.config.latent_size, generator=generator, device=generator.device)
        labels = self._asked(label, count)
        if walk:
            if self.classes and labels is None:
                labels = torch.arange(count, device=next(self.parameters()).device) % self.classes
            code = round_trip(code, WALK_STEPS)
            labels = None if labels is None else labels.repeat_interleave(WALK_STEPS)
        with torch.no_grad():
            means = self.decode(code.to(next(self.parameters()).device), labels)
            if walk:
                return Figure("animation", means)
            return drawn(self._with_noise(means, generator) if self.field == "point" else means)

    def _asked(self, label: int | None, count: int) -> Tensor | None:
        """Return the labels of samples, all alike; None where none is asked for, UserError where there is no such."""
        if label is None:
            return None
        if not self.classes:
            raise UserError("sample: label is for conditional models; remove it, or train with algorithm.conditional")
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < self.classes:
            raise UserError(f"sample: label is {label!r}; write a class from 0 to {self.classes - 1}")
        return torch.full((count,), label, device=next(self.parameters()).device)

    def inference_module(self) -> nn.Module | None:
        """Return the module that maps raw examples to the mean of their codes [B, L]; it shares the weights.

        None for a conditional model, which needs the label too.
        """
        return None if self.classes else Embedding(self.encoder)

    def inference_input(self) -> str:
        """Return the field that is modelled."""
        return self.field


def collapse(active: int, latent_size: int) -> Alarm:
    """Look at the number of active units: below a quarter of the latent variables the posterior has collapsed."""
    reason = f"{active} of {latent_size} latent variables tell anything of the example"
    remedy = "try algorithm.free_bits=0.1, a longer algorithm.kl_warmup_updates, or a smaller algorithm.beta"
    return Alarm("posterior_collapse", reason if active < max(1, latent_size / 4) else None, remedy)


def _check(config: VAEConfig, field: str) -> None:
    """Raise UserError for settings that do not fit together or the field."""
    if field == "point" and config.likelihood != "gaussian":
        raise UserError("algorithm.likelihood: points are real numbers; use gaussian")
    if config.likelihood != "bernoulli" and config.binarize == "dynamic":
        raise UserError("algorithm.binarize: bits need the likelihood bernoulli; set binarize to none")
    if config.likelihood != "gaussian" and config.deviation is not None:
        raise UserError("algorithm.deviation: only the likelihood gaussian has one; remove it")
    if config.network == "conv" and not config.hidden_sizes:
        raise UserError("algorithm.hidden_sizes: conv needs the width of its last hidden layer; write [128]")
    if config.training_samples > 1 and (config.beta != 1 or config.kl_warmup_updates or config.free_bits):
        raise UserError(
            "algorithm.training_samples: the importance-weighted bound has no divergence to weigh; leave out beta, "
            "kl_warmup_updates and free_bits, or set training_samples to 1"
        )


def _classes(spec: Spec) -> int:
    label = spec.get("label")
    if label is None or not isinstance(label.num_values, int):
        raise UserError(
            f"algorithm.conditional: the data have no field label with classes, but {sorted(spec)}; set it to false"
        )
    return label.num_values


def _likelihood(config: VAEConfig, bounded: bool) -> Likelihood:
    if config.likelihood == "bernoulli":
        return Bernoulli()
    return Gaussian(config.deviation, bounded) if config.likelihood == "gaussian" else Categorical(config.levels)
