"""Spaces: the parts of observations and actions, what an environment promises of each, and where it breaks the promise.

A nested space (`Dict`, `Tuple`) is kept as its leaves: `Dict(camera=Tuple(left, right))` has the parts "camera.0" and
"camera.1". A space that is not nested is one part without a name. What N environments hold of a space is one array, or
a dict of arrays by the names of the parts.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from rayloom.contract import TensorSpec
from rayloom.errors import EnvironmentFault, UserError

Array = npt.NDArray[Any]
Values = Array | Mapping[str, Array]
"""What N environments hold of one space: an array [N, ...], or arrays by the names of the parts."""
Role = Literal["observation", "action"]


@dataclass(frozen=True)
class Part:
    """One leaf of a space."""

    role: Role
    path: tuple[str | int, ...]
    """Keys and places that lead to it; empty for a space that is not nested."""
    space: gym.Space[Any]

    @cached_property
    def name(self) -> str:
        """Its name among the parts of the space."""
        return ".".join(map(str, self.path))

    @cached_property
    def label(self) -> str:
        """Its name in trajectories and messages."""
        return ".".join(map(str, (self.role, *self.path)))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value."""
        return tuple(self.space.shape or ())

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type the engine keeps: double precision (MuJoCo) doubles the memory and helps no network."""
        assert self.space.dtype is not None
        return np.dtype(np.float32) if self.space.dtype == np.float64 else np.dtype(self.space.dtype)

    @cached_property
    def start(self) -> Any:
        """The smallest category, of each element for a vector of them; 0 for everything else."""
        return getattr(self.space, "start", 0)

    def of(self, nested: Any) -> Any:
        """Return this part of a value of the whole space."""
        for key in self.path:
            nested = nested[key]
        return nested

    def spec(self) -> TensorSpec:
        """Return what an algorithm sees of it; UserError for a space that the engine does not take."""
        space, from_zero = self.space, not np.any(self.start)
        if isinstance(space, gym.spaces.Discrete) and (self.role == "action" or from_zero):
            return TensorSpec(shape=(), dtype=torch.int64, num_values=int(space.n))
        arrays = isinstance(space, gym.spaces.Box | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary)
        kept = torch.int64
        if self.role == "observation" and arrays:
            kept = torch.from_numpy(np.empty(0, self.dtype)).dtype
        if isinstance(space, gym.spaces.MultiDiscrete) and (self.role == "action" or from_zero):
            return TensorSpec(shape=self.shape, dtype=kept, num_values=tuple(map(int, space.nvec.reshape(-1))))
        if isinstance(space, gym.spaces.MultiBinary):
            return TensorSpec(shape=self.shape, dtype=kept, num_values=(2,) * int(np.prod(self.shape)))
        real = isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if not isinstance(space, gym.spaces.Box) or (self.role == "action" and not real):
            name = f"the part {self.name!r} of its {self.role} space" if self.path else f"its {self.role} space"
            raise UserError(
                f"source.env: {name} is {space}; supported are Box (real numbers, if it is for actions), Discrete and "
                "MultiDiscrete (from 0, if they are for observations), MultiBinary, and Dict and Tuple of them: "
                "register a wrapped environment"
            )
        low, high = (space.low.reshape(-1), space.high.reshape(-1))
        return TensorSpec(
            shape=self.shape,
            dtype=torch.from_numpy(np.empty(0, dtype=self.dtype)).dtype,
            low=tuple(map(float, low)) if np.isfinite(low).any() else None,
            high=tuple(map(float, high)) if np.isfinite(high).any() else None,
        )

    def bounds(self, check_range: bool) -> tuple[Any, Any] | None:
        """Return the smallest and largest value (finite, broadcastable) that it may hold; None: any."""
        space = self.space
        if not isinstance(space, gym.spaces.Box):
            number: Any = 2 if isinstance(space, gym.spaces.MultiBinary) else getattr(space, "nvec", None)
            number = int(cast(gym.spaces.Discrete, space).n) if number is None else number
            return (0, number - 1) if check_range else None
        if self.dtype.kind == "f":
            limits = np.finfo(self.dtype)
            if not check_range:
                return limits.min, limits.max
            return tuple(np.clip([space.low, space.high], limits.min, limits.max).astype(self.dtype))
        if not check_range or self.dtype.kind == "b":
            return None
        whole = np.iinfo(self.dtype)
        full = (space.low == whole.min).all() and (space.high == whole.max).all()
        return None if full else (space.low, space.high)

    def check_form(self, value: Array, shape: tuple[int, ...], check_dtype: bool, moment: str) -> None:
        """Raise EnvironmentFault for another shape than promised, or a type that does not fit the promised one."""
        if value.shape != shape:
            raise EnvironmentFault(f"{moment} an {self.label} of shape {value.shape} instead of {shape}")
        promised: Any = self.space.dtype
        if value.dtype.kind in "biuf" and np.issubdtype(promised, np.floating):
            if check_dtype and not np.can_cast(value.dtype, promised):
                _tell_of_type(self.label, value.dtype.name, np.dtype(promised).name)
        elif check_dtype and not np.can_cast(value.dtype, promised):
            raise EnvironmentFault(
                f"{moment} an {self.label} of type {value.dtype} instead of {promised} "
                "(correct the environment, or set source.check_observations=false)"
            )

    def find(self, value: Any, moment: str) -> Any:
        """Return this part of an observation; EnvironmentFault where it is missing."""
        try:
            return self.of(value)
        except (KeyError, IndexError, TypeError):
            raise EnvironmentFault(f"{moment} an observation without its part {self.name!r}") from None


@functools.cache
def _tell_of_type(label: str, given: str, promised: str) -> None:
    """Say once that numbers are converted."""
    print(
        f"rayloom: the environment's {label} comes as {given} although its space says {promised}; it is converted",
        file=sys.stderr,
        flush=True,
    )


class Guard:
    """What one part of an observation may hold, kept ready for many checks."""

    def __init__(self, part: Part, check_range: bool) -> None:
        self.part = part
        self.bounds = part.bounds(check_range)

    def good(self, values: Array) -> bool:
        """Return whether all values [M, ...] are finite and inside their space."""
        # NaN fails both comparisons, and infinity fails the bounds, which are finite.
        bounds = self.bounds
        return bounds is None or bool(((values >= bounds[0]) & (values <= bounds[1])).all())

    def outside(self, values: Array) -> Array:
        """Return which of the values [M, ...] are not finite or outside their space, [M] bool."""
        if self.bounds is None:
            return np.zeros(len(values), dtype=np.bool_)
        inside = (values >= self.bounds[0]) & (values <= self.bounds[1])
        return ~np.asarray(inside.reshape(len(values), -1).all(axis=1))

    def describe(self, value: Array) -> str:
        """Say which element of one value [...] is wrong and why."""
        low, high = (np.broadcast_to(bound, value.shape).reshape(-1) for bound in self.bounds or ())
        flat = value.reshape(-1)
        element = int((~((flat >= low) & (flat <= high))).argmax())
        place = [int(i) for i in np.unravel_index(element, value.shape)] if value.shape else ""
        if not np.isfinite(flat[element]):
            return f"the {self.part.label}{place} = {flat[element]}"
        return (
            f"the {self.part.label}{place} = {flat[element]}, outside its space [{low[element]}, {high[element]}] "
            "(correct the space, or set source.check_observations=false)"
        )


def parts_of(space: gym.Space[Any], role: Role) -> tuple[Part, ...]:
    """Return the leaves of a space in its order; UserError where names would not be plain."""
    if not isinstance(space, gym.Space):
        raise UserError(f"source.env: its {role}_space is {space!r:.80}; it must be a space of gymnasium")
    parts = tuple(_leaves(space, role, ()))
    if not parts:
        raise UserError(f"source.env: its {role} space {space} has no parts; it must have one at least")
    return parts


def _leaves(space: gym.Space[Any], role: Role, path: tuple[str | int, ...]) -> Iterator[Part]:
    if isinstance(space, gym.spaces.Dict):
        for key, inner in space.spaces.items():
            if not isinstance(key, str) or not key or "." in key:
                raise UserError(
                    f"source.env: the {role} space has the key {key!r}; keys must be words without a dot: register a "
                    "wrapped environment"
                )
            yield from _leaves(inner, role, (*path, key))
    elif isinstance(space, gym.spaces.Tuple):
        for place, inner in enumerate(space.spaces):
            yield from _leaves(inner, role, (*path, place))
    else:
        yield Part(role, path, space)


def nest(space: gym.Space[Any], values: Mapping[str, Any], path: str = "") -> Any:
    """Return values by the names of the parts in the form of their space: dicts and tuples."""
    if isinstance(space, gym.spaces.Dict):
        return {key: nest(inner, values, f"{path}{key}.") for key, inner in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(nest(inner, values, f"{path}{place}.") for place, inner in enumerate(space.spaces))
    return values[path[:-1]]


def count_rows(values: Values) -> int:
    """Return N."""
    return len(values) if isinstance(values, np.ndarray) else len(next(iter(values.values())))


def copy_values(values: Values) -> Values:
    """Return the values in arrays of their own."""
    if isinstance(values, np.ndarray):
        return values.copy()
    return {name: value.copy() for name, value in values.items()}


def assign_rows(target: Values, rows: Any, values: Values) -> None:
    """Write values [M, ...] into some rows of values [N, ...]."""
    if isinstance(target, np.ndarray):
        target[rows] = values
        return
    assert isinstance(values, Mapping)
    for name, array in target.items():
        array[rows] = values[name]


def take_rows(values: Values, rows: Any) -> Values:
    """Return some rows of values [N, ...]."""
    if isinstance(values, np.ndarray):
        return cast(Array, values[rows])
    return {name: value[rows] for name, value in values.items()}


def zeros_like_rows(one: Values, number: int) -> Values:
    """Return zeros for `number` environments, in the shape and type of the value of one."""
    if isinstance(one, np.ndarray | np.generic):
        return np.zeros((number, *one.shape), one.dtype)
    return {name: np.zeros((number, *value.shape), value.dtype) for name, value in one.items()}
