"""Soft actor-critic with twin critics and an automatic temperature: Haarnoja et al. 2018, arXiv 1812.05905.

Departures from the paper: n-step targets, where the source collects them, count the entropy of the last successor
only; the temperature's logarithm is what is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn.functional import softplus

from rayloom.contract import Action, Batch, Loss, Metric, Phase, Spec, gather_parts
from rayloom_agents.policies.bounded import BoundedActor, BoundedConfig

LOG_STD_RANGE = (-5.0, 2.0)
_LOG_TWO_PI = math.log(2 * math.pi)


class SAC(BoundedActor):
    """Soft actor-critic; its policy is a normal distribution squashed by tanh."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "q_value": Metric(unit="return", meaning="mean of the critics, of the action taken"),
        "td_error": Metric(better="min", unit="return", meaning="size of the first critic's error"),
        "entropy": Metric(unit="nats", meaning="of the squashed policy in -1..1, estimated from one action"),
        "alpha": Metric(unit="return per nat", meaning="temperature"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(BoundedConfig):
        """Settings of SAC."""

        temperature: Annotated[float, Gt(0)] = 1.0
        """Weight of the entropy at the start (unit: return per nat)."""
        learn_temperature: bool = True
        """Steer the temperature to the target entropy; false: it stays."""
        target_entropy: float | None = None
        """Entropy that the temperature steers to (unit: nats); null: minus the number of action dimensions."""
        temperature_rate: Annotated[float, Gt(0)] | None = None
        """Learning rate of the temperature; null: the optimiser's."""

    config: Config

    @classmethod
    def compiles_from(cls, config: Any) -> int | None:
        """Return what was measured on Pendulum."""
        return 9_000

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the networks; actions must be one bounded vector."""
        super().__init__(config, spec, num_critics=2, outputs_per_action=2)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(config.temperature)), config.learn_temperature)
        wanted = config.target_entropy
        self.target_entropy = -float(len(self.scale)) if wanted is None else wanted

    def phases(self) -> list[Phase]:
        """Return the critics', and the policy's with the temperature's."""
        config, actor = self.config, self._actor_parameters()
        if not config.learn_temperature:
            return [
                Phase("critics", self.critics_loss, self._critic_parameters()),
                Phase("actor", self.actor_loss, actor),
            ]
        rate = {} if config.temperature_rate is None else {"learning_rate": config.temperature_rate}
        return [
            Phase("critics", self.critics_loss, self._critic_parameters()),
            Phase("actor", self.actor_loss, (*actor, self.log_alpha), groups=(((self.log_alpha,), rate),)),
        ]

    def _policy(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation [B, A] before the squashing."""
        mean, log_std = outputs.chunk(2, dim=1)
        low, high = LOG_STD_RANGE
        return mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)

    def propose(self, observation: Any) -> tuple[Tensor, Tensor]:
        """Return actions [B, A] in -1..1 and their log-probabilities [B] (appendix C of the paper)."""
        mean, log_std = self._policy(self.actor(self.encoder(observation)))
        noise = self.noise.normal(*mean.shape)
        raw = mean + log_std.exp() * noise
        return torch.tanh(raw), squashed_log_density(noise, log_std, raw)

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        """Sample from the policy, at the start uniformly; without `explore` take the mode before the squashing."""
        mean, log_std = self._policy(self._actor_outputs(observation))
        if explore is None:
            return self._stretched(torch.tanh(mean))
        if self._is_random():
            return self._stretched(self._uniform(len(mean), explore))
        noise = torch.randn(mean.shape, generator=explore)
        return self._stretched(torch.tanh(mean + log_std.exp() * noise))

    def critics_loss(self, batch: Batch) -> Loss:
        """Return the squared errors of both critics, summed [B] (equation 5); the first one's size is the priority."""
        with torch.no_grad():
            action, log_probability = self.propose(gather_parts(batch, "next_observation"))
            following = self._next_values(batch, action) - self.log_alpha.exp() * log_probability
            target = self._targets(batch, following)
        values = self._q_values(batch, batch["action"])
        error = values - target
        size = error[0].detach().abs()
        return Loss(error.square().sum(0), {"q_value": values.detach().mean(0), "td_error": size}, priorities=size)

    def actor_loss(self, batch: Batch) -> Loss:
        """Return alpha log pi - Q of the policy's action [B] (equation 7), and the temperature's loss (equation 18)."""
        action, log_probability = self.propose(gather_parts(batch, "observation"))
        value = self._q_values(batch, action).amin(0)
        loss = self.log_alpha.exp().detach() * log_probability - value
        if self.config.learn_temperature:
            loss = loss - self.log_alpha * (log_probability.detach() + self.target_entropy)
        return Loss(loss, {"entropy": -log_probability.detach(), "alpha": self.log_alpha.detach().exp()})

    def after_update(self, update: int) -> None:
        """Let the slow critics follow."""
        self._follow({self.target_critics: self.critics, self.target_critic_encoder: self.critic_encoder})

    def inference_module(self) -> nn.Module | None:
        """Return the deterministic policy: observations [B, ...] to actions; None for nested observations."""
        return Deterministic(self, half=True) if "observation" in self.spec else None


def squashed_log_density(noise: Tensor, log_std: Tensor, raw: Tensor) -> Tensor:
    """Return log p(tanh(raw)) [B] of raw = mean + std * noise [B, A], noise standard normal (equation 26).

    log N(noise) - log std - log(1 - tanh(raw)^2), the last in a form that does not overflow.
    """
    log_density = -0.5 * noise.square() - log_std - 0.5 * _LOG_TWO_PI
    log_slope = 2 * (math.log(2) - raw - softplus(-2 * raw))
    return (log_density - log_slope).sum(1)


class Deterministic(nn.Module):
    """The best action that a policy network knows, in the environment's range; it shares the weights."""

    middle: Tensor
    scale: Tensor

    def __init__(self, algorithm: BoundedActor, half: bool) -> None:
        """Take the first `half` of the outputs (the means), or all of them."""
        super().__init__()
        self.encoder, self.actor, self._half = algorithm.encoder, algorithm.actor, half
        self.normalizer = algorithm.normalizer
        self.register_buffer("middle", algorithm.middle)
        self.register_buffer("scale", algorithm.scale)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the actions [B, A]."""
        known = observation if self.normalizer is None else self.normalizer(observation)
        outputs = self.actor(self.encoder(known))
        if self._half:
            outputs = outputs.chunk(2, dim=1)[0]
        return self.middle + self.scale * torch.tanh(outputs)
