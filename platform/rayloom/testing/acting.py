"""What agents must hold to when they act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rayloom.checkpoint.random_state import capture_random_state, restore_random_state
from rayloom.config.schema import RunConfig
from rayloom.config.sources import EnvironmentFields
from rayloom.contract import Action, Algorithm, Spec, TensorSpec
from rayloom.rollouts.making import make_environment
from rayloom.runs.learner_role import LearnerRole
from rayloom.seeding import derive_seed, torch_generator
from rayloom.testing.failures import require

_ENVIRONMENTS = 5


def _first_observations(config: RunConfig) -> Any:
    """Return the first observations of some episodes as tensors."""
    environment = make_environment(config.source, _ENVIRONMENTS)  # type: ignore[arg-type]
    try:
        observation: Any = environment.reset(derive_seed(config.seed, "check", "environment"))
    finally:
        environment.close()
    if isinstance(observation, Mapping):
        return {name: torch.from_numpy(part) for name, part in observation.items()}
    return torch.from_numpy(observation)


def _first_row(observation: Any) -> Any:
    if isinstance(observation, Mapping):
        return {name: part[:1] for name, part in observation.items()}
    return observation[:1]


def _shapes(state: Any) -> Any:
    """Return the shapes of a nested state."""
    if isinstance(state, Tensor):
        return tuple(state.shape)
    if isinstance(state, Mapping):
        return {name: _shapes(part) for name, part in state.items()}
    return [_shapes(part) for part in state] if isinstance(state, list | tuple) else state


def _parts(action: Action) -> dict[str, Tensor]:
    """Return the action, or the parts of a nested one, by the names of their specs."""
    if isinstance(action.action, Mapping):
        return {f"action.{name}": part for name, part in action.action.items()}
    return {"action": action.action}


def _check_form(action: Action, specs: Spec) -> None:
    """Check type, shape and range of the chosen actions."""
    require(isinstance(action, Action), f"act must return an Action, not {type(action).__name__}")
    parts = _parts(action)
    wanted = sorted(name for name in specs if name.split(".")[0] == "action")
    require(sorted(parts) == wanted, f"act must return {', '.join(wanted)}, not {', '.join(sorted(parts))}")
    for name, chosen in parts.items():
        _check_part(name, chosen, specs[name])
    for name, extra in action.extras.items():
        require(len(extra) == _ENVIRONMENTS, f"extras[{name!r}] of act must have one row for each environment")


def _check_part(name: str, chosen: Tensor, spec: TensorSpec) -> None:
    shape = (_ENVIRONMENTS, *spec.shape)
    require(
        tuple(chosen.shape) == shape,
        f"act must return {name} in the shape {list(shape)} for {_ENVIRONMENTS} environments, not {list(chosen.shape)}",
    )
    if spec.num_values is None:
        require(chosen.is_floating_point(), f"act must return real numbers as {name}, not {chosen.dtype}")
        flat = chosen.reshape(_ENVIRONMENTS, -1).cpu()
        for bound, outside in ((spec.low, torch.lt), (spec.high, torch.gt)):
            beyond = bound is not None and bool(outside(flat, torch.tensor(bound)).any())
            require(not beyond, f"act returns {name} outside the environment's range {spec.low} to {spec.high}")
    else:
        require(not chosen.is_floating_point(), f"act must return whole numbers as {name}, not {chosen.dtype}")
        below = chosen.cpu() < torch.tensor(spec.num_values).reshape(spec.shape if spec.shape else ())
        require(bool((chosen >= 0).all() and below.all()), f"act returns {name} outside 0 to {spec.num_values} - 1")


def _equal(first: Action, second: Action) -> bool:
    mine, theirs = _parts(first), _parts(second)
    return mine.keys() == theirs.keys() and all(torch.equal(part, theirs[name]) for name, part in mine.items())


def _check_greedy(algorithm: Algorithm, observation: Any) -> None:
    """Check that greedy actions are a function of their own rows, and of nothing that is drawn."""
    before = capture_random_state()
    greedy = algorithm.act(observation, algorithm.initial_state(_ENVIRONMENTS), None)
    after = torch.get_rng_state()
    restore_random_state(before)
    require(torch.equal(before["torch"], after), "act without a generator draws from torch's: act greedily then")
    again = algorithm.act(observation, algorithm.initial_state(_ENVIRONMENTS), None)
    require(_equal(greedy, again), "act without a generator does not repeat itself: act greedily then")
    alone = _parts(algorithm.act(_first_row(observation), algorithm.initial_state(1), None))
    beside = _parts(greedy)
    require(
        all(
            torch.allclose(part.double(), beside[name][:1].double(), rtol=1e-4, atol=1e-5)
            for name, part in alone.items()
        ),
        "act chooses another greedy action for an environment when others stand beside it: rows must not mix",
    )


def actions_fit(config: RunConfig) -> str | None:
    """Check shapes, types and ranges of actions, and that only the given generator decides between them."""
    role = LearnerRole(config)
    try:
        algorithm = role.algorithm
        if not any(name.split(".")[0] == "action" for name in algorithm.spec):
            return "it does not act in environments"
        if not isinstance(config.source, EnvironmentFields):
            return "its source has no environments, and what it shows to act is its own affair"
        observation = _first_observations(config)
        algorithm.environments, algorithm.num_environments = range(_ENVIRONMENTS), _ENVIRONMENTS
        algorithm.eval()
        algorithm.after_publish()
        with torch.no_grad():
            state = algorithm.initial_state(_ENVIRONMENTS)
            for explore in (None, torch_generator(config.seed, "check", "act")):
                action = algorithm.act(observation, state, explore)
                _check_form(action, algorithm.spec)
                require(
                    _shapes(action.state) == _shapes(state),
                    f"act returns a state of the shapes {_shapes(action.state)}, initial_state one of {_shapes(state)}",
                )
            _check_greedy(algorithm, observation)
            drawn = [algorithm.act(observation, state, torch_generator(1, "check", "act")) for _ in range(2)]
            require(_equal(*drawn), "act with the same generator chooses other actions: draw from `explore` alone")
        return None
    finally:
        role.close()
