"""Sigmoid belief network: Neal (1992), learnt by wake-sleep: Hinton, Dayan, Frey and Neal (1995)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_generative.equations.densities import bernoulli_log_density, importance_weighted_bound
from rayloom_generative.fields import originals_above, size_of, unit_range

Size = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class SigmoidBeliefNetConfig(AlgorithmConfig):
    """Settings of the sigmoid belief network."""

    hidden_sizes: tuple[Size, ...] = (32, 16)
    """Binary units of the hidden layers, the one next to the pixels first."""
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Pixels above it, of 0..1, are 1."""
    importance_samples: tuple[Size, ...] = (50,)
    """Evaluations report the importance-weighted bound with each of these numbers of samples."""


class SigmoidBeliefNet(Algorithm):
    """Layers of binary units, each given those above: p(x=1|h) = sigmoid(W h + b); the top ones are independent.

    A recognition network of the same form, upwards, infers the hidden units. Wake: they are drawn by it for data, and
    the generative weights climb log p(x, h). Sleep: the network dreams, and the recognition weights climb
    log q(h|x). Both gradients are the local delta rule. References: as in the module. Departures: a recognition
    network instead of Neal's Gibbs sampling; any of torch's optimisers.
    """

    Config = SigmoidBeliefNetConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="bound on -log p(x) by one sample of the hidden units"),
        "wake/loss": Metric(better="min", unit="nats", meaning="-log p(x, h)"),
        "sleep/loss": Metric(better="min", unit="nats", meaning="-log q(h|x) of dreams"),
        "nll_iw*": Metric(better="min", unit="nats", meaning="importance-weighted bound on -log p(x)"),
    }

    def __init__(self, config: SigmoidBeliefNetConfig, spec: Spec) -> None:
        """Build both networks for the field `image` [C, H, W]."""
        super().__init__(config, spec)
        if "image" not in spec or len(spec["image"].shape) != 3:
            raise UserError(f"source.dataset: a sigmoid belief network needs the field image, not {sorted(spec)}")
        if not config.hidden_sizes:
            raise UserError("algorithm.hidden_sizes: give at least one hidden layer, as [32]")
        self.shape = spec["image"].shape
        self.sizes = (size_of(spec["image"]), *config.hidden_sizes)
        pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        self.top = nn.Parameter(torch.zeros(self.sizes[-1]))
        self.generative = nn.ModuleList([nn.Linear(above, below) for below, above in pairs])
        self.recognition = nn.ModuleList([nn.Linear(below, above) for below, above in pairs])

    def phases(self) -> list[Phase]:
        """Return wake and sleep, each with its own weights."""
        generative = (self.top, *self.generative.parameters())
        return [
            Phase("wake", self.wake, generative),
            Phase("sleep", self.sleep, tuple(self.recognition.parameters())),
        ]

    def prepare(self, trajectory: Batch) -> Batch:
        """Turn images into bits [B, D], and draw uniform numbers for all units of both passes, [B, D + hidden]."""
        bits = (unit_range(trajectory["image"]).flatten(1) > self.config.threshold).float()
        names = ("inferred", "dreamt")
        return {**trajectory, "image": bits, **{name: self.noise.uniform(len(bits), sum(self.sizes)) for name in names}}

    def infer(self, bits: Tensor, uniform: Tensor) -> list[Tensor]:
        """Return hidden layers [..., H] drawn from q(h|x) with uniform numbers [..., D + hidden], upwards."""
        layers, state = [], bits
        for layer, noise in zip(self.recognition, torch.split(uniform, list(self.sizes), -1)[1:], strict=True):
            state = (noise < layer(state).sigmoid()).to(bits.dtype)
            layers.append(state)
        return layers

    def dream(self, uniform: Tensor) -> list[Tensor]:
        """Return all layers drawn from p, bits first: [..., D] and the hidden ones."""
        noise = torch.split(uniform, list(self.sizes), -1)
        state = (noise[-1] < self.top.sigmoid()).to(uniform.dtype)
        layers = [state]
        for layer, below in zip(reversed(self.generative), reversed(noise[:-1]), strict=True):
            state = (below < layer(state).sigmoid()).to(uniform.dtype)
            layers.insert(0, state)
        return layers

    def joint_log_probability(self, layers: Sequence[Tensor]) -> Tensor:
        """Return log p(x, h) [...] of all layers, bits first."""
        found = bernoulli_log_density(layers[-1], self.top.expand_as(layers[-1]))
        for layer, below, above in zip(self.generative, layers[:-1], layers[1:], strict=True):
            found = found + bernoulli_log_density(below, layer(above))
        return found

    def recognition_log_probability(self, layers: Sequence[Tensor]) -> Tensor:
        """Return log q(h|x) [...] of all layers, bits first."""
        found = torch.zeros(layers[0].shape[:-1], device=layers[0].device, dtype=layers[0].dtype)
        for layer, below, above in zip(self.recognition, layers[:-1], layers[1:], strict=True):
            found = found + bernoulli_log_density(above, layer(below))
        return found

    def wake(self, batch: Batch) -> Loss:
        """Return -log p(x, h) [B] with h inferred from the data."""
        layers = [batch["image"], *self.infer(batch["image"], batch["inferred"])]
        return Loss(-self.joint_log_probability(layers))

    def sleep(self, batch: Batch) -> Loss:
        """Return -log q(h|x) [B] of a dream."""
        return Loss(-self.recognition_log_probability(self.dream(batch["dreamt"])))

    def log_weights(self, bits: Tensor, uniform: Tensor) -> Tensor:
        """Return log p(x, h) - log q(h|x) [...] with h from q."""
        layers = [bits, *self.infer(bits, uniform)]
        return self.joint_log_probability(layers) - self.recognition_log_probability(layers)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return bounds on -log p(x), [B] in nats: `loss` by one sample, `nll_iw<K>` by K."""
        bits = batch["image"]
        found = {"loss": -self.log_weights(bits, batch["inferred"])}
        if self.config.importance_samples:
            most = max(self.config.importance_samples)
            uniform = torch.rand(most, len(bits), sum(self.sizes), device=bits.device)
            weights = self.log_weights(bits.expand(most, -1, -1), uniform)
            for count in self.config.importance_samples:
                found[f"nll_iw{count}"] = -importance_weighted_bound(weights[:count])
        return found

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Return dreams, and reconstructions from the lowest hidden layer below their originals."""
        bits = batch["image"][:32]
        hidden = self.infer(bits, batch["inferred"][:32])[0]
        back = self.generative[0](hidden).sigmoid()
        shown = originals_above(bits.reshape(-1, *self.shape), back.reshape(-1, *self.shape))
        return {"samples": self.sample(64, torch.Generator().manual_seed(0)), "reconstructions": shown}

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        """Dream: the chances of the pixels given hidden units drawn from p."""
        uniform = torch.rand(count, sum(self.sizes), generator=generator, device=generator.device)
        with torch.no_grad():
            hidden = self.dream(uniform.to(self.top.device))[1]
            return Figure("images", self.generative[0](hidden).sigmoid().reshape(-1, *self.shape))
