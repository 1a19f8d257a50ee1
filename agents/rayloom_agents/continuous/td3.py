"""Twin delayed deep deterministic policy gradient: Fujimoto et al. 2018, arXiv 1802.09477; and DDPG before it.

Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv 1509.02971) is the same with one critic, no smoothing
and no delay. Departure from that paper: normal exploration noise instead of an Ornstein-Uhlenbeck process.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import nn

from rayloom.contract import Action, Batch, Loss, Metric, Phase, Spec, gather_parts
from rayloom_agents.continuous.sac import Deterministic
from rayloom_agents.policies.bounded import BoundedActor, BoundedConfig


@dataclass(frozen=True, kw_only=True)
class TD3Config(BoundedConfig):
    """Settings of TD3."""

    exploration_noise: Annotated[float, Ge(0)] = 0.1
    """Standard deviation of what is added to actions in -1..1 while collecting."""
    target_noise: Annotated[float, Ge(0)] = 0.2
    """Standard deviation of what is added to the targets' actions in -1..1."""
    target_noise_limit: Annotated[float, Ge(0)] = 0.5
    """Where that is cut off."""
    policy_delay: Annotated[int, Ge(1)] = 2
    """Updates of the critics for one of the policy and of the slow networks (unit: updates)."""
    num_critics: Annotated[int, Ge(1)] = 2
    """Critics, of which the least counts in the targets; the first one leads the policy."""


class TD3(BoundedActor):
    """Twin delayed deep deterministic policy gradient."""

    Config = TD3Config
    metrics: ClassVar[Mapping[str, Metric]] = {
        "q_value": Metric(unit="return", meaning="mean of the critics, of the action taken"),
        "td_error": Metric(better="min", unit="return", meaning="size of the first critic's error"),
        "policy_value": Metric(unit="return", meaning="of the policy's actions, by the first critic"),
    }
    config: TD3Config

    @classmethod
    def compiles_from(cls, config: Any) -> int | None:
        """Return what was measured on Pendulum."""
        return 14_000

    def __init__(self, config: TD3Config, spec: Spec) -> None:
        """Build the networks; actions must be one bounded vector."""
        super().__init__(config, spec, num_critics=config.num_critics, outputs_per_action=1)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def phases(self) -> list[Phase]:
        """Return the critics', and the delayed policy's."""
        return [
            Phase("critics", self.critics_loss, self._critic_parameters()),
            Phase("actor", self.actor_loss, self._actor_parameters(), every=self.config.policy_delay),
        ]

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        """Return the policy's actions; with `explore` noise is added, and at the start they are uniform."""
        action = torch.tanh(self._actor_outputs(observation))
        if explore is None:
            return self._stretched(action)
        if self._is_random():
            return self._stretched(self._uniform(len(action), explore))
        noise = self.config.exploration_noise * torch.randn(action.shape, generator=explore)
        return self._stretched((action + noise).clamp(-1, 1))

    def critics_loss(self, batch: Batch) -> Loss:
        """Return the squared errors of the critics, summed [B]; the first one's size is the priority."""
        config = self.config
        with torch.no_grad():
            action = torch.tanh(self.target_actor(self.target_encoder(gather_parts(batch, "next_observation"))))
            if config.target_noise:
                noise = config.target_noise * self.noise.normal(*action.shape)
                limit = config.target_noise_limit
                action = (action + noise.clamp(-limit, limit)).clamp(-1, 1)
            target = self._targets(batch, self._next_values(batch, action))
        values = self._q_values(batch, batch["action"])
        error = values - target
        size = error[0].detach().abs()
        return Loss(error.square().sum(0), {"q_value": values.detach().mean(0), "td_error": size}, priorities=size)

    def actor_loss(self, batch: Batch) -> Loss:
        """Return what the first critic thinks of the policy's actions, negated [B]."""
        action = torch.tanh(self.actor(self.encoder(gather_parts(batch, "observation"))))
        value = self._q_values(batch, action)[0]
        return Loss(-value, {"policy_value": value.detach()})

    def after_update(self, update: int) -> None:
        """Let the slow networks follow, as often as the policy changes."""
        if update % self.config.policy_delay == 0:
            self._follow(
                {
                    self.target_critics: self.critics,
                    self.target_critic_encoder: self.critic_encoder,
                    self.target_actor: self.actor,
                    self.target_encoder: self.encoder,
                }
            )

    def inference_module(self) -> nn.Module | None:
        """Return the policy: observations [B, ...] to actions; None for nested observations."""
        return Deterministic(self, half=False) if "observation" in self.spec else None


@dataclass(frozen=True, kw_only=True)
class DDPGConfig(TD3Config):
    """Settings of DDPG."""

    target_noise: Annotated[float, Ge(0)] = 0.0
    """Standard deviation of what is added to the targets' actions in -1..1."""
    policy_delay: Annotated[int, Ge(1)] = 1
    """Updates of the critic for one of the policy and of the slow networks (unit: updates)."""
    num_critics: Annotated[int, Ge(1)] = 1
    """Critics, of which the least counts in the targets; the first one leads the policy."""


class DDPG(TD3):
    """Deep deterministic policy gradient."""

    Config = DDPGConfig

    @classmethod
    def compiles_from(cls, config: Any) -> int | None:
        """Return TD3's, whose step it takes."""
        return super().compiles_from(config)
