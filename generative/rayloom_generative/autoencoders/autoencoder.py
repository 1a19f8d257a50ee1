"""Autoencoder, also denoising (Vincent et al. 2008) and sparse (Ng 2011)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from rayloom.contract import (
    Algorithm,
    AlgorithmConfig,
    Batch,
    Figure,
    Gathered,
    Loss,
    Metric,
    Phase,
    Rule,
    Spec,
    UserError,
)
from rayloom_generative.autoencoders import latent_pictures
from rayloom_generative.equations.densities import bernoulli_log_density
from rayloom_generative.fields import check_unit_range, data_field, originals_above, size_of, unit_range
from rayloom_supervised.layers.activations import Activation, activation_module
from rayloom_supervised.networks.perceptrons import MLP

Size = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(AlgorithmConfig):
    """Settings of the autoencoder."""

    code_size: Size = 8
    """Numbers of the code; more than the data have for an overcomplete one."""
    hidden_sizes: tuple[Size, ...] = (128, 128)
    """Units of the encoder's hidden layers, in reverse those of the decoder; []: one layer each."""
    activation: Activation = "relu"
    """Nonlinearity of the hidden layers."""
    code_activation: Literal["none", "logistic"] = "none"
    """Nonlinearity of the code."""
    reconstruction: Literal["squared_error", "cross_entropy"] = "squared_error"
    """What is minimised: the squared error, or the cross-entropy of numbers in 0..1 (images only)."""
    corruption: Literal["none", "masking", "salt_and_pepper", "gaussian"] = "none"
    """What is done to the input, of which the clean example is to be rebuilt: numbers set to 0; set to 0 or 1; normal
    noise added."""
    corruption_level: Annotated[float, Ge(0)] = 0.3
    """Share of the numbers that are set, or the standard deviation of the noise."""
    sparsity_weight: Annotated[float, Ge(0)] = 0.0
    """Weight of the divergence of the units' mean activities from `sparsity` (a code of logistic units only)."""
    sparsity: Annotated[float, Gt(0), Lt(1)] = 0.05
    """Mean activity that every unit of the code should have."""


