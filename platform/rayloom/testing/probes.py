"""Probe environments: each isolates one thing that an agent must get right, and its exact values are known.

    one step:    Value (what an observation is worth)       Action (which action is better where)
                 Continuous (a real action)
    more steps:  Discount (a reward one step later)         Truncation (a time limit is no end: bootstrap)
                 DelayedCredit (a choice that pays much later)   Memory (a cue that is no longer to be seen)

An agent that fails on one of them and passes those before it has its fault in what that one adds. Importing this module
registers them with gymnasium, as rayloom/ValueProbe-v0 and so on:

    source: {kind: on_policy, env: "rayloom.testing.probes:rayloom/ValueProbe-v0", env_options: {...}}
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt

Observation = npt.NDArray[np.float32]
_Stepped = tuple[Observation, float, bool, bool, dict[str, Any]]


def _row(*values: float) -> Observation:
    return np.array(values, dtype=np.float32)


class Probe(gym.Env[Observation, Any]):
    """Base of the probes: observations in [-1, 1], and what is known about them exactly."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (as gymnasium declares it)
    best_return: float
    """Undiscounted return of an episode under the best policy."""

    def __init__(self, size: int, actions: gym.Space[Any] | None = None) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = actions or gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        return self._begin(), {}

    def _begin(self) -> Observation:
        raise NotImplementedError

    def _sign(self) -> float:
        """Return -1 or 1, each with probability one half."""
        return 1.0 if self.np_random.random() < 0.5 else -1.0

    def observations(self) -> Observation:
        """Return all observations [M, D] on which an agent acts."""
        raise NotImplementedError

    def best_actions(self) -> npt.NDArray[Any] | None:
        """Return the best action for each of `observations` [M] (or [M, A]); None where the action does not matter."""
        return None

    def values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return the value of each of `observations` [M] under the best policy, with discount `gamma` per step."""
        raise NotImplementedError

    def action_values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return the value [M, A] of each discrete action, followed by the best policy."""
        raise NotImplementedError


class ValueProbe(Probe):
    """One step whose reward is its observation, -1 or 1, whatever the action: V(x) = x."""

    best_return = 0.0  # the mean over both observations

    def __init__(self) -> None:
        super().__init__(1)
        self._value = 0.0

    def _begin(self) -> Observation:
        self._value = self._sign()
        return _row(self._value)

    def step(self, action: Any) -> _Stepped:
        """End the episode with the observation as its reward."""
        return _row(self._value), self._value, True, False, {}

    def observations(self) -> Observation:
        """Return -1 and 1."""
        return _row(-1, 1)[:, None]

    def values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return -1 and 1."""
        return np.array([-1.0, 1.0])

    def action_values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return each observation's value twice: the actions do nothing."""
        return np.repeat(self.values(gamma)[:, None], 2, axis=1)


class DiscountProbe(Probe):
    """Two steps, a reward of 1 in the second: V = gamma, then 1."""

    best_return = 1.0

    def __init__(self) -> None:
        super().__init__(1)
        self._second = False

    def _begin(self) -> Observation:
        self._second = False
        return _row(-1)

    def step(self, action: Any) -> _Stepped:
        """Go to the second step, or end there."""
        ended, self._second = self._second, True
        return _row(1), float(ended), ended, False, {}

    def observations(self) -> Observation:
        """Return those of the first and the second step."""
        return _row(-1, 1)[:, None]

    def values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return gamma and 1."""
        return np.array([gamma, 1.0])

    def action_values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return each observation's value twice: the actions do nothing."""
        return np.repeat(self.values(gamma)[:, None], 2, axis=1)


class TruncationProbe(Probe):
    """A reward of 1 in every step of a task without end, cut off after `steps`: V = 1 / (1 - gamma).

    An agent that takes the cut for an end learns less: sum of gamma^k over the steps that are left, of which the
    observation, always the same, shows nothing.
    """

    def __init__(self, steps: int = 4) -> None:
        super().__init__(1)
        self._steps = steps
        self._done = 0
        self.best_return = float(steps)

    def _begin(self) -> Observation:
        self._done = 0
        return _row(0)

    def step(self, action: Any) -> _Stepped:
        """Pay 1."""
        self._done += 1
        return _row(0), 1.0, False, self._done == self._steps, {}

    def observations(self) -> Observation:
        """Return the only one."""
        return _row(0)[:, None]

    def values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return 1 / (1 - gamma)."""
        return np.array([1.0 / (1.0 - gamma)])

    def action_values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return the value twice: the actions do nothing."""
        return np.repeat(self.values(gamma)[:, None], 2, axis=1)

    def mistaken_value(self, gamma: float) -> float:
        """Return the mean value that an agent learns which takes the cut for an end, and looks at whole episodes."""
        left = np.arange(1, self._steps + 1)
        return float(((1.0 - gamma**left) / (1.0 - gamma)).mean())


