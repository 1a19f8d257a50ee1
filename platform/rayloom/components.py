"""Components: what a config names, by a short name that is shipped or by an import path of one's own.

A component is a class, or a function marked by `component`, with a frozen dataclass `Config` beside it. A config writes
it as a mapping with `kind` (shipped) or `import` (one's own, "module:Name") and its settings; a bare word is short for
a component without settings. Whoever uses a component calls it with its settings first.

    NETWORKS = Kinds("network", {"mlp": Shipped("my_networks:mlp")}, own="...", default="mlp")

    class Config(AlgorithmConfig):
        network: Annotated[Component, NETWORKS] = field(default_factory=NETWORKS.component)

This module imports the standard library only: tables of kinds are read without what they name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Settings of a component that has none."""


def component(of: str, config: type[Any] = NoSettings) -> Callable[[_F], _F]:
    """Mark a function as a component of the kind `of` ("network", "schedule"), with its frozen dataclass of settings.

    A class needs no mark where it derives from the base that such components have: it defines `Config` itself.
    """

    def mark(function: _F) -> _F:
        for name, value in (("component_of", of), ("Config", config)):
            setattr(function, name, value)
        return function

    return mark


@dataclass(frozen=True)
class Component:
    """One component that a config named."""

    kind: str | None
    """Its short name; None for one that was imported."""
    path: str
    """Where it lies, "module:Name"."""
    settings: Any
    """An instance of its `Config`."""

    @property
    def name(self) -> str:
        """What the config called it."""
        return self.kind or self.path

    def load(self) -> Any:
        """Import the class or function, to be called with `settings` first."""
        return _load(self.path)

    def make(self, *arguments: Any) -> Any:
        """Import and call it: with `settings` first or, for a class of another library, with them as keywords."""
        found = self.load()
        if hasattr(found, "Config"):
            return found(self.settings, *arguments)
        return found(*arguments, **{each.name: getattr(self.settings, each.name) for each in fields(self.settings)})


class Shipped(NamedTuple):
    """A component with a short name."""

    path: str
    """Where it lies, "module:Name"."""
    config: type[Any] | None = None
    """Its settings, where reading a config should not import `path`; None: they stand beside the component."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """The components of one kind: those with short names, and what one's own must be."""

    of: str
    """What they are: "optimizer", "network"."""
    shipped: Mapping[str, Shipped]
    own: str
    """What an imported one must be, as the end of a sentence."""
    base: str | None = None
    """Import path of the class from which a class must derive; None: every one bears the mark of `component`."""
    default: str | None = None
    """The kind where a config writes settings without one."""
    settings: type[Any] | None = None
    """The class from which the settings of one's own must derive: the engine reads its fields."""
    keywords: bool = False
    """Classes of other libraries will do, without a `Config`: their settings are the keyword arguments."""

    def component(self, kind: str | None = None, **settings: Any) -> Component:
        """Return a shipped component (None: the default one) for settings that need no check."""
        name = kind or self.default
        assert name is not None, f"there is no default {self.of}"
        return Component(name, self.shipped[name].path, self.config(name)(**settings))

    def config(self, kind: str) -> type[Any]:
        """Return the class of a shipped component's settings."""
        shipped = self.shipped[kind]
        config: type[Any] = shipped.config or _load(shipped.path).Config
        return config