class Code(nn.Module):
    """Maps raw examples [B, ...] to their codes [B, L]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, data: Tensor) -> Tensor:
        """Return [B, L]."""
        code: Tensor = self.encoder(unit_range(data).flatten(1))
        return code


class Autoencoder(Algorithm):
    """Rebuilds examples, or clean ones from corrupted ones, from a code.

    References: Rumelhart, Hinton and Williams (1986); Vincent et al. (2008), "Extracting and composing robust features
    with denoising autoencoders", for the corruptions; Ng (2011), "Sparse autoencoder" (CS294A lecture notes), for the
    penalty sum_j KL(sparsity || mean activity of unit j over the batch). The mean is over the examples of all learners:
    a rule sums it up before each step, and the loss is the penalty's expansion to first order around it, which has the
    same value and gradient and keeps examples apart. Departures: weights of encoder and decoder are not tied.
    """

    Config = AutoencoderConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", meaning="what is minimised, with the penalty"),
        "squared_error": Metric(better="min", meaning="of the clean example, summed over its numbers"),
        "denoised_error": Metric(better="min", meaning="squared error of what is rebuilt from a corrupted example"),
        "corrupted_error": Metric(meaning="squared error of the corrupted example itself"),
        "activity": Metric(meaning="mean of the code"),
        "sparsity_divergence": Metric(better="min", unit="nats", meaning="of the mean activities, over the units"),
    }
    mean_activity: Tensor

    def __init__(self, config: AutoencoderConfig, spec: Spec) -> None:
        """Build encoder and decoder for the field `image` [C, H, W] or `point` [D]."""
        super().__init__(config, spec)
        self.field, example = data_field(spec)
        self.shape, size = example.shape, size_of(example)
        _check(config, self.field)
        coder = MLP((size, *config.hidden_sizes, config.code_size), config.activation)
        squashed = config.code_activation == "logistic"
        self.encoder = nn.Sequential(coder, activation_module("logistic")) if squashed else coder
        self.decoder = MLP((config.code_size, *reversed(config.hidden_sizes), size), config.activation)
        if config.sparsity_weight:
            self.register_buffer("mean_activity", torch.full((config.code_size,), config.sparsity))

    def phases(self) -> list[Phase | Rule]:
        """Return the phase and, for the sparsity, the rule before it that finds the mean activities."""
        steps: list[Phase | Rule] = [Phase("autoencode", self.loss, tuple(self.parameters()))]
        if self.config.sparsity_weight:
            steps.insert(0, Rule("activity", self.gather, self.keep, (self.mean_activity,)))
        return steps

    def prepare(self, trajectory: Batch) -> Batch:
        """Add `clean` and `corrupted` [B, D]."""
        if self.field == "image" and self.progress.updates == 0:  # later it would make every step wait for the device
            check_unit_range(trajectory[self.field])
        clean = unit_range(trajectory[self.field]).flatten(1)
        return {**trajectory, "clean": clean, "corrupted": self.corrupt(clean)}

    def corrupt(self, clean: Tensor) -> Tensor:
        """Return what the encoder is given in training, [B, D]."""
        kind, level = self.config.corruption, self.config.corruption_level
        if kind == "none":
            return clean
        if kind == "gaussian":
            moved: Tensor = clean + level * self.noise.normal(*clean.shape)
            return moved
        uniform = self.noise.uniform(*clean.shape)
        # Below half the level to 0, from there to the level to 1: one draw decides both whether and what.
        value = torch.zeros_like(clean) if kind == "masking" else (uniform >= level / 2).to(clean)
        return torch.where(uniform < level, value, clean)

    def gather(self, batch: Batch) -> Gathered:
        """Return the sum of the activities [L]."""
        return Gathered({"activity": self.encoder(batch["corrupted"]).sum(0)})

    def keep(self, sums: dict[str, Tensor], count: float) -> None:
        """Keep the mean activities, away from 0 and 1."""
        self.mean_activity.copy_((sums["activity"] / count).clamp(1e-6, 1 - 1e-6))

    def loss(self, batch: Batch) -> Loss:
        """Return the reconstruction's error plus the penalty [B]."""
        code = self.encoder(batch["corrupted"])
        error = self._error(batch["clean"], self.decoder(code))
        if not self.config.sparsity_weight:
            return Loss(error)
        mean = self.mean_activity
        slope = (1 - self.config.sparsity) / (1 - mean) - self.config.sparsity / mean
        divergence = bernoulli_divergence(self.config.sparsity, mean).sum()
        penalty = divergence + (code - mean) @ slope
        metrics = {"sparsity_divergence": divergence, "activity": code.detach().mean(1)}
        return Loss(error + self.config.sparsity_weight * penalty, metrics)

    def _error(self, clean: Tensor, decoded: Tensor) -> Tensor:
        if self.config.reconstruction == "cross_entropy":
            return -bernoulli_log_density(clean, decoded)
        return (clean - decoded).square().sum(1)

    def rebuild(self, data: Tensor) -> Tensor:
        """Return what comes out for flat data [B, D]."""
        return self._visible(self.decoder(self.encoder(data)))

    def _visible(self, decoded: Tensor) -> Tensor:
        return decoded.sigmoid() if self.config.reconstruction == "cross_entropy" else decoded

    def decode(self, code: Tensor) -> Tensor:
        """Return the examples [B, *shape] of codes [B, L], images in 0..1."""
        decoded = self._visible(self.decoder(code)).reshape(-1, *self.shape)
        return decoded.clamp(0, 1) if self.field == "image" else decoded

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the squared errors with and without corruption, and the mean activity, [B]."""
        clean, corrupted = batch["clean"], batch["corrupted"]
        found = {"squared_error": (self.rebuild(clean) - clean).square().sum(1)}
        found["activity"] = self.encoder(clean).mean(1)
        if self.config.corruption != "none":
            found["denoised_error"] = (self.rebuild(corrupted) - clean).square().sum(1)
            found["corrupted_error"] = (corrupted - clean).square().sum(1)
        return found

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return the plane of the two most variable codes and, of images, reconstructions and interpolations."""
        code, shown = self.encoder(batch["clean"]), {}
        if code.shape[1] >= 2:
            order = code.var(0, correction=0).argsort(descending=True)
            groups = batch.get("label")
            labels = self.spec["label"].labels if groups is not None else ()
            shown["codes"] = latent_pictures.plane(code, order, groups, labels)
        if self.field != "image":
            return shown
        given = batch["corrupted"][:32].clamp(0, 1).reshape(-1, *self.shape)
        rebuilt = self.decode(self.encoder(batch["corrupted"][:32]))
        shown["reconstructions"] = originals_above(given, rebuilt)
        if len(code) >= 2:
            shown["interpolations"] = latent_pictures.interpolations(self.decode, code)
        return shown

    def inference_module(self) -> nn.Module:
        """Return the module that maps raw examples to their codes [B, L]; it shares the weights."""
        return Code(self.encoder)

    def inference_input(self) -> str:
        """Return the field that is modelled."""
        return self.field


def bernoulli_divergence(target: float, mean: Tensor) -> Tensor:
    """Return KL(target || mean) of bits with these probabilities, for each of the means [L]."""
    return target * (math.log(target) - mean.log()) + (1 - target) * (math.log(1 - target) - (1 - mean).log())


def _check(config: AutoencoderConfig, field: str) -> None:
    """Raise UserError for settings that do not fit together or the field."""
    if config.sparsity_weight and config.code_activation != "logistic":
        raise UserError("algorithm.code_activation: the sparsity of a code is that of logistic units; use logistic")
    if field == "point" and config.reconstruction == "cross_entropy":
        raise UserError("algorithm.reconstruction: points are real numbers; use squared_error")
    if config.corruption != "gaussian" and config.corruption_level > 1:
        raise UserError("algorithm.corruption_level: a share of the numbers cannot be above 1; lower it")
