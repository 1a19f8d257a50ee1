"""Recurrent DQN from replayed sequences: Kapturowski et al. 2019, "Recurrent experience replay", the learner of R2D2.

    replay: sequences [B, burn_in + L] with the memory that acted --burn in, without gradient--> memory --L steps--> Q

The memory before a sequence is the stored one; `source.burn_in` steps bring it up to date with the present weights.
Targets are n-step double Q-learning ones inside the sequence, with the values rescaled if asked for.

Departures from the paper: a single learner's loop instead of distributed actors unless the config says so
(`rollout_workers`, `in_flight`); exploration falls by a line; the target network follows slowly or is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from rayloom.contract import (
    Action,
    Algorithm,
    Batch,
    Loss,
    Metric,
    Phase,
    Spec,
    TensorSpec,
    UserError,
    gather_parts,
)
from rayloom_agents.equations.finite_mdp import n_step_returns
from rayloom_agents.equations.objectives import huber
from rayloom_agents.equations.returns import rescale, unscale
from rayloom_agents.networks.encoder import Encoder, ImageNetwork
from rayloom_agents.networks.feed_forward import Activation, FeedForward
from rayloom_agents.networks.memory import Memory
from rayloom_agents.policies.epsilon_greedy import ExplorationConfig, exploration_share, uniform_actions


class RecurrentNetwork(nn.Module):
    """Encoder, LSTM, and a head of action values."""

    def __init__(
        self,
        spec: Spec,
        actions: int,
        size: int,
        hidden: tuple[int, ...],
        activation: Activation,
        image_network: ImageNetwork = "nature",
    ) -> None:
        super().__init__()
        self.encoder = Encoder(spec, image_network)
        self.memory = Memory(self.encoder.size, size)
        self.head = FeedForward((size, *hidden, actions), activation)

    def step(self, observation: Any, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values [B, A] of a step and the memory [B, 2 * size] after it."""
        after = self.memory.step(self.encoder(observation), memory)
        return self.head(after[:, : self.memory.size]), after


