"""What off-policy actor-critic methods for bounded real actions share: networks, targets, exploration at the start.

Inside, actions lie in -1..1; the environment gets them stretched to its own range.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor, nn

from rayloom.contract import (
    Action,
    Algorithm,
    AlgorithmConfig,
    Batch,
    Spec,
    TensorSpec,
    Trajectory,
    UserError,
    gather_parts,
    spread_parts,
)
from rayloom_agents.equations.returns import n_step_targets
from rayloom_agents.networks.encoder import Encoder
from rayloom_agents.networks.ensemble import Ensemble
from rayloom_agents.networks.feed_forward import FeedForward, NumpyForward, as_rows
from rayloom_agents.networks.normalization import ObservationNormalizer


@dataclass(frozen=True, kw_only=True)
class BoundedConfig(AlgorithmConfig):
    """Settings of off-policy actor-critic methods."""

    gamma: Annotated[float, Ge(0), Le(1)] = 0.99
    """Discount per step."""
    target_rate: Annotated[float, Gt(0), Le(1)] = 0.005
    """How far the target networks move to the others at a time."""
    hidden_sizes: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (256, 256)
    """Units of the hidden layers of all networks."""
    normalize_observation: bool = False
    """Give observations mean 0 and standard deviation 1 by running statistics."""
    random_steps: Annotated[int, Ge(0)] = 1_000
    """Environment steps with uniformly random actions at the start (unit: env_steps)."""


class BoundedActor(Algorithm):
    """A policy network, critics of states with actions, and slow copies of the critics."""

    sources = frozenset({"replay"})
    config: BoundedConfig
    middle: Tensor
    scale: Tensor

    def __init__(self, config: BoundedConfig, spec: Spec, num_critics: int, outputs_per_action: int) -> None:
        """Build the networks; actions must be one bounded vector."""
        super().__init__(config, spec)
        action = gather_parts(spec, "action")
        if not isinstance(action, TensorSpec) or action.num_values is not None or len(action.shape) != 1:
            raise UserError(
                f"algorithm: {type(self).__name__} needs one vector of real actions; for discrete ones use "
                "rayloom_agents.value_based.dqn:DQN or rayloom_agents.policy_gradient.ppo:PPO"
            )
        bounds = torch.tensor([action.low or (), action.high or ()], dtype=torch.float32)
        if bounds.shape[1] != action.shape[0] or not bool(bounds.isfinite().all()):
            raise UserError(
                f"algorithm: {type(self).__name__} needs actions with bounds, and these have none; wrap the "
                "environment (source.wrappers), or use rayloom_agents.policy_gradient.ppo:PPO"
            )
        self.register_buffer("middle", bounds.mean(0))
        self.register_buffer("scale", (bounds[1] - bounds[0]) / 2)
        size = action.shape[0]
        self.normalizer = ObservationNormalizer(spec) if config.normalize_observation else None
        self.encoder, self.critic_encoder = Encoder(spec), Encoder(spec)
        self.actor = FeedForward((self.encoder.size, *config.hidden_sizes, outputs_per_action * size), "relu")
        self.critics = Ensemble(num_critics, (self.critic_encoder.size + size, *config.hidden_sizes, 1))
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.target_critic_encoder = copy.deepcopy(self.critic_encoder).requires_grad_(False)
        self._fast: NumpyForward | None = None

    # --- acting ----------------------------------------------------------------------------------------------------

    def after_publish(self) -> None:
        """Point the NumPy forward pass at the new weights."""
        plain = self.encoder.bare and self.middle.device.type == "cpu"
        self._fast = NumpyForward(self.actor) if plain else None

    def _actor_outputs(self, observation: Any) -> Tensor:
        """Return the policy network's outputs [N, O] on the CPU, without gradient."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        if self._fast is not None:
            return torch.from_numpy(self._fast(as_rows(observation).numpy()))
        with torch.no_grad():
            outputs: Tensor = self.actor(self.encoder(observation))
        return outputs.cpu()

    def _uniform(self, rows: int, explore: torch.Generator) -> Tensor:
        """Return uniformly random actions [N, A] in -1..1."""
        return 2 * torch.rand((rows, len(self.scale)), generator=explore) - 1

    def _is_random(self) -> bool:
        return self.progress.env_steps < self.config.random_steps

    def _stretched(self, action: Tensor) -> Action:
        """Return actions [N, A] in -1..1 in the environment's range."""
        return Action(self.middle.cpu() + self.scale.cpu() * action)

    # --- learning --------------------------------------------------------------------------------------------------

    def collected(self, trajectory: Trajectory) -> None:
        """Remember fresh steps for the running statistics."""
        if self.normalizer is not None:
            self.normalizer.see(trajectory)

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Return sampled segments with actions in -1..1, and vectors as rows, normalised by all seen so far."""
        if self.normalizer is not None:
            self.normalizer.merge(self.sum_over_learners)
            for name in ("observation", "next_observation"):
                known = self.normalizer(gather_parts(trajectory, name))
                trajectory = {**trajectory, **spread_parts(name, known)}
        rows = {**trajectory, "action": (trajectory["action"].to(torch.float32) - self.middle) / self.scale}
        if self.encoder.bare:
            for field in ("observation", "next_observation"):
                for name in spread_parts(field, gather_parts(trajectory, field)):
                    rows[name] = as_rows(trajectory[name])
        return rows

    def _q_values(self, batch: Batch, action: Tensor) -> Tensor:
        """Return what the critics say of actions [B, A] in the batch's states, [K, B]."""
        features = self.critic_encoder(gather_parts(batch, "observation"))
        return self._said(self.critics, features, action)

    def _next_values(self, batch: Batch, action: Tensor) -> Tensor:
        """Return the least that the slow critics say of actions [B, A] in the successors, [B]."""
        features = self.target_critic_encoder(gather_parts(batch, "next_observation"))
        return self._said(self.target_critics, features, action).amin(0)

    @staticmethod
    def _said(critics: Ensemble, features: Tensor, action: Tensor) -> Tensor:
        values: Tensor = critics(torch.cat((features, action), dim=1))
        return values.squeeze(2)

    def _targets(self, batch: Batch, bootstrap: Tensor) -> Tensor:
        """Return the n-step targets [B]."""
        return n_step_targets(batch["reward"], batch["length"], batch["terminated"], bootstrap, self.config.gamma)

    def _critic_parameters(self) -> tuple[nn.Parameter, ...]:
        return (*self.critics.parameters(), *self.critic_encoder.parameters())

    def _actor_parameters(self) -> tuple[nn.Parameter, ...]:
        return (*self.actor.parameters(), *self.encoder.parameters())

    def _follow(self, pairs: Mapping[nn.Module, nn.Module]) -> None:
        """Move slow networks (keys) towards the others."""
        for slow, fast in pairs.items():
            for target, parameter in zip(slow.parameters(), fast.parameters(), strict=True):
                target.lerp_(parameter, self.config.target_rate)
