"""The mark of a function that makes a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Settings of a component that has none."""


def component(of: str, config: type[Any] = NoSettings) -> Callable[[_F], _F]:
    """Mark a function `make(config, seed)` as a component of the kind `of`, with its frozen dataclass of settings."""

    def mark(function: _F) -> _F:
        for name, value in (("component_of", of), ("Config", config)):
            setattr(function, name, value)
        return function

    return mark