class ActionProbe(Probe):
    """One step: action 1 is right where the observation is 1, action 0 where it is -1. Right pays 1, wrong -1."""

    best_return = 1.0

    def __init__(self) -> None:
        super().__init__(1)
        self._value = 0.0

    def _begin(self) -> Observation:
        self._value = self._sign()
        return _row(self._value)

    def step(self, action: Any) -> _Stepped:
        """End the episode with 1 for the right action and -1 for the wrong one."""
        right = int(action) == (self._value > 0)
        return _row(self._value), 1.0 if right else -1.0, True, False, {}

    def observations(self) -> Observation:
        """Return -1 and 1."""
        return _row(-1, 1)[:, None]

    def best_actions(self) -> npt.NDArray[Any]:
        """Return 0 and 1."""
        return np.array([0, 1])

    def values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return 1 for both."""
        return np.ones(2)

    def action_values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return 1 for the right action and -1 for the wrong one."""
        return np.array([[1.0, -1.0], [-1.0, 1.0]])


class DelayedCreditProbe(Probe):
    """The first of `steps` actions decides the reward of the last step; those between do nothing.

    Observations are (time, choice): -1 to 1 over the episode, and the first action as -1 or 1 (0 before it), so that
    the future does not depend on what cannot be seen. Action 1 pays 1 in the end, action 0 nothing:
    V = gamma^(steps - 1) at the start.
    """

    best_return = 1.0

    def __init__(self, steps: int = 8) -> None:
        super().__init__(2)
        self._steps = steps
        self._done = 0
        self._choice = 0.0

    def _observe(self, done: int, choice: float) -> Observation:
        return _row(2.0 * done / self._steps - 1.0, choice)

    def _begin(self) -> Observation:
        self._done, self._choice = 0, 0.0
        return self._observe(0, 0.0)

    def step(self, action: Any) -> _Stepped:
        """Keep the first action; pay for it in the last step."""
        if self._done == 0:
            self._choice = 1.0 if int(action) == 1 else -1.0
        self._done += 1
        ended = self._done == self._steps
        reward = 1.0 if ended and self._choice > 0 else 0.0
        return self._observe(self._done, self._choice), reward, ended, False, {}

    def observations(self) -> Observation:
        """Return the first one, then those after the right choice, then those after the wrong one."""
        later = [self._observe(done, choice) for choice in (1.0, -1.0) for done in range(1, self._steps)]
        return np.stack([self._observe(0, 0.0), *later])

    def values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return gamma^(steps that are left - 1) at the start and after the right choice, 0 after the wrong one."""
        chosen = gamma ** np.arange(self._steps - 1, -1, -1.0)
        return np.concatenate((chosen, np.zeros(self._steps - 1)))

    def action_values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return what either action is worth: they differ at the start alone."""
        values = np.repeat(self.values(gamma)[:, None], 2, axis=1)
        values[0, 0] = 0.0
        return values


class MemoryProbe(Probe):
    """A cue, -1 or 1, is shown in the first step; the last of `steps` actions must name it (0 or 1).

    Right pays 1, wrong -1. Without memory no policy has a mean return other than 0; with it the return is 1.
    Observations are (cue, time): 0 and -1 to 1 after the first step.
    """

    best_return = 1.0
    memoryless_return: ClassVar[float] = 0.0

    def __init__(self, steps: int = 4) -> None:
        super().__init__(2)
        self._steps = steps
        self._done = 0
        self._cue = 0.0

    def _begin(self) -> Observation:
        self._done, self._cue = 0, self._sign()
        return _row(self._cue, -1.0)

    def step(self, action: Any) -> _Stepped:
        """Show nothing more; pay for the last action."""
        self._done += 1
        ended = self._done == self._steps
        right = int(action) == (self._cue > 0)
        reward = (1.0 if right else -1.0) if ended else 0.0
        return _row(0.0, 2.0 * self._done / self._steps - 1.0), reward, ended, False, {}

    def observations(self) -> Observation:
        """Return both cues of the first step, on which memory has to begin."""
        return np.stack([_row(-1.0, -1.0), _row(1.0, -1.0)])

    def values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return gamma^(steps - 1), of an agent with memory."""
        return np.full(2, gamma ** (self._steps - 1))


class ContinuousProbe(Probe):
    """One step whose best action is the observation, -0.5 or 0.5: the reward is -(action - observation)^2.

    A Gaussian policy around the best action with standard deviation s has the value -s^2.
    """

    best_return = 0.0

    def __init__(self) -> None:
        super().__init__(1, gym.spaces.Box(-2.0, 2.0, (1,), np.float32))
        self._target = 0.0

    def _begin(self) -> Observation:
        self._target = 0.5 * self._sign()
        return _row(self._target)

    def step(self, action: Any) -> _Stepped:
        """End the episode with the negative squared distance to the target."""
        return _row(self._target), -((float(action[0]) - self._target) ** 2), True, False, {}

    def observations(self) -> Observation:
        """Return -0.5 and 0.5."""
        return _row(-0.5, 0.5)[:, None]

    def best_actions(self) -> npt.NDArray[Any]:
        """Return -0.5 and 0.5."""
        return self.observations()

    def values(self, gamma: float) -> npt.NDArray[np.float64]:
        """Return 0 for both, without noise in the action."""
        return np.zeros(2)


PROBES: dict[str, type[Probe]] = {
    f"rayloom/{probe.__name__}-v0": probe
    for probe in (
        ValueProbe,
        DiscountProbe,
        TruncationProbe,
        ActionProbe,
        DelayedCreditProbe,
        MemoryProbe,
        ContinuousProbe,
    )
}
"""The probes by the id under which gymnasium knows them."""

for _id, _probe in PROBES.items():
    if _id not in gym.registry:
        gym.register(id=_id, entry_point=cast(Any, _probe))
