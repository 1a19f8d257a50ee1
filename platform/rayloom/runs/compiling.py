"""`learner.compile: auto`: whether a run compiles its steps, decided once, when it begins.

A compiled step's numbers differ from an eager one's by rounding, so a run that goes on must take the way that it began
with: the decision goes into its config. It depends on the config, and on whether this machine has a compiler, alone; it
is the same with `--local` and without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from rayloom.components import Component
from rayloom.config.schema import UNITS, RunConfig
from rayloom.devices import has_compiler

SHARE_BEFORE_A_TARGET = 0.25
"""Of its budget that a run is taken to need which ends as soon as a metric is good enough."""


def settled(config: RunConfig, earlier: RunConfig | None = None) -> RunConfig:
    """Return the config with true or false where it leaves `learner.compile` to the machine.

    `earlier` is the config with which the same run began, whose decision stays.
    """
    if config.learner.compile != "auto":
        return config
    compiles = _pays(config) if earlier is None else earlier.learner.compile is True
    return replace(config, learner=replace(config.learner, compile=compiles))


def _pays(config: RunConfig) -> bool:
    """Tell whether compiling is known to save more time than it costs.

    Elsewhere it might, too, but nobody has measured it: on GPUs, in bfloat16. Learners that are actors may be on
    machines without a compiler, and the trials of a population are one function already.
    """
    learner = config.learner
    one_of_many = config.search is not None and config.search.population > 1
    elsewhere = learner.count > 1 or config.cluster.learner == "actor"
    on_gpu = learner.gpus > 0 or learner.device == "cuda"
    if one_of_many or elsewhere or on_gpu or learner.precision != "float32" or learner.accumulate > 1:
        return False
    algorithm = config.algorithm_class()
    if "compiles_from" not in vars(algorithm) or any(part.kind is None for part in _components(config.algorithm)):
        return False  # a loss or a network of the user's own may do what cannot be compiled
    least, updates = algorithm.compiles_from(config.algorithm), expected_updates(config)
    if least is None or updates is None:
        return False
    if any(unit not in UNITS for unit in config.stop):
        updates *= SHARE_BEFORE_A_TARGET
    return updates >= least and has_compiler()


def expected_updates(config: RunConfig) -> float | None:
    """Return about how many updates the run's budget allows; None where that is not known before it begins."""
    known: list[float | None] = []
    for unit, limit in config.budget().items():
        if unit == "updates":
            known.append(float(limit))
        elif unit == "samples":
            known.append(limit / config.learner.batch_size)
        elif unit == "env_steps":
            known.append(config.source.updates_of(limit, config.learner.batch_size))
        else:  # epochs of data that is not loaded yet
            known.append(None)
    counts = [count for count in known if count is not None]
    return min(counts) if len(counts) == len(known) and counts else None


def _components(settings: Any) -> Iterator[Component]:
    """Yield the components that settings name, however deep."""
    if isinstance(settings, Component):
        yield settings
        settings = settings.settings
    if is_dataclass(settings):
        for each in fields(settings):
            yield from _components(getattr(settings, each.name))
    elif isinstance(settings, Mapping):
        for value in settings.values():
            yield from _components(value)
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _components(value)
