"""Deep Q-network (Mnih et al. 2015) with double Q-learning, prioritised replay and n-step returns as options.

Double: van Hasselt et al. 2016. Prioritised replay (Schaul et al. 2016) and n-step returns (Hessel et al. 2018) are
settings of the source.

Departures from the papers: the target network may also follow slowly (`target_period: 1` with `target_rate` < 1); the
network is fully connected; exploration falls by a line over `exploration_steps`.

Ape-X DQN (Horgan et al. 2018, arXiv 1803.00933) is this algorithm with a prioritised source that runs ahead
(`in_flight`), n-step returns and `exploration_spread`. Departures from that paper: new transitions get the largest
priority so far instead of the actors' own temporal-difference errors, so that actors need no second network pass; each
learner has a replay shard of its own; no dueling network; the share of random actions may fall during the run, where
the paper's 0.4 is constant (`exploration_start` = `exploration_end`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from rayloom.contract import Action, Algorithm, AlgorithmConfig, Batch, Loss, Metric, Phase, Spec, Trajectory, UserError
from rayloom_agents.equations.objectives import huber
from rayloom_agents.equations.returns import double_q_values, n_step_targets
from rayloom_agents.networks.feed_forward import Activation, FeedForward, NumpyForward, as_rows, observation_size


class DQN(Algorithm):
    """Deep Q-network."""

    sources = frozenset({"replay"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "q_value": Metric(unit="return", meaning="of the action taken"),
        "td_error": Metric(better="min", unit="return", meaning="size of the temporal-difference error"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """Settings of DQN."""

        gamma: Annotated[float, Ge(0), Le(1)] = 0.99
        """Discount per step."""
        double: bool = True
        """Choose the bootstrap action by the online network."""
        target_period: Annotated[int, Ge(1)] = 500
        """Updates between two changes of the target network (unit: updates)."""
        target_rate: Annotated[float, Gt(0), Le(1)] = 1.0
        """How far the target network then moves to the online one; 1 copies it."""
        exploration_start: Annotated[float, Ge(0), Le(1)] = 1.0
        """Share of random actions at the start."""
        exploration_end: Annotated[float, Ge(0), Le(1)] = 0.05
        """Share of random actions after `exploration_steps`."""
        exploration_steps: Annotated[int, Ge(1)] = 10_000
        """Environment steps over which the share falls (unit: env_steps)."""
        exploration_spread: Annotated[float, Ge(0)] = 0.0
        """alpha of Ape-X: environment i of N acts at random with the share raised to the power 1 + i / (N - 1) * alpha;
        0 treats all environments alike, the paper's value is 7."""
        huber_threshold: Annotated[float, Gt(0)] = 1.0
        """Error above which the loss is linear."""
        hidden_sizes: tuple[Annotated[int, Ge(1)], ...] = (128, 128)
        """Units of the hidden layers."""
        activation: Activation = "relu"
        """Activation of the hidden layers."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the online and the target network; the action space must be discrete."""
        super().__init__(config, spec)
        action = spec["action"]
        if action.num_values is None:
            raise UserError(
                "algorithm: DQN needs a discrete action space; for continuous actions use "
                "rayloom_agents.policy_gradient.ppo:PPO"
            )
        self.num_actions = action.categories
        sizes = (observation_size(spec["observation"]), *config.hidden_sizes, self.num_actions)
        self.online = FeedForward(sizes, config.activation)
        self.target = FeedForward(sizes, config.activation).requires_grad_(False)
        self.target.load_state_dict(self.online.state_dict())
        self._fast: NumpyForward | None = None

    def phases(self) -> list[Phase]:
        """Return the one phase of the online network."""
        return [Phase("online", self.loss, tuple(self.online.parameters()))]

    def after_update(self, update: int) -> None:
        """Move the target network every `target_period` updates."""
        if update % self.config.target_period == 0:
            rate = self.config.target_rate
            for target, online in zip(self.target.parameters(), self.online.parameters(), strict=True):
                target.lerp_(online, rate) if rate < 1.0 else target.copy_(online)

    # --- acting ----------------------------------------------------------------------------------------------------

    def after_publish(self) -> None:
        """Point the NumPy forward pass at the new weights."""
        on_cpu = next(self.online.parameters()).device.type == "cpu"
        self._fast = NumpyForward(self.online) if on_cpu else None

    def exploration_rate(self) -> float:
        """Return the present share of random actions."""
        config = self.config
        done = min(1.0, self.progress.env_steps / config.exploration_steps)
        return config.exploration_start + done * (config.exploration_end - config.exploration_start)

    def _exploration_rates(self) -> float | Tensor:
        """Return the share of random actions, of each environment [N] where they differ."""
        rate, spread = self.exploration_rate(), self.config.exploration_spread
        if not spread or self.num_environments == 1:
            return rate
        place = torch.tensor(self.environments, dtype=torch.float32) / (self.num_environments - 1)
        return torch.pow(rate, 1.0 + spread * place)

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Take the best action, or with the exploration rate a uniformly random one."""
        rows = as_rows(observation)
        if self._fast is not None:
            action = torch.from_numpy(self._fast(rows.numpy()).argmax(axis=1))
        else:
            with torch.no_grad():
                action = self.online(rows.to(next(self.online.parameters()).device)).argmax(dim=1).cpu()
        if explore is not None:
            draws = torch.rand((2, len(rows)), generator=explore)
            random_action = (draws[0] * self.num_actions).long().clamp_(max=self.num_actions - 1)
            action = torch.where(draws[1] < self._exploration_rates(), random_action, action)
        return Action(action)

    # --- learning --------------------------------------------------------------------------------------------------

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Return sampled segments with flat observations; the targets need fresh networks and belong to the loss."""
        return {
            **trajectory,
            "observation": as_rows(trajectory["observation"]),
            "next_observation": as_rows(trajectory["next_observation"]),
        }

    def targets(self, batch: Batch) -> Tensor:
        """Return the n-step, optionally double, Q-learning targets [B]."""
        successor = batch["next_observation"]
        target_next = self.target(successor)
        bootstrap = (
            double_q_values(self.online(successor), target_next)
            if self.config.double
            else target_next.max(dim=1).values
        )
        return n_step_targets(batch["reward"], batch["length"], batch["terminated"], bootstrap, self.config.gamma)

    def loss(self, batch: Batch) -> Loss:
        """Return the Huber loss of the temporal-difference errors [B]; their sizes are the new priorities."""
        with torch.no_grad():
            targets = self.targets(batch)
        chosen = self.online(batch["observation"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
        error = chosen - targets
        size = error.detach().abs()
        return Loss(
            huber(error, self.config.huber_threshold),
            {"q_value": chosen.detach(), "td_error": size},
            priorities=size,
        )

    def inference_module(self) -> nn.Module:
        """Return the online network: observations [B, D] to action values [B, A]."""
        return nn.Sequential(nn.Flatten(), self.online)
