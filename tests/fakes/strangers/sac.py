"""Soft actor-critic with twin critics and an automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from rayloom.contract import Action, Algorithm, AlgorithmConfig, Batch, Loss, Metric, Phase, Spec, UserError

LOG_STD_RANGE = (-5.0, 2.0)


def network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers = (nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    return nn.Sequential(*layers)


class SAC(Algorithm):
    """Soft actor-critic; its policy is a normal distribution squashed by tanh into the range of the actions."""

    sources = frozenset({"replay"})
    metrics: ClassVar = {
        "q_value": Metric(unit="return"),
        "entropy": Metric(unit="nats", meaning="of the squashed policy, estimated from one action"),
        "alpha": Metric(unit="return per nat"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        gamma: float = 0.99
        """Discount per step."""
        target_rate: float = 0.005
        """How far the target critics move to the critics in each update."""
        hidden_size: int = 256
        """Units of each of the two hidden layers."""
        random_steps: int = 1_000
        """Environment steps with uniformly random actions (unit: env_steps)."""
        temperature_rate: float = 1e-3
        """Learning rate of the temperature."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        action, (size,) = spec["action"], spec["observation"].shape
        if action.num_values is not None or action.low is None or action.high is None:
            raise UserError("algorithm: SAC needs bounded real actions; choose another environment")
        low, high = torch.tensor(action.low), torch.tensor(action.high)
        self.register_buffer("middle", (high + low) / 2)
        self.register_buffer("scale", (high - low) / 2)
        self.actor = network(size, config.hidden_size, 2 * len(low))
        self.critics = nn.ModuleList(network(size + len(low), config.hidden_size, 1) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.zeros(()))

    def phases(self) -> list[Phase]:
        return [
            Phase("critics", self.critics_loss, tuple(self.critics.parameters())),
            Phase("actor", self.actor_loss, tuple(self.actor.parameters())),
            Phase(
                "temperature",
                self.temperature_loss,
                (self.log_alpha,),
                optimizer={"learning_rate": self.config.temperature_rate},
            ),
        ]

    def policy(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation [B, A] before the squashing."""
        mean, log_std = self.actor(observation).chunk(2, dim=1)
        low, high = LOG_STD_RANGE
        return mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)

    def propose(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions [B, A] in -1..1 and their log-probabilities [B] (appendix C of the paper)."""
        mean, log_std = self.policy(observation)
        noise = self.noise.normal(*mean.shape)
        raw = mean + log_std.exp() * noise
        log_density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        log_squash = 2 * (math.log(2) - raw - softplus(-2 * raw)) + self.scale.log()
        return torch.tanh(raw), (log_density - log_squash).sum(1)

    def values(self, critics: nn.ModuleList, observation: Tensor, action: Tensor) -> Tensor:
        """Return what both critics say [2, B]."""
        joined = torch.cat((observation, action), dim=1)
        return torch.stack([critic(joined).squeeze(1) for critic in critics])

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        mean, log_std = self.policy(observation)
        if explore is None:
            return Action(self.middle + self.scale * torch.tanh(mean))
        noise = torch.randn(mean.shape, generator=explore, device=mean.device)
        uniform = 2 * torch.rand(mean.shape, generator=explore, device=mean.device) - 1
        random = self.progress.env_steps < self.config.random_steps
        return Action(self.middle + self.scale * (uniform if random else torch.tanh(mean + log_std.exp() * noise)))

    def critics_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            action, log_probability = self.propose(batch["next_observation"])
            following = self.values(self.targets, batch["next_observation"], action).amin(0)
            following = following - self.log_alpha.exp() * log_probability
            discounts = self.config.gamma ** torch.arange(batch["reward"].shape[1], device=following.device)
            target = (batch["reward"] * discounts).sum(1)
            target = target + self.config.gamma ** batch["length"] * following * (~batch["terminated"])
        values = self.values(self.critics, batch["observation"], (batch["action"] - self.middle) / self.scale)
        return Loss((values - target).square().sum(0), {"q_value": values.detach().mean(0)})

    def actor_loss(self, batch: Batch) -> Loss:
        action, log_probability = self.propose(batch["observation"])
        value = self.values(self.critics, batch["observation"], action).amin(0)
        loss = self.log_alpha.exp().detach() * log_probability - value
        return Loss(loss, {"entropy": -log_probability.detach()})

    def temperature_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            surplus = -self.propose(batch["observation"])[1] + len(self.scale)  # over the target entropy of -A
        return Loss(self.log_alpha * surplus, {"alpha": self.log_alpha.detach().exp()})

    def after_update(self, update: int) -> None:
        for target, critic in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
            target.lerp_(critic, self.config.target_rate)
