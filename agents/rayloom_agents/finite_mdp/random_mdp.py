"""Random Markov decision processes: importing this module registers `RandomMDP-v0`.

Of every state and action, `branching` successors are drawn with probabilities from a flat Dirichlet distribution, and
an expected reward from N(0, 1): Archibald, McKinnon and Thomas (1995), "On the generation of Markov decision
processes". An episode ends with the probability `ending` in each step.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class RandomMDP(gym.Env[Any, Any]):
    """A finite process that the numbers of its constructor decide; `P` and `initial_state_distrib` tell all of it."""

    def __init__(
        self, states: int = 30, actions: int = 4, branching: int = 3, ending: float = 0.05, draw: int = 0
    ) -> None:
        """Draw the process number `draw`."""
        if not 1 <= branching <= states or actions < 1 or not 0 <= ending <= 1:
            raise ValueError("RandomMDP needs 1 <= branching <= states, actions >= 1 and 0 <= ending <= 1")
        self.observation_space = gym.spaces.Discrete(states)
        self.action_space = gym.spaces.Discrete(actions)
        chance = np.random.default_rng((draw, states, actions, branching))
        self.initial_state_distrib = np.full(states, 1 / states)
        self.P: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = {}
        for state in range(states):
            self.P[state] = {}
            for action in range(actions):
                successors = chance.choice(states, branching, replace=False)
                odds = chance.dirichlet(np.ones(branching))
                reward = float(chance.normal())
                going_on = [
                    (float((1 - ending) * p), int(s), reward, False) for p, s in zip(odds, successors, strict=True)
                ]
                self.P[state][action] = [*going_on, (ending, state, reward, True)]
        self._state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Begin anywhere."""
        super().reset(seed=seed)
        self._state = int(self.np_random.integers(self.observation_space.n))  # type: ignore[attr-defined]
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Draw one of the listed outcomes."""
        outcomes = self.P[self._state][int(action)]
        chosen = self.np_random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes])
        _, self._state, reward, terminated = outcomes[chosen]
        return self._state, reward, terminated, False, {}


if "RandomMDP-v0" not in gym.registry:
    gym.register(id="RandomMDP-v0", entry_point=f"{__name__}:RandomMDP", max_episode_steps=200)
