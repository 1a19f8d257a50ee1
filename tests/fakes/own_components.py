"""Components as a user writes them, right and wrong ones, for the tests of the resolver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge

from rayloom.contract import AlgorithmConfig, Component, Kinds, Shipped, component
from tiny_algorithm import Tiny

CALLED: list[str] = []
"""What was called, which must be nothing while a config is read."""


@dataclass(frozen=True, kw_only=True)
class StepsConfig:
    """The rate falls by a factor at each step."""

    at: tuple[Annotated[int, Ge(1)], ...] = (10,)
    """Updates at which it falls."""
    factor: float = 0.1
    """What is left of it."""


@component("schedule", StepsConfig)
def steps(config: StepsConfig, fraction: float, update: int) -> float:
    """Return factor to the number of steps passed."""
    CALLED.append("steps")
    return float(config.factor ** sum(update > at for at in config.at))


@dataclass(frozen=True, kw_only=True)
class SignConfig:
    """Settings of Sign."""

    learning_rate: float = 0.01
    """Length of each step."""


class Sign(torch.optim.Optimizer):
    """Steps by the sign of the gradient."""

    Config = SignConfig

    def __init__(self, config: SignConfig, parameters: Any) -> None:
        CALLED.append("Sign")
        super().__init__(parameters, {"lr": config.learning_rate})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())


@component("optimizer", SignConfig)
def no_optimizer(config: SignConfig, parameters: Any) -> Any:
    """Return something else."""
    return "no optimiser"


@component("optimizer", SignConfig)
def nadam(config: SignConfig, parameters: Any) -> torch.optim.Optimizer:
    """Return torch's NAdam."""
    return torch.optim.NAdam(parameters, lr=config.learning_rate)


def unmarked(config: Any, fraction: float, update: int) -> float:
    """Return 1, but nobody says that this is a schedule."""
    CALLED.append("unmarked")
    return 1.0


class Bare(torch.optim.Optimizer):
    """Has no Config."""


class Loose(torch.optim.Optimizer):
    """Has a Config that is no dataclass."""

    class Config:
        """Not a dataclass."""

        learning_rate = 0.1


class Undecorated(torch.optim.Optimizer):
    """Has a Config that inherits from a dataclass, with a field that nobody would see."""

    class Config(SignConfig):
        """Without @dataclass."""

        momentum: float = 0.9


class Thawed(torch.optim.Optimizer):
    """Has a Config that is not frozen."""

    @dataclass
    class Config:
        """Not frozen."""

        learning_rate: float = 0.1


class Reserved(torch.optim.Optimizer):
    """Has a setting whose name chooses components."""

    @dataclass(frozen=True)
    class Config:
        """Not possible."""

        kind: str = "mine"


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """Settings of a dense part."""

    width: Annotated[int, Ge(1)] = 8
    inner: Annotated[Component, Kinds("part", {}, own="a marked function")] | None = None

    def __post_init__(self) -> None:
        """Refuse odd widths."""
        if self.width % 2:
            raise ValueError("an odd width does not fit; double it")


@component("part", DenseConfig)
def dense(config: DenseConfig) -> int:
    """Return the width."""
    return config.width


@component("part")
def plain_part(config: Any) -> int:
    """Have no settings."""
    return 0


PARTS = Kinds(
    "part",
    {"dense": Shipped(f"{__name__}:dense"), "plain": Shipped(f"{__name__}:plain_part")},
    own="a function marked @component('part', Config)",
    default="dense",
)


@dataclass(frozen=True, kw_only=True)
class BuiltConfig(AlgorithmConfig):
    """Settings of an algorithm that is built of parts."""

    part: Annotated[Component, PARTS] = field(default_factory=PARTS.component)
    maybe: Annotated[Component, PARTS] | None = None
    more: tuple[Annotated[Component, PARTS], ...] = ()
    named: Mapping[str, Annotated[Component, PARTS]] = field(default_factory=dict)


class Built(Tiny):
    """An algorithm that is built of parts."""

    Config = BuiltConfig


def write_module(folder: Path, name: str, text: str) -> str:
    """Write a module for an import and return its name."""
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return name
