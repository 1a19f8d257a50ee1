"""Vector environments: making them, and the one adapter that turns every autoreset mode into true transitions.

Gymnasium's vector environments restart a finished episode in three ways (`AutoresetMode`): in the next step, whose
action is then ignored (NEXT_STEP); in the same step, with the last observation moved into `infos` (SAME_STEP); or not
at all (DISABLED). `Environment` hides the difference: `Step.next_observation` is always the true successor, and
`Step.valid` is False for steps that never happened.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from rayloom.config.import_path import suggest
from rayloom.config.sources import EnvironmentFields
from rayloom.contract import Spec, TensorSpec
from rayloom.errors import EnvironmentFault, UserError, mark_environment
from rayloom.seeding import derive_seed

Array = npt.NDArray[Any]

# Arguments of gymnasium's own `make_vec` and `make`: the engine decides about them.
_RESERVED_OPTIONS = ("id", "num_envs", "vectorization_mode", "vector_kwargs", "wrappers")
# Reset seeds are cut to what every simulator takes (MuJoCo and the Arcade Learning Environment want 32 signed bits).
_SEED_RANGE = 2**31


def _name(index: int, worker: int) -> str:
    return f"environment {index} of rollout worker {worker}"


class Step(NamedTuple):
    """What one action of every environment led to; N environments. Arrays may be shared: do not write to them."""

    next_observation: Array  # [N, ...] the true successor, also where the episode ended
    reward: Array  # [N] float32
    terminated: Array  # [N] bool: the successor is a terminal state
    truncated: Array  # [N] bool: the episode was cut off; its value continues from the successor
    valid: Array  # [N] bool: False marks the dead step of NEXT_STEP (action ignored), never a training row
    observation: Array  # [N, ...] what to act on next


class IndexedEnvironment(gym.Wrapper[Any, Any, Any, Any]):
    """One sub-environment that knows its name: its errors say which environment raised them, and when."""

    def __init__(self, env: gym.Env[Any, Any], name: str, check_dtype: bool) -> None:
        super().__init__(env)
        self.steps = 0
        self._name = name
        space = env.observation_space
        self._shape = space.shape if isinstance(space, gym.spaces.Box) else None
        self._dtype: Any = space.dtype
        self._check_dtype = check_dtype

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; errors get a note."""
        self.steps += 1
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            mark_environment(error, f"{self._name} raised at its step {self.steps}")
            raise
        if self._shape is not None:
            observation = self._admit(observation)
        if terminated or truncated:
            # An environment that reuses its array would overwrite its last observation when it is reset.
            observation = copy.copy(observation)
        return observation, reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; errors get a note."""
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            mark_environment(error, f"{self._name} raised in the reset after its step {self.steps}")
            raise
        return (observation if self._shape is None else self._admit(observation)), info

    def _admit(self, observation: Any) -> Array:
        if type(observation) is not np.ndarray:
            observation = np.asarray(observation, dtype=self._dtype)
        if observation.shape != self._shape or observation.dtype != self._dtype:
            moment = f"{self._name} returned at its step {self.steps}"
            _check_form(observation, self._shape, self._dtype if self._check_dtype else None, moment)
        return cast(Array, observation)


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
        self.spec: Spec = {
            "observation": _tensor_spec(self.observation_space, "observation"),
            "action": _tensor_spec(self.action_space, "action"),
        }
        self.autoreset_mode = vector_env.metadata.get("autoreset_mode")
        if not isinstance(self.autoreset_mode, AutoresetMode):
            raise UserError(f'{vector_env}: its metadata must set "autoreset_mode" to a gymnasium AutoresetMode')
        self._vector_env = vector_env
        self._seed_list = isinstance(vector_env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        # Sub-environments that are stepped in a loop write into one array, unless they are told to copy it.
        self._copy = getattr(vector_env.unwrapped, "copy", True) is False
        self._check_observations = check_observations
        self._check_every_step = check_every_step
        self._batch_shape = (self.num_envs, *(self.observation_space.shape or ()))
        self._dtype = _stored_dtype(self.observation_space)
        self._bounds = _bounds(self.observation_space, self._dtype, check_observations)
        self._action_start = int(getattr(self.action_space, "start", 0))
        self._action_dtype = self.action_space.dtype
        self._all_valid = np.ones(self.num_envs, dtype=np.bool_)
        self._all_valid.flags.writeable = False
        self._dead: Array | None = None
        self._all_names = f"environments {first_index} to {first_index + self.num_envs - 1} of rollout worker {worker}"

    def reset(self, seed: int) -> Array:
        """Start new episodes everywhere, each environment from its own leaf of the seed tree; return [N, ...]."""
        indices = range(self.first_index, self.first_index + self.num_envs)
        seeds = [derive_seed(seed, "environment", index) % _SEED_RANGE for index in indices]
        self._dead = None
        return self._reset(np.arange(self.num_envs), seed=seeds if self._seed_list else seeds[0])

    def step(self, action: Array) -> Step:
        """Apply actions [N, ...] (discrete ones count from 0) and return the true transitions."""
        self.steps += 1
        if action.dtype != self._action_dtype:
            action = action.astype(self._action_dtype)
        if self._action_start:
            action = action + self._action_start
        try:
            observation, reward, terminated, truncated, infos = self._vector_env.step(action)
        except Exception as error:
            mark_environment(error, f"{self._all_names} raised at step {self.steps}")
            raise
        observation = self._admit(observation)
        if reward.dtype != np.float32:
            reward = reward.astype(np.float32)
        if self._dead is None and not np.count_nonzero(terminated) and not np.count_nonzero(truncated):
            step = Step(observation, reward, terminated, truncated, self._all_valid, observation)
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            step = self._mask_dead(observation, reward, terminated, truncated)
        else:
            step = self._separate(observation, reward, terminated, truncated, infos)
        if self._check_every_step:
            self.check(step.next_observation[None], step.reward[None])
        return step

    def check(self, observations: Array, rewards: Array) -> None:
        """Raise EnvironmentFault for the first bad number in the last T steps.

        observations: true successors [T, N, ...]; rewards: [T, N].
        """
        good = np.isfinite(rewards).all()
        if good and self._bounds is not None:
            # NaN fails both comparisons, and infinity fails the bounds, which are finite.
            good = ((observations >= self._bounds[0]) & (observations <= self._bounds[1])).all()
        if good:
            return
        flat = observations.reshape(-1, *self._batch_shape[1:])
        outside = self._outside(flat)
        first = int((outside | ~np.isfinite(rewards).reshape(-1)).argmax())
        name = _name(self.first_index + first % self.num_envs, self.worker)
        step = self.steps - len(rewards) + 1 + first // self.num_envs
        value = self._describe(flat[first]) if outside[first] else f"the reward {rewards.reshape(-1)[first]}"
        raise EnvironmentFault(f"{name} returned at its step {step} {value}")

    def close(self) -> None:
        """Release the environments. Idempotent."""
        self._vector_env.close()

    def _mask_dead(self, observation: Array, reward: Array, terminated: Array, truncated: Array) -> Step:
        """NEXT_STEP: environments that were done in the last step ignored this action and were reset."""
        valid = self._all_valid
        if self._dead is not None:
            valid = ~self._dead
            reward = np.where(valid, reward, np.float32(0))
            terminated, truncated = terminated & valid, truncated & valid
        done = terminated | truncated
        self._dead = done if done.any() else None
        return Step(observation, reward, terminated, truncated, valid, observation)

    def _separate(
        self, observation: Array, reward: Array, terminated: Array, truncated: Array, infos: Mapping[str, Any]
    ) -> Step:
        """SAME_STEP and DISABLED: the last observation of an episode is not the one to act on next."""
        done = terminated | truncated
        indices = np.flatnonzero(done)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            successor = observation
            observation = self._reset(indices, options={"reset_mask": done})
        else:
            successor = self._with_final(observation, infos, indices)
            self._check_reset(observation, indices)
        return Step(successor, reward, terminated, truncated, self._all_valid, observation)

    def _with_final(self, observation: Array, infos: Mapping[str, Any], indices: Array) -> Array:
        """Return the observations with those of `indices` replaced by the last ones of their episodes."""
        # Either an array of objects, None where no episode ended, or a batch with the mask "_final_obs".
        final = infos.get("final_obs", [None] * self.num_envs)
        present = infos.get("_final_obs", self._all_valid)
        successor = observation.copy()
        for index in indices:
            if final[index] is None or not present[index]:
                name = _name(self.first_index + index, self.worker)
                raise EnvironmentFault(f"{name} ended an episode at its step {self.steps} without infos['final_obs']")
            successor[index] = final[index]
        return successor

    def _admit(self, observation: Any) -> Array:
        """Return the batch in its own array and in the type that the engine keeps."""
        if observation.shape != self._batch_shape or observation.dtype != self._dtype:
            promised = self.observation_space.dtype if self._check_observations else None
            _check_form(observation, self._batch_shape, promised, f"{self._all_names} returned at step {self.steps}")
            observation = observation.astype(self._dtype)
        elif self._copy:
            observation = observation.copy()
        return cast(Array, observation)

    def _reset(self, indices: Array, **arguments: Any) -> Array:
        try:
            observation, _ = self._vector_env.reset(**arguments)
        except Exception as error:
            mark_environment(error, f"{self._all_names} raised at the reset after step {self.steps}")
            raise
        observation = self._admit(observation)
        self._check_reset(observation, indices)
        return observation

    def _check_reset(self, observation: Array, indices: Array) -> None:
        """Check first observations: `check` sees successors only."""
        for index in indices[self._outside(observation[indices])]:
            name, fault = _name(self.first_index + index, self.worker), self._describe(observation[index])
            raise EnvironmentFault(f"{name} returned in the reset after its step {self.steps} {fault}")

    def _outside(self, observations: Array) -> Array:
        """Return which of the observations [M, ...] are not finite or outside their space, [M] bool."""
        if self._bounds is None:
            return np.zeros(len(observations), dtype=np.bool_)
        inside = (observations >= self._bounds[0]) & (observations <= self._bounds[1])
        return ~np.asarray(inside.reshape(len(observations), -1).all(axis=1))

    def _describe(self, observation: Array) -> str:
        """Say which element of one observation [...] is wrong and why."""
        low, high = (np.broadcast_to(bound, observation.shape).reshape(-1) for bound in self._bounds or ())
        flat = observation.reshape(-1)
        element = int((~((flat >= low) & (flat <= high))).argmax())
        place = [int(i) for i in np.unravel_index(element, observation.shape)] if observation.shape else ""
        if not np.isfinite(flat[element]):
            return f"the observation{place} = {flat[element]}"
        return (
            f"the observation{place} = {flat[element]}, outside its space [{low[element]}, {high[element]}] "
            "(correct the space, or set source.check_observations=false)"
        )


def spec_of(environment: Environment) -> Spec:
    """Return {"observation", "action"}: what the environment delivers and takes."""
    return environment.spec


def make_environment(
    source: EnvironmentFields, num_envs: int, first_index: int = 0, worker: int = 0, check_every_step: bool = False
) -> Environment:
    """Make `num_envs` environments: natively vectorised where the id has such an entry point, else in a loop."""
    env_id = _registered(source.env)
    options = dict(source.env_options)
    for option in _RESERVED_OPTIONS:
        if option in options:
            raise UserError(f"source.env_options.{option}: the engine sets this itself; remove it")
    registered = gym.registry[env_id]
    native = registered.vector_entry_point is not None and not registered.additional_wrappers
    try:
        if native:
            vector_env = gym.make_vec(env_id, num_envs=num_envs, **options)
        else:
            names = [_name(first_index + index, worker) for index in range(num_envs)]
            makers = [partial(_make_single, env_id, options, name, source.check_observations) for name in names]
            vector_env = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"source.env: {env_id} needs a package that is not installed: {error}") from None
    except TypeError as error:
        match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not match or match[1] not in options:
            raise
        entry_point = registered.vector_entry_point if native else registered.entry_point
        maker = load_env_creator(entry_point) if isinstance(entry_point, str) else cast(Any, entry_point)
        hint = suggest(match[1], inspect.signature(maker).parameters)
        raise UserError(f"source.env_options.{match[1]}: {env_id} has no such option{hint}") from None
    return Environment(vector_env, first_index, worker, source.check_observations, check_every_step)


def _make_single(env_id: str, options: dict[str, Any], name: str, check_dtype: bool) -> gym.Env[Any, Any]:
    # Gymnasium's own checker only warns; `check` and `IndexedEnvironment` end the run.
    return IndexedEnvironment(gym.make(env_id, **{"disable_env_checker": True, **options}), name, check_dtype)


def _registered(env: str) -> str:
    """Return the id under which gymnasium knows `env`, after importing the module of "module:id"."""
    module, _, env_id = env.rpartition(":")
    if not module and env_id.startswith("ALE/"):
        module = "ale_py"  # registers its ids only when it is imported
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            # A missing dependency inside the module is not a misspelt path: show its own traceback.
            if error.name and module.startswith(error.name):
                hint = "run `pip install ale-py`" if error.name == "ale_py" else f"check {env!r}"
                raise UserError(f"source.env: there is no module {error.name!r}; {hint}") from None
            raise
    if env_id not in gym.registry:
        raise UserError(f"source.env: gymnasium has no environment {env_id!r}{suggest(env_id, gym.registry)}")
    return env_id


def _tensor_spec(space: gym.Space[Any], role: str) -> TensorSpec:
    if isinstance(space, gym.spaces.Discrete) and (role == "action" or space.start == 0):
        return TensorSpec(shape=(), dtype=torch.int64, num_values=int(space.n))
    real = isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)
    if not isinstance(space, gym.spaces.Box) or (role == "action" and not real):
        raise UserError(
            f"source.env: its {role} space is {space}; supported are Box (real numbers, if it is for actions) and "
            "Discrete (from 0, if it is for observations): register a wrapped environment"
        )
    low, high = (space.low.reshape(-1), space.high.reshape(-1))
    return TensorSpec(
        shape=tuple(space.shape),
        dtype=torch.from_numpy(np.empty(0, dtype=_stored_dtype(space))).dtype,
        low=tuple(map(float, low)) if np.isfinite(low).any() else None,
        high=tuple(map(float, high)) if np.isfinite(high).any() else None,
    )


def _stored_dtype(space: gym.Space[Any]) -> np.dtype[Any]:
    """Return the type the engine keeps: double precision (MuJoCo) doubles the memory and helps no network."""
    assert space.dtype is not None
    return np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)


def _bounds(space: gym.Space[Any], dtype: np.dtype[Any], check_range: bool) -> tuple[Any, Any] | None:
    """Return the smallest and largest value (finite, broadcastable) that an observation may hold; None: any."""
    if isinstance(space, gym.spaces.Discrete):
        return (0, int(space.n) - 1) if check_range else None
    assert isinstance(space, gym.spaces.Box)
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        if not check_range:
            return limits.min, limits.max
        return tuple(np.clip([space.low, space.high], limits.min, limits.max).astype(dtype))
    if not check_range or dtype.kind == "b":
        return None
    whole = np.iinfo(dtype)
    return None if (space.low == whole.min).all() and (space.high == whole.max).all() else (space.low, space.high)


def _check_form(observation: Array, shape: tuple[int, ...] | None, dtype: Any, moment: str) -> None:
    """Raise for another shape than promised, or a type that does not fit the promised one (None: any)."""
    if observation.shape != shape:
        raise EnvironmentFault(f"{moment} an observation of shape {observation.shape} instead of {shape}")
    if dtype is not None and not np.can_cast(observation.dtype, dtype):
        raise EnvironmentFault(
            f"{moment} an observation of type {observation.dtype} instead of {dtype} "
            "(correct the environment, or set source.check_observations=false)"
        )
