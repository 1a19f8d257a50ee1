"""The model of a finite Markov decision process, read from an environment, and the source that sweeps over it.

Environments of gymnasium's toy-text family (FrozenLake, Taxi, CliffWalking), and whoever does as they do, say all there
is to know: `P[state][action]` lists (probability, successor, reward, terminated), `initial_state_distrib` where
episodes begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from rayloom.contract import (
    Batch,
    ReshardContext,
    Source,
    SourceConfig,
    SourceContext,
    Spec,
    TensorSpec,
    UserError,
)

_MOST_NUMBERS = 2**27
"""Probabilities of a model: 1 GiB."""


@dataclass(frozen=True)
class FiniteModel:
    """What an environment says of itself, in float64."""

    transitions: Tensor
    """[S, A, S], the probability of going on in each successor; what ends the episode is missing."""
    rewards: Tensor
    """[S, A], expected."""
    start: Tensor
    """[S], the probability of beginning in each state."""


def make_finite(env_id: str, options: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Make an environment ("module:id" imports the module first); UserError where there is none or it is not finite."""
    try:
        env = gym.make(env_id, **dict(options))
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"source.env: {str(error).splitlines()[0]}") from None
    except (TypeError, ValueError, AssertionError, OverflowError) as error:
        if not options:
            raise
        said = " ".join(str(error).split())[:200]
        raise UserError(f"source.env_options: {env_id} cannot be made with {dict(options)!r:.200}: {said}") from error
    known = getattr(env.unwrapped, "P", None) is not None
    spaces = (env.observation_space, env.action_space)
    if not known or not all(isinstance(space, gym.spaces.Discrete) for space in spaces):
        raise UserError(
            f"source.env: {env_id} has no table P of its transitions between numbered states; choose FrozenLake-v1, "
            "CliffWalking-v1, Taxi-v4 or rayloom_agents.finite_mdp.random_mdp:RandomMDP-v0, or learn by sampling"
        )
    return env


def read_model(env: gym.Env[Any, Any]) -> FiniteModel:
    """Return the model of an environment that `make_finite` made."""
    table: Any = env.unwrapped.P  # type: ignore[attr-defined]
    num_states, num_actions = int(env.observation_space.n), int(env.action_space.n)  # type: ignore[attr-defined]
    if num_states * num_actions * num_states > _MOST_NUMBERS:
        raise UserError(f"source.env: a table of {num_states:,} states is too large; learn by sampling instead")
    transitions = torch.zeros(num_states, num_actions, num_states, dtype=torch.float64)
    rewards = torch.zeros(num_states, num_actions, dtype=torch.float64)
    for state in range(num_states):
        for action in range(num_actions):
            for probability, successor, reward, terminated in table[state][action]:
                rewards[state, action] += probability * reward
                if not terminated:
                    transitions[state, action, int(successor)] += probability
    begins = getattr(env.unwrapped, "initial_state_distrib", None)
    start = torch.full((num_states,), 1 / num_states) if begins is None else torch.as_tensor(begins)
    return FiniteModel(transitions, rewards, start.to(torch.float64))


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SourceConfig):
    """Sweeps over all states of a finite environment, with their transitions and rewards."""

    env: str
    """Gymnasium id of an environment with a table `P`, optionally "module:id"."""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment."""


class ModelSource(Source):
    """Delivers the rows of the model {state [B], transitions [B, A, S], rewards [B, A]}, all of them in each batch.

    Of K learners each has every K-th state. `learner.batch_size` is not heeded: a sweep is a sweep.
    """

    Config = ModelConfig
    equal_shares = False

    def __init__(self, config: ModelConfig, context: SourceContext) -> None:
        """Read the model."""
        super().__init__(config, context)
        self.context = context
        env = make_finite(config.env, config.env_options)
        model = read_model(env)
        env.close()
        group = context.group
        self._total = len(model.rewards)
        mine = torch.arange(group.rank, self._total, group.world_size)
        rows = {"state": mine, "transitions": model.transitions[mine], "rewards": model.rewards[mine]}
        self._rows: Batch = {name: value.to(context.device) for name, value in rows.items()}
        self._sweeps = 0

    @classmethod
    def describe(cls, config: ModelConfig) -> Spec:
        """Return the spaces of the environment, and the rows of its model."""
        env = make_finite(config.env, config.env_options)
        states, actions = int(env.observation_space.n), int(env.action_space.n)  # type: ignore[attr-defined]
        env.close()
        return {
            "observation": TensorSpec(shape=(), dtype=torch.int64, num_values=states),
            "action": TensorSpec(shape=(), dtype=torch.int64, num_values=actions),
            "state": TensorSpec(shape=(), dtype=torch.int64, num_values=states),
            "transitions": TensorSpec(shape=(actions, states), dtype=torch.float64),
            "rewards": TensorSpec(shape=(actions,), dtype=torch.float64),
        }

    def next(self) -> Batch:
        """Return this learner's rows."""
        self._sweeps += 1
        return self.context.algorithm.prepare(dict(self._rows))

    def counters(self) -> dict[str, int]:
        """Return the rows that all learners have swept over."""
        return {"samples": self._sweeps * self._total}

    def state_dict(self) -> dict[str, Any]:
        """Return how many sweeps there were."""
        return {"sweeps": self._sweeps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the count."""
        self._sweeps = int(state["sweeps"])

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Return the same count for every learner."""
        return [dict(states[0]) for _ in range(count)]
