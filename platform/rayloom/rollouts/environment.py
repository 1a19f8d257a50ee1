"""The one adapter that turns every autoreset mode of vector environments into true transitions.

Gymnasium's vector environments restart a finished episode in three ways (`AutoresetMode`): in the next step, whose
action is then ignored (NEXT_STEP); in the same step, with the last observation moved into `infos` (SAME_STEP); or not
at all (DISABLED). `Environment` hides the difference: `Step.next_observation` is always the true successor, and
`Step.valid` is False for steps that never happened.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from rayloom.contract import Spec
from rayloom.errors import EnvironmentFault, UserError, mark_environment
from rayloom.rollouts import standstill
from rayloom.rollouts.spaces import Array, Guard, Part, Values, copy_values, nest, parts_of
from rayloom.seeding import derive_seed

# Reset seeds are cut to what every simulator takes (MuJoCo and the Arcade Learning Environment want 32 signed bits).
_SEED_RANGE = 2**31
_OF_A_STEP = ("observation", "reward", "terminated", "truncated", "info")
_OF_A_RESET = ("observation", "info")
_TRUTHS = (bool, np.bool_)


def environment_name(index: int, worker: int) -> str:
    """Return how messages call environment `index` of the run."""
    return f"environment {index} of rollout worker {worker}"


class Step(NamedTuple):
    """What one action of every environment led to; N environments. Arrays may be shared: do not write to them.

    Of nested observations each is a dict of arrays [N, ...] by the names of the parts.
    """

    next_observation: Values  # [N, ...] the true successor, also where the episode ended
    reward: Array  # [N] float32
    terminated: Array  # [N] bool: the successor is a terminal state
    truncated: Array  # [N] bool: the episode was cut off; its value continues from the successor
    valid: Array  # [N] bool: False marks the dead step of NEXT_STEP (action ignored), never a training row
    observation: Values  # [N, ...] what to act on next
    begins: Array  # [N] bool: that observation begins an episode


class IndexedEnvironment(gym.Wrapper[Any, Any, Any, Any]):
    """One sub-environment that knows its name: its errors say which environment raised them, and when."""

    def __init__(self, env: gym.Env[Any, Any], name: str, check_dtype: bool) -> None:
        super().__init__(env)
        self.steps = 0
        self._name = name
        self._check_dtype = check_dtype
        space = env.observation_space
        parts = parts_of(space, "observation")
        self._nested = parts if parts and parts[0].path else ()
        self._plain = parts[0] if isinstance(space, gym.spaces.Box) else None
        self._shape = space.shape
        self._dtype: Any = space.dtype

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; errors get a note."""
        self.steps += 1
        try:
            given: Any = self.env.step(action)
        except Exception as error:
            mark_environment(error, f"{self._name} raised at its step {self.steps}")
            raise
        observation, reward, terminated, truncated, _ = self._values(given, _OF_A_STEP, "step")
        if not isinstance(reward, float):  # NumPy's are, too
            reward = self._number(reward)
        if type(terminated) not in _TRUTHS:
            terminated = self._truth(terminated, "terminated")
        if type(truncated) not in _TRUTHS:
            truncated = self._truth(truncated, "truncated")
        if self._plain is not None:
            observation = self._admit(observation)
        elif self._nested:
            self._check_parts(observation)
        if terminated or truncated:
            # An environment that reuses its array would overwrite its last observation when it is reset.
            observation = copy.deepcopy(observation) if self._nested else copy.copy(observation)
        return observation, reward, terminated, truncated, {}  # nobody reads what else it says, whatever that may be

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; errors get a note."""
        try:
            given: Any = self.env.reset(seed=seed, options=options)
        except Exception as error:
            mark_environment(error, f"{self._name} raised in the reset after its step {self.steps}")
            raise
        observation, _ = self._values(given, _OF_A_RESET, "reset")
        if self._nested:
            self._check_parts(observation)
        return (observation if self._plain is None else self._admit(observation)), {}

    def _values(self, given: Any, names: tuple[str, ...], method: str) -> tuple[Any, ...]:
        if type(given) is not tuple or len(given) != len(names):
            what = f"{len(given)} values" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
            raise EnvironmentFault(
                f"{self._name} returned at its step {self.steps} {what} from {method}; it must return a tuple of "
                f"{', '.join(names)}"
            )
        return given

    def _number(self, reward: Any) -> float:
        """Return a reward as a number, which an environment may give as an array that holds one."""
        try:
            array = np.asarray(reward)
            if array.size == 1 and array.dtype.kind in "biuf":
                return float(array.reshape(()))
        except (ValueError, TypeError, OverflowError):  # a nested list, say
            pass
        raise EnvironmentFault(
            f"{self._name} returned at its step {self.steps} the reward {reward!r:.80}; it must be one number"
        )

    def _truth(self, value: Any, name: str) -> bool:
        """Return True or False, which an environment may give as a number or as an array that holds one."""
        try:
            array = np.asarray(value)
            if array.size == 1 and array.dtype.kind in "biuf" and array.reshape(()) in (0, 1):
                return bool(array.reshape(()))
        except (ValueError, TypeError):
            pass
        raise EnvironmentFault(
            f"{self._name} returned at its step {self.steps} {name} = {value!r:.80}; it must be True or False"
        )

    def _array(self, value: Any, dtype: Any, moment: str) -> Array:
        try:
            return np.asarray(value, dtype=dtype)
        except (ValueError, TypeError, OverflowError):
            raise EnvironmentFault(f"{moment} the observation {value!r:.80}; it must be of type {dtype}") from None

    def _admit(self, observation: Any) -> Array:
        if type(observation) is not np.ndarray:
            observation = self._array(observation, self._dtype, f"{self._name} returned at its step {self.steps}")
        if observation.shape != self._shape or observation.dtype != self._dtype:
            assert self._plain is not None
            moment = f"{self._name} returned at its step {self.steps}"
            self._plain.check_form(observation, self._plain.shape, self._check_dtype, moment)
        return cast(Array, observation)

    def _check_parts(self, observation: Any) -> None:
        moment = f"{self._name} returned at its step {self.steps}"
        for part in self._nested:
            value = part.find(observation, moment)
            if type(value) is not np.ndarray:
                value = self._array(value, part.space.dtype, moment)
            part.check_form(value, part.shape, self._check_dtype, moment)


class Environment:
    """N environments behind one step; `first_index` and `worker` place them among all environments of the run.

    check_observations: raise when an observation leaves its space; NaN and infinity raise in any case.
    check_every_step: call `check` in every step; without it the caller checks what it collected.
    """

    def __init__(
        self,
        vector_env: VectorEnv[Any, Any, Any],
        first_index: int = 0,
        worker: int = 0,
        check_observations: bool = True,
        check_every_step: bool = False,
    ) -> None:
        self.num_envs: int = vector_env.num_envs
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self.first_index = first_index
        self.worker = worker
        self.steps = 0  # vector steps since construction
        self.entered = self.left = self.thread = 0
        parts = parts_of(self.observation_space, "observation")
        self._actions = parts_of(self.action_space, "action")
        self.spec: Spec = {part.label: part.spec() for part in (*parts, *self._actions)}
        self.autoreset_mode = vector_env.metadata.get("autoreset_mode")
        if not isinstance(self.autoreset_mode, AutoresetMode):
            raise UserError(f'{vector_env}: its metadata must set "autoreset_mode" to a gymnasium AutoresetMode')
        self._vector_env = vector_env
        self._seed_list = isinstance(vector_env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        # Sub-environments that are stepped in a loop write into one array, unless they are told to copy it.
        self._copy = getattr(vector_env.unwrapped, "copy", True) is False
        self._check_observations = check_observations
        self._check_every_step = check_every_step
        self._guards = tuple(Guard(part, check_observations) for part in parts)
        self._nested = bool(parts and parts[0].path)
        self._none = np.zeros(self.num_envs, dtype=np.bool_)
        self._none.flags.writeable = False
        self._all_valid = ~self._none
        self._all_valid.flags.writeable = False
        self._dead: Array | None = None
        self._all_names = f"environments {first_index} to {first_index + self.num_envs - 1} of rollout worker {worker}"
        standstill.watch(self)
        if not self._nested:
            self._batch_shape, self._dtype = (self.num_envs, *parts[0].shape), parts[0].dtype
        self._plain_action = not (self._actions and self._actions[0].path)
        if self._plain_action:
            self._action_dtype = self.action_space.dtype
            self._shifted = bool(np.any(self._actions[0].start))

    def reset(self, seed: int) -> Values:
        """Start new episodes everywhere, each environment from its own leaf of the seed tree; return [N, ...]."""
        indices = range(self.first_index, self.first_index + self.num_envs)
        seeds = [derive_seed(seed, "environment", index) % _SEED_RANGE for index in indices]
        self._dead = None
        return self._reset(np.arange(self.num_envs), seed=seeds if self._seed_list else seeds[0])

    def step(self, action: Values) -> Step:
        """Apply actions [N, ...] (categories count from 0) and return the true transitions."""
        self.steps += 1
        self.entered += 1
        try:
            observation, reward, terminated, truncated, infos = self._vector_env.step(self._told(action))
        except Exception as error:
            mark_environment(error, f"{self._all_names} raised at step {self.steps}")
            raise
        finally:
            self.left = self.entered
        observation = self._admit(observation)
        if reward.dtype != np.float32:
            reward = reward.astype(np.float32)
        if self._dead is None and not np.count_nonzero(terminated) and not np.count_nonzero(truncated):
            step = Step(observation, reward, terminated, truncated, self._all_valid, observation, self._none)
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            step = self._mask_dead(observation, reward, terminated, truncated)
        else:
            step = self._separate(observation, reward, terminated, truncated, infos)
        if self._check_every_step:
            observations = step.next_observation
            nested = {} if isinstance(observations, np.ndarray) else observations
            in_time = {name: value[None] for name, value in nested.items()} or cast(Array, observations)[None]
            self._check(in_time, step.reward[None])
        return step

    def check(self, observations: Values, rewards: Array) -> None:
        """Raise EnvironmentFault for the first bad number in the last T steps.

        observations: true successors [T, N, ...]; rewards: [T, N].
        """
        self._check(observations, rewards)

    def _check(self, observations: Values, rewards: Array) -> None:
        guarded = list(self._guarded(observations))
        if np.isfinite(rewards).all() and all(guard.good(values) for guard, values in guarded):
            return
        flat = [(guard, values.reshape(-1, *guard.part.shape)) for guard, values in guarded]
        outside = [guard.outside(values) for guard, values in flat]
        bad = np.logical_or.reduce([*outside, ~np.isfinite(rewards).reshape(-1)])
        first = int(bad.argmax())
        name = environment_name(self.first_index + first % self.num_envs, self.worker)
        step = self.steps - len(rewards) + 1 + first // self.num_envs
        faults = [
            guard.describe(values[first]) for (guard, values), out in zip(flat, outside, strict=True) if out[first]
        ]
        value = faults[0] if faults else f"the reward {rewards.reshape(-1)[first]}"
        raise EnvironmentFault(f"{name} returned at its step {step} {value}")

    def describe(self) -> str:
        """Return how messages call these environments."""
        return self._all_names

    def close(self) -> None:
        """Release the environments. Idempotent. One that fails in this is told of: its work is done."""
        try:
            self._vector_env.close()
        except Exception as error:  # noqa: BLE001  (what it learnt from is not lost with it)
            said = f"{type(error).__name__}: {error}"
            warnings.warn(f"{self._all_names} could not be closed: {said}", RuntimeWarning, stacklevel=2)

    def _told(self, action: Values) -> Any:
        """Return actions as the environments take them."""
        if isinstance(action, np.ndarray):
            if action.dtype != self._action_dtype:
                action = action.astype(self._action_dtype)
            return action + self._actions[0].start if self._shifted else action
        told = {part.name: action[part.name].astype(part.space.dtype) + part.start for part in self._actions}
        return nest(self.action_space, told)

    def _guarded(self, observations: Values) -> Iterator[tuple[Guard, Array]]:
        """Yield each part of observations with what is promised of it."""
        for guard in self._guards:
            yield guard, observations if isinstance(observations, np.ndarray) else observations[guard.part.name]

    def _mask_dead(self, observation: Values, reward: Array, terminated: Array, truncated: Array) -> Step:
        """NEXT_STEP: environments that were done in the last step ignored this action and were reset."""
        valid, begins = self._all_valid, self._none
        if self._dead is not None:
            begins = self._dead
            valid = ~begins
            reward = np.where(valid, reward, np.float32(0))
            terminated, truncated = terminated & valid, truncated & valid
        done = terminated | truncated
        self._dead = done if done.any() else None
        return Step(observation, reward, terminated, truncated, valid, observation, begins)

    def _separate(
        self, observation: Values, reward: Array, terminated: Array, truncated: Array, infos: Mapping[str, Any]
    ) -> Step:
        """SAME_STEP and DISABLED: the last observation of an episode is not the one to act on next."""
        done = terminated | truncated
        indices = np.flatnonzero(done)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            successor = observation
            # The environments keep the mask that they are given, and may change it.
            observation = self._reset(indices, options={"reset_mask": done.copy()})
        else:
            successor = self._with_final(observation, infos, indices)
            self._check_reset(observation, indices)
        return Step(successor, reward, terminated, truncated, self._all_valid, observation, done)

    def _with_final(self, observation: Values, infos: Mapping[str, Any], indices: Array) -> Values:
        """Return the observations with those of `indices` replaced by the last ones of their episodes."""
        # Either an array of objects, None where no episode ended, or a batch with the mask "_final_obs".
        final = infos.get("final_obs", [None] * self.num_envs)
        present = infos.get("_final_obs", self._all_valid)
        batched = isinstance(final, Mapping | tuple)
        successor = copy_values(observation)
        for index in indices:
            if not present[index] or (not batched and final[index] is None):
                name = environment_name(self.first_index + index, self.worker)
                raise EnvironmentFault(f"{name} ended an episode at its step {self.steps} without infos['final_obs']")
            for guard, values in self._guarded(successor):
                part = guard.part
                values[index] = part.of(final)[index] if batched else part.of(final[index])
        return successor

    def _admit(self, observation: Any) -> Values:
        """Return the batch in its own arrays and in the types that the engine keeps."""
        if self._nested:
            moment = f"{self._all_names} returned at step {self.steps}"
            return {g.part.name: self._admit_part(g.part, g.part.find(observation, moment)) for g in self._guards}
        if observation.shape != self._batch_shape or observation.dtype != self._dtype:
            return self._admit_part(self._guards[0].part, observation)
        return cast(Array, observation.copy() if self._copy else observation)

    def _admit_part(self, part: Part, values: Array) -> Array:
        shape = (self.num_envs, *part.shape)
        if values.shape != shape or values.dtype != part.dtype:
            moment = f"{self._all_names} returned at step {self.steps}"
            part.check_form(values, shape, self._check_observations, moment)
            return values.astype(part.dtype)
        return values.copy() if self._copy else values

    def _reset(self, indices: Array, **arguments: Any) -> Values:
        self.entered, self.thread = self.entered + 1, threading.get_ident()
        try:
            observation, _ = self._vector_env.reset(**arguments)
        except Exception as error:
            mark_environment(error, f"{self._all_names} raised at the reset after step {self.steps}")
            raise
        finally:
            self.left = self.entered
        observation = self._admit(observation)
        self._check_reset(observation, indices)
        return observation

    def _check_reset(self, observation: Values, indices: Array) -> None:
        """Check first observations: `check` sees successors only."""
        for guard, values in self._guarded(observation):
            for index in indices[guard.outside(values[indices])]:
                name, fault = environment_name(self.first_index + index, self.worker), guard.describe(values[index])
                raise EnvironmentFault(f"{name} returned in the reset after its step {self.steps} {fault}")


def spec_of(environment: Environment) -> Spec:
    """Return "observation" and "action", or their parts: what the environment delivers and takes."""
    return environment.spec