class R2D2(Algorithm):
    """Recurrent deep Q-network; give it `source.sequence_length`, and `source.burn_in` if it is to be brought up."""

    sources = frozenset({"replay"})
    replay_fields = frozenset({"memory"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "q_value": Metric(unit="return", meaning="of the actions taken"),
        "td_error": Metric(better="min", unit="return", meaning="size of the temporal-difference error"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(ExplorationConfig):
        """Settings of R2D2."""

        gamma: Annotated[float, Ge(0), Le(1)] = 0.99
        """Discount per step."""
        n_step: Annotated[int, Ge(1)] = 5
        """Steps of a return inside the sequence before it bootstraps."""
        rescale: bool = False
        """Learn h(return) instead of the return (Pohlen et al. 2018), for rewards of very different sizes."""
        priority_maximum: Annotated[float, Ge(0), Le(1)] = 0.9
        """eta: a sequence's priority is eta times its largest error and (1 - eta) times its mean one."""
        target_period: Annotated[int, Ge(1)] = 1
        """Updates between two changes of the target network (unit: updates)."""
        target_rate: Annotated[float, Gt(0), Le(1)] = 0.01
        """How far the target network then moves to the online one; 1 copies it."""
        memory_size: Annotated[int, Ge(1)] = 64
        """Units of the LSTM."""
        hidden_sizes: tuple[Annotated[int, Ge(1)], ...] = (64,)
        """Units of the hidden layers between memory and values."""
        activation: Activation = "relu"
        """Activation of the hidden layers."""
        image_network: ImageNetwork = "nature"
        """Convolutions over images: of Mnih et al. 2015, or the deep residual ones of Espeholt et al. 2018 (slower)."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the online and the target network; the action space must be discrete."""
        super().__init__(config, spec)
        action = gather_parts(spec, "action")
        if not isinstance(action, TensorSpec) or not isinstance(action.num_values, int) or action.shape:
            raise UserError(
                "algorithm: R2D2 needs a discrete action space; for continuous actions use "
                "rayloom_agents.policy_gradient.ppo:PPO with memory_size"
            )
        self.num_actions = action.categories
        self.online, self.target = self._network(), self._network().requires_grad_(False)
        self.target.load_state_dict(self.online.state_dict())

    def _network(self) -> RecurrentNetwork:
        config = self.config
        return RecurrentNetwork(
            self.spec,
            self.num_actions,
            config.memory_size,
            config.hidden_sizes,
            config.activation,
            config.image_network,
        )

    def phases(self) -> list[Phase]:
        """Return the one phase of the online network."""
        return [Phase("online", self.loss, tuple(self.online.parameters()), compilable=False)]

    def after_update(self, update: int) -> None:
        """Move the target network every `target_period` updates."""
        if update % self.config.target_period == 0:
            for target, online in zip(self.target.parameters(), self.online.parameters(), strict=True):
                target.lerp_(online, self.config.target_rate)

    # --- acting ----------------------------------------------------------------------------------------------------

    def initial_state(self, num_envs: int) -> Tensor:
        """Return the memory before an episode's first step [N, 2 * size]."""
        return self.online.memory.initial_state(num_envs)

    def exploration_rate(self) -> float:
        """Return the present share of random actions."""
        return exploration_share(self.config, self.progress.env_steps)

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        """Take the best action, or with the exploration rate a uniformly random one; the memory before it is kept."""
        with torch.no_grad():
            values, after = self.online.step(observation, state)
        action = values.argmax(1).cpu()
        if explore is not None:
            draws = torch.rand((2, len(action)), generator=explore)
            random_action = uniform_actions(draws[0], self.num_actions)
            action = torch.where(draws[1] < self.exploration_rate(), random_action, action)
        return Action(action, after, {"memory": state})

    # --- learning --------------------------------------------------------------------------------------------------

    def prepare(self, trajectory: Batch) -> Batch:
        """Return the sequences; UserError where the source samples single steps."""
        if "burn_in" not in trajectory:
            raise UserError("source.sequence_length: R2D2 learns from sequences; set it, to 20 for instance")
        return trajectory

    def _unrolled(self, network: RecurrentNetwork, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the values [T, B, A] of a network's steps, and of their successors.

        The memory is the stored one where a sequence, or its valid part, begins; none of the burn-in has a gradient.
        """
        observations, successors = (gather_parts(batch, name) for name in ("observation", "next_observation"))
        stored, valid, burn_in = batch["memory"], batch["valid"], batch["burn_in"]
        memory, values, following = stored[:, 0], [], []
        for t in range(valid.shape[1]):
            if t:
                memory = torch.where(valid[:, t - 1, None], memory, stored[:, t])
            memory = torch.where(batch["first"][:, t, None], torch.zeros_like(memory), memory)
            value, memory = network.step(_at(observations, t), memory)
            memory = torch.where(burn_in[:, t, None], memory.detach(), memory)
            values.append(value)
            with torch.no_grad():
                following.append(network.step(_at(successors, t), memory)[0])
        return torch.stack(values), torch.stack(following)

    def loss(self, batch: Batch) -> Loss:
        """Return the Huber losses of a sequence's steps, summed [B], with the number of steps as their count."""
        config = self.config
        values, online_following = self._unrolled(self.online, batch)
        with torch.no_grad():
            _, following = self._unrolled(self.target, batch)
            best = online_following.argmax(2, keepdim=True)
            bootstrap = following.gather(2, best).squeeze(2)  # [T, B]
            targets = self._targets(batch, unscale(bootstrap) if config.rescale else bootstrap)
        taken = values.gather(2, batch["action"].t().unsqueeze(2)).squeeze(2)
        counted = (batch["valid"] & ~batch["burn_in"]).t().to(taken.dtype)
        error = (taken - targets) * counted
        size, count = error.detach().abs(), counted.sum(0)
        mean = size.sum(0) / count.clamp(min=1)
        eta = config.priority_maximum
        metrics = {"q_value": (taken.detach() * counted).sum(0), "td_error": size.sum(0)}
        return Loss(huber(error).sum(0), metrics, priorities=eta * size.amax(0) + (1 - eta) * mean, count=count)

    def _targets(self, batch: Batch, bootstrap: Tensor) -> Tensor:
        """Return the n-step targets [T, B] for the values of the successors [T, B]."""
        config = self.config
        terminated, truncated, valid = (batch[name].t() for name in ("terminated", "truncated", "valid"))
        follows = torch.cat((valid[1:], torch.zeros_like(valid[:1])))
        continues = (~(terminated | truncated) & valid & follows).to(bootstrap.dtype)
        discounts = config.gamma * (~terminated).to(bootstrap.dtype)
        returns = n_step_returns(batch["reward"].t(), discounts, bootstrap, continues, config.n_step)
        return rescale(returns) if config.rescale else returns


def _at(observation: Any, t: int) -> Any:
    """Return step `t` of observations [B, T, ...]."""
    if isinstance(observation, Mapping):
        return {name: value[:, t] for name, value in observation.items()}
    return observation[:, t]
