"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) for one choice or several: what its policies
look at is a subclass's own affair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rayloom.contract import (
    Action,
    Algorithm,
    AlgorithmConfig,
    Batch,
    Loss,
    Metric,
    Phase,
    Spec,
    Trajectory,
    gather_parts,
    spread_parts,
)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(AlgorithmConfig):
    gamma: float = 0.99
    """Discount per step."""
    lambda_: float = 0.95
    """Decay of the advantages (GAE)."""
    clip_range: float = 0.2
    """Largest useful change of a probability ratio."""
    entropy: float = 0.01
    """Weight of the entropy bonus (per nat)."""
    value_weight: float = 0.5
    """Weight of the squared error of the value."""
    units: int = 32
    """Units of the hidden layer."""


class PPO(Algorithm):
    """A subclass makes `features` and says how an observation becomes what goes into it."""

    Config = PPOConfig
    sources = frozenset({"on_policy"})
    metrics: ClassVar = {"entropy": Metric(unit="nats"), "value_error": Metric(better="min")}

    def __init__(self, config: PPOConfig, spec: Spec, inputs: int) -> None:
        super().__init__(config, spec)
        number = spec["action"].num_values
        self.choices = [number] if isinstance(number, int) else list(number or ())
        self.single = isinstance(number, int)
        self.features = nn.Sequential(nn.Linear(inputs, config.units), nn.Tanh())
        self.policy = nn.Linear(config.units, sum(self.choices))
        self.value = nn.Linear(config.units, 1)

    def phases(self) -> list[Phase]:
        return [Phase("policy_and_value", self.loss, tuple(self.parameters()))]

    def inputs(self, observation: Any) -> Tensor:
        """Return an observation as vectors [B, inputs]."""
        return observation

    def forbidden(self, observation: Any) -> Tensor | None:
        """Return which actions cannot be chosen [B, all choices]; None: all can."""
        return None

    def judge(self, observation: Any) -> tuple[list[Tensor], Tensor]:
        """Return the log-probabilities [B, K] of each choice, and the values [B]."""
        hidden = self.features(self.inputs(observation))
        logits, forbidden = self.policy(hidden), self.forbidden(observation)
        if forbidden is not None:
            logits = logits.masked_fill(forbidden, -1e9)
        return [part.log_softmax(1) for part in logits.split(self.choices, dim=1)], self.value(hidden).squeeze(1)

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        chances, _ = self.judge(observation)
        if explore is None:
            chosen = [chance.argmax(1) for chance in chances]
        else:
            chosen = [torch.multinomial(chance.exp(), 1, generator=explore).squeeze(1) for chance in chances]
        return Action(chosen[0] if self.single else torch.stack(chosen, 1))

    def chance(self, chances: list[Tensor], action: Tensor) -> Tensor:
        """Return the log-probability [B] of actions [B] or [B, M]."""
        columns = [action] if self.single else list(action.unbind(1))
        taken = [chance.gather(1, each[:, None]) for chance, each in zip(chances, columns, strict=True)]
        return torch.cat(taken, 1).sum(1)

    def prepare(self, trajectory: Trajectory) -> Batch:
        steps = trajectory["reward"].shape
        observation, following = (_rows(gather_parts(trajectory, name)) for name in ("observation", "next_observation"))
        action = trajectory["action"].flatten(0, 1)
        chances, values = self.judge(observation)
        values = values.reshape(steps)
        advantage = advantages(trajectory, values, self.judge(following)[1].reshape(steps), self.config)
        rows = {
            **spread_parts("observation", observation),
            "action": action,
            "before": self.chance(chances, action),
            "advantage": self.normalised(advantage, trajectory["valid"]).flatten(),
            "return": (advantage + values).flatten(),
        }
        return {name: value[trajectory["valid"].flatten()] for name, value in rows.items()}

    def normalised(self, advantage: Tensor, valid: Tensor) -> Tensor:
        """Return advantages [T, N] of mean 0 and standard deviation 1 over the rollouts of all learners."""
        kept = advantage[valid]
        count, total = self.sum_over_learners(torch.stack((torch.full_like(kept.sum(), len(kept)), kept.sum())))
        variance = self.sum_over_learners((kept - total / count).square().sum()) / count
        return (advantage - total / count) / (variance.sqrt() + 1e-6)

    def loss(self, batch: Batch) -> Loss:
        chances, values = self.judge(gather_parts(batch, "observation"))
        return self.surrogate(chances, values, batch)

    def surrogate(self, chances: list[Tensor], values: Tensor, rows: Batch) -> Loss:
        """Return the loss of each row: clipped surrogate, squared error of the value, entropy bonus."""
        ratio = (self.chance(chances, rows["action"]) - rows["before"]).exp()
        clipped = ratio.clamp(1 - self.config.clip_range, 1 + self.config.clip_range)
        gain = torch.minimum(ratio * rows["advantage"], clipped * rows["advantage"])
        entropy = -sum((chance.exp() * chance).sum(1) for chance in chances)
        error = (values - rows["return"]).square()
        loss = self.config.value_weight * error - gain - self.config.entropy * entropy
        return Loss(loss, {"entropy": entropy.detach(), "value_error": error.detach()})


def advantages(trajectory: Trajectory, values: Tensor, following: Tensor, config: PPOConfig) -> Tensor:
    """Return generalised advantages [T, N] (Schulman et al. 2016, equation 16)."""
    going_on = (~trajectory["terminated"]).float()
    same = (~(trajectory["terminated"] | trajectory["truncated"]) & trajectory["valid"]).float()
    found, later = torch.empty_like(values), torch.zeros_like(values[0])
    for step in reversed(range(len(values))):
        error = trajectory["reward"][step] + config.gamma * going_on[step] * following[step] - values[step]
        later = found[step] = error + config.gamma * config.lambda_ * same[step] * later
    return found


def _rows(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: value.flatten(0, 1) for name, value in observation.items()}
    return observation.flatten(0, 1)
