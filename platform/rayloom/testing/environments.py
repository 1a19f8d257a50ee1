"""What an environment of one's own must hold to before anything learns from it, with random actions.

Exceptions of the environment itself are not caught: their traceback tells where.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from rayloom.config.sources import OnPolicySourceConfig
from rayloom.contract import TensorSpec
from rayloom.errors import EnvironmentFault
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.making import make_environment
from rayloom.rollouts.spaces import Values, parts_of
from rayloom.testing.conformance import CheckResult
from rayloom.testing.failures import ConformanceError, require

_ENVIRONMENTS = 4
_STEPS = 250
"""Vector steps of the check of observations."""
_REPEATED = 50
"""Vector steps that must come out alike twice."""
_SPEED_S = 0.5


def check_environment(
    env: str, env_options: Mapping[str, Any] | None = None, observe: Callable[[CheckResult], None] | None = None
) -> list[CheckResult]:
    """Check an environment by its Gymnasium id ("module:id" for one of a module); `observe` sees each result at once.

    UserError for an id or spaces that the engine does not take.
    """
    source = OnPolicySourceConfig(kind="on_policy", env=env, env_options=dict(env_options or {}))
    results = []
    for check in (_spaces, _observations, _seeding, _resetting, _speed):
        environment = make_environment(source, _ENVIRONMENTS, check_every_step=True)
        name = check.__name__.removeprefix("_")
        try:
            result = CheckResult(name=name, promise=check(environment))
        except (ConformanceError, EnvironmentFault) as error:
            result = CheckResult(name=name, promise="", failure=str(error))
        finally:
            environment.close()
        results.append(result)
        if observe:
            observe(result)
    return results


def _spaces(environment: Environment) -> str:
    """Say what an agent sees and does."""
    autoreset = getattr(environment.autoreset_mode, "name", "").lower()
    parts = [f"{name} {_described(spec)}" for name, spec in environment.spec.items()]
    return f"{'; '.join(parts)}; autoreset {autoreset}"


def _described(spec: TensorSpec) -> str:
    kind = str(spec.dtype).removeprefix("torch.")
    if spec.num_values is not None:
        return f"{spec.num_values} values" if isinstance(spec.num_values, int) else f"categories {spec.num_values}"
    low, high = min(spec.low or (-np.inf,)), max(spec.high or (np.inf,))
    limits = f" in {low:g} to {high:g}" if np.isfinite([low, high]).all() else ", not all of it bounded"
    return f"{kind} {list(spec.shape)}{limits}"


def _observations(environment: Environment) -> str:
    """Step at random; every observation, reward and end must have the promised form."""
    generator = np.random.default_rng(0)
    environment.reset(0)
    rewards, lengths, ends = [], [], {"terminated": 0, "truncated": 0}
    length = np.zeros(environment.num_envs, int)
    for _ in range(_STEPS):
        step = environment.step(_actions(environment, generator))
        length += step.valid
        ended = step.terminated | step.truncated
        lengths += length[ended].tolist()
        length[ended] = 0
        rewards += step.reward[step.valid].tolist()
        ends["terminated"] += int(step.terminated.sum())
        ends["truncated"] += int((step.truncated & ~step.terminated).sum())
    low, high = np.min(rewards), np.max(rewards)
    told = f"{ends['terminated']} terminated, {ends['truncated']} truncated"
    episodes = f"{len(lengths)} episodes ended ({told}), {np.mean(lengths):.1f} steps long" if lengths else (
        f"no episode ended in {_STEPS} steps: give the environment a time limit if that is not meant"
    )  # fmt: skip
    return f"in {_STEPS * environment.num_envs} steps rewards were {low:g} to {high:g}; {episodes}"


def _seeding(environment: Environment) -> str:
    """Play the same actions from the same seed twice, in the same environments."""
    first, again, other = (_played(environment, seed) for seed in (1, 1, 2))
    require(
        all(map(np.array_equal, first, again)),
        "the same seed and the same actions do not give the same steps after a second reset: draw from self.np_random "
        "alone, and let nothing be left of the episode before",
    )
    alike = all(map(np.array_equal, first, other))
    return "the same seed gives the same steps" + (", and so does another one: nothing is random" if alike else "")


def _resetting(environment: Environment) -> str:
    """Each of several environments must have an episode of its own."""
    environment.reset(3)
    generator = np.random.default_rng(3)
    seen = []
    for _ in range(_REPEATED):
        step = environment.step(_actions(environment, generator))
        seen.append(_flat(environment, step.observation))
    ended = environment.steps
    rows = np.stack(seen)  # [T, N, D]
    require(
        environment.num_envs == 1 or bool((rows != rows[:, :1]).any()) or not rows.size,
        f"{environment.num_envs} environments with seeds and actions of their own show the same observations in "
        f"{ended} steps: they share their state, or the observation never changes",
    )
    return "environments side by side do not share their state"


def _speed(environment: Environment) -> str:
    """Measure steps per second of all environments in one process."""
    generator = np.random.default_rng(0)
    environment.reset(0)
    actions = [_actions(environment, generator) for _ in range(64)]
    environment.step(actions[0])
    began, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < _SPEED_S:
        environment.step(actions[steps % len(actions)])
        steps += 1
    return f"{steps * environment.num_envs / seconds:,.0f} steps a second in one process"


def _played(environment: Environment, seed: int) -> list[Any]:
    generator = np.random.default_rng(0)
    found: list[Any] = [_flat(environment, environment.reset(seed)).copy()]
    for _ in range(_REPEATED):
        step = environment.step(_actions(environment, generator))
        found += [_flat(environment, step.observation).copy(), step.reward.copy(), step.terminated.copy()]
    return found


def _flat(environment: Environment, observation: Values) -> Any:
    """Return observations as rows [N, D]."""
    parts = observation.values() if isinstance(observation, Mapping) else (observation,)
    return np.concatenate([np.asarray(part).reshape(environment.num_envs, -1).astype(np.float64) for part in parts], 1)


def _actions(environment: Environment, generator: np.random.Generator) -> Values:
    """Return random actions of all environments; categories count from 0."""
    parts = parts_of(environment.action_space, "action")
    drawn = {part.name: _drawn(environment.spec[part.label], environment.num_envs, generator) for part in parts}
    return cast(Values, drawn if parts and parts[0].path else drawn[""])


def _drawn(spec: TensorSpec, rows: int, generator: np.random.Generator) -> Any:
    if spec.num_values is not None:
        numbers = np.asarray(spec.num_values).reshape(spec.shape)
        return generator.integers(0, numbers, (rows, *spec.shape))
    if spec.low is None or spec.high is None or not np.isfinite([*spec.low, *spec.high]).all():
        return generator.standard_normal((rows, *spec.shape)).astype(np.float32)
    low, high = (np.asarray(limit, np.float32).reshape(spec.shape) for limit in (spec.low, spec.high))
    return generator.uniform(low, high, (rows, *spec.shape)).astype(np.float32)
