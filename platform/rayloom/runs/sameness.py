"""Which settings a run must still have when it goes on: all that shape what it learns, as its checkpoint knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.checkpoint.store import Loaded
from rayloom.config.load import apply_overrides, from_tree
from rayloom.config.schema import RunConfig, flatten
from rayloom.errors import UserError
from rayloom.redaction import redacted_tree

SETTINGS = "settings"
"""Where a checkpoint's metadata has them."""
ORIGIN = "run"
"""Where a checkpoint's metadata names the run that made it."""
_FREE = (
    *("name", "output", "tracking", "cluster", "checkpoint", "evaluate", "stop", "search"),
    *("learner.count", "learner.threads", "learner.device", "learner.cpus", "learner.gpus"),
    *("source.rollout_workers", "source.worker_cpus", "source.worker_gpus", "source.prefetch"),
)
"""How far a run goes, how it is watched, and where its processes are: these may change between its parts."""
_CHANGEABLE = tuple(key for key in _FREE if key not in ("name", "output", "tracking", "search"))
"""What `resume` changes: not where the run's files and records are."""


def changed_by(config: RunConfig, overrides: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Return a run's config with what may change when it goes on, and a line for each key that is another one now.

    UserError for settings that shape what it learns, and for the places where its files and records are.
    """
    if not overrides:
        return config, []
    for key in (override.partition("=")[0] for override in overrides):
        if not any(key == free or key.startswith(f"{free}.") for free in _CHANGEABLE):
            raise UserError(
                f"{key}: a run that goes on keeps its settings, but for stop, evaluate, checkpoint, cluster and where "
                "its processes are; start a new run with start_from to change others"
            )
    changed = from_tree(apply_overrides(config.to_tree(), overrides))
    before, now = flatten(config.to_tree()), flatten(changed.to_tree())
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return changed, [f"{key} is {now.get(key)} from here on (it was {before.get(key)})" for key in keys]


def learnt_from(config: RunConfig) -> dict[str, Any]:
    """Return the settings that shape what a run learns, by dotted keys, as plain data without passwords."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(redacted_tree(config.to_tree())).items()
        if not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    }


def check_origin(loaded: Loaded, identity: str | None) -> None:
    """Refuse a checkpoint that another run made, equal in its settings as it may be; nothing where one has no name."""
    theirs = loaded.metadata.get(ORIGIN)
    if identity is not None and theirs is not None and theirs != identity:
        raise UserError(
            f"the checkpoint {loaded.path.name} was made by another run than the one of this folder: put back its own, "
            "or start a new run with start_from"
        )


def check_same(config: RunConfig, loaded: Loaded, parts: Sequence[str] = ()) -> None:
    """Refuse to go on from a checkpoint that was made with other settings: of another run, or before an edit.

    `parts` of the config are compared alone, where they are named.
    """
    theirs, own = (
        {key: value for key, value in settings.items() if not parts or key.partition(".")[0] in parts}
        for settings in (_settings(loaded), learnt_from(config))
    )
    for key in [*theirs, *(key for key in own if key not in theirs)]:
        was, now = theirs.get(key), own.get(key)
        if was != now or (key in theirs) != (key in own):
            raise UserError(
                f"{key}: the checkpoint {loaded.path.name} was made with {_told(key, theirs)} and config.yaml has "
                f"{_told(key, own)}: put it back, or start a new run with start_from"
            )


def _settings(loaded: Loaded) -> Mapping[str, Any]:
    settings = loaded.metadata.get(SETTINGS)
    if not isinstance(settings, Mapping) or not isinstance(loaded.metadata.get("counters"), Mapping):
        raise UserError(
            f"the checkpoint {loaded.path} does not say with which settings it was made: choose another one"
        )
    return settings


def _told(key: str, settings: Mapping[str, Any]) -> str:
    return repr(settings[key])[:60] if key in settings else "no such key"
