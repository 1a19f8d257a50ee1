"""Making environments: natively vectorised where the id allows it, wrapped one by one where the config asks for it."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rayloom.config.import_path import suggest
from rayloom.config.sources import EnvironmentFields
from rayloom.contract import Spec, TensorSpec
from rayloom.errors import UserError
from rayloom.rollouts.environment import Environment, IndexedEnvironment, environment_name
from rayloom.rollouts.frame_stack import StackedEnvironment
from rayloom.rollouts.pooled import PooledEnvironments
from rayloom.rollouts.wrappers import InfoFields

_OF_ENVIRONMENTS = ("observation", "action")
# Arguments of gymnasium's own `make_vec` and `make`: the engine decides about them.
_RESERVED_OPTIONS = ("id", "num_envs", "vectorization_mode", "vector_kwargs", "wrappers")


def make_environment(
    source: EnvironmentFields, num_envs: int, first_index: int = 0, worker: int = 0, check_every_step: bool = False
) -> Environment:
    """Make `num_envs` environments: natively vectorised where the id has such an entry point, else in a loop.

    A native vector environment cannot be wrapped one by one: with `wrappers` or `info_fields` it is a loop too.
    """
    if source.vectorization == "envpool":
        return _adapted(source, _pooled(source, num_envs), first_index, worker, check_every_step)
    env_id = _registered(source.env)
    registered = gym.registry[env_id]
    loop = source.vectorization == "loop"
    single = bool(registered.additional_wrappers or source.wrappers or source.info_fields or loop)
    native = registered.vector_entry_point is not None and not single
    if not native and registered.entry_point is None:
        key = "wrappers" if source.wrappers else "info_fields" if source.info_fields else "vectorization"
        raise UserError(
            f"source.{key}: {env_id} exists only as a vector environment, which has no single ones; remove it"
        )
    with _explained(source, env_id, native):
        if native:
            vector_env = gym.make_vec(env_id, num_envs=num_envs, **copy.deepcopy(dict(source.env_options)))
        else:
            names = [environment_name(first_index + index, worker) for index in range(num_envs)]
            makers = [partial(_make_single, source, env_id, name) for name in names]
            vector_env = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    return _adapted(source, vector_env, first_index, worker, check_every_step)


def check_alike(environment: Environment, spec: Spec, key: str, whose: str, bounds: bool = True) -> None:
    """Refuse (UserError) environments that are not as the run's `spec` has them: it was read off another process's.

    `key` of the config is to blame, and `whose` environments they are. Without `bounds` these may be others.
    """

    def form(part: TensorSpec | None) -> Any:
        return part if bounds or part is None else (part.shape, part.dtype, part.num_values)

    theirs, ours = environment.spec, {name: spec[name] for name in spec if name.split(".")[0] in _OF_ENVIRONMENTS}
    for name in sorted({*theirs, *ours}):
        if form(theirs.get(name)) != form(ours.get(name)):
            raise UserError(
                f"{key}: {whose} have other spaces than the run: {name} is {_told(theirs.get(name))} and not "
                f"{_told(ours.get(name))}; make environments with the same spaces in every process"
            )


def _told(part: TensorSpec | None) -> str:
    if part is None:
        return "absent"
    values = "" if part.num_values is None else f", {part.num_values} values"
    low, high = (None if bound is None else bound[:4] for bound in (part.low, part.high))
    bounds = "" if low is None and high is None else f", from {low} to {high}"
    return f"{list(part.shape)} of {str(part.dtype).removeprefix('torch.')}{values}{bounds}"


def _pooled(source: EnvironmentFields, num_envs: int) -> PooledEnvironments:
    """Make environments of envpool, which cannot be wrapped one by one."""
    for key in ("wrappers", "info_fields"):
        if getattr(source, key):
            raise UserError(f"source.{key}: environments of envpool cannot have them; remove it, or vectorization")
    return PooledEnvironments(source.env, num_envs, max(1, int(source.worker_cpus)), source.env_options)


def make_rendered(source: EnvironmentFields) -> tuple[Environment, Callable[[], Any]]:
    """Make one environment that can be drawn; return it and a function that returns its present picture."""
    env_id = _registered(source.env)
    with _explained(source, env_id, native=False):
        single = _make_single(source, env_id, environment_name(0, 0), render_mode="rgb_array")
    vector_env = SyncVectorEnv([lambda: single], copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    return _adapted(source, vector_env, 0, 0, False), single.render


def _adapted(source: EnvironmentFields, vector_env: Any, first_index: int, worker: int, every: bool) -> Environment:
    arguments = (vector_env, first_index, worker, source.check_observations, every)
    return StackedEnvironment(source.frame_stack, *arguments) if source.frame_stack > 1 else Environment(*arguments)


@contextlib.contextmanager
def _explained(source: EnvironmentFields, env_id: str, native: bool) -> Iterator[None]:
    """Turn a user's mistakes in the environment's options into sentences."""
    options = source.env_options
    for option in _RESERVED_OPTIONS:
        if option in options:
            raise UserError(f"source.env_options.{option}: the engine sets this itself; remove it")
    try:
        yield
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"source.env: {env_id} needs a package that is not installed: {error}") from None
    except RuntimeError as error:
        if not re.search("spaces are not equivalent|action space doesn't make", str(error)):  # of SyncVectorEnv
            raise
        said = " ".join(re.split(r"equivalent\.|`,", str(error))[-1].split("If this")[0].split())
        raise UserError(
            f"source.env: {env_id} makes environments whose spaces differ ({said[:200]}); give all of them the same"
        ) from None
    except (ValueError, AssertionError, OverflowError) as error:
        if not options:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"source.env_options: {env_id} cannot be made with {dict(options)!r:.200}: {said} "
            f"({type(error).__name__} in line {place.lineno} of {place.filename})"
        ) from error
    except TypeError as error:
        match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not match or match[1] not in options:
            raise
        registered = gym.registry[env_id]
        entry_point = registered.vector_entry_point if native else registered.entry_point
        maker = load_env_creator(entry_point) if isinstance(entry_point, str) else cast(Any, entry_point)
        hint = suggest(match[1], inspect.signature(maker).parameters)
        raise UserError(f"source.env_options.{match[1]}: {env_id} has no such option{hint}") from None


def _make_single(source: EnvironmentFields, env_id: str, name: str, **more: Any) -> gym.Env[Any, Any]:
    # Gymnasium's own checker only warns; `check` and `IndexedEnvironment` end the run. An environment may change its
    # options: they are each one's own.
    options = copy.deepcopy(dict(source.env_options))
    env: gym.Env[Any, Any] = gym.make(env_id, **{"disable_env_checker": True, **options, **more})
    for wrapper in copy.deepcopy(source.wrappers):
        env = wrapper.make(env)
    if source.info_fields:
        env = InfoFields(env, source.info_fields)
    return IndexedEnvironment(env, name, source.check_observations)


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
                hint = "run `pip install 'rayloom[atari]'`" if error.name == "ale_py" else f"check {env!r}"
                raise UserError(f"source.env: there is no module {error.name!r}; {hint}") from None
            raise
    if env_id not in gym.registry:
        raise UserError(f"source.env: gymnasium has no environment {env_id!r}{suggest(env_id, gym.registry)}")
    return env_id
