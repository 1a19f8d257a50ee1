"""One config with several seeds: runs one after the other, which a second call goes on with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rayloom.config.schema import RunConfig, flatten
from rayloom.errors import UserError
from rayloom.launch.run import as_config, run
from rayloom.redaction import redacted_tree
from rayloom.runs.jobs import OF_THE_PLACE, seed_job
from rayloom.runs.observer import Observer, Result


@dataclass(frozen=True)
class SeedResults:
    """What the runs of several seeds returned."""

    group: str
    """What they are compared by, and the value of their tag `rayloom.group`."""
    results: tuple[Result, ...]
    """Of the seeds 0, 1, ..."""


def run_seeds(
    config: RunConfig | str | Mapping[str, Any],
    *overrides: str,
    seeds: int,
    local: bool = False,
    group: str | None = None,
    observe: Callable[[int], Observer] | None = None,
) -> SeedResults:
    """Train a config with the seeds 0 to `seeds` - 1, one after the other.

    The same call goes on where an earlier one was interrupted, and a larger number adds seeds: each run is a job whose
    id follows from `group` (default: the config's name and a hash of it without its seed). `observe` makes the
    observer of a seed's run. UserError for less than one seed, or where `overrides` set the seed.
    """
    if seeds < 1:
        raise UserError(f"--seeds: {seeds} runs are none; give at least 1")
    if any(word.partition("=")[0].strip() == "seed" for word in overrides):
        raise UserError("--seeds trains with the seeds 0, 1, ...: leave out seed=")
    typed = as_config(config, overrides)
    group = group or group_name(typed)
    results = []
    for seed in range(seeds):
        observer = observe(seed) if observe else None
        seeded = replace(typed, seed=seed)
        results.append(run(seeded, local=local, observer=observer, job=seed_job(group, seed), group=group))
    return SeedResults(group, tuple(results))


def group_name(config: RunConfig) -> str:
    """Return the name of the runs of a config that differ in their seed alone, wherever they take place."""
    settings = flatten(redacted_tree(config.to_tree()))
    shaping = {key: value for key, value in settings.items() if key != "seed" and key not in OF_THE_PLACE}
    digest = hashlib.sha256(json.dumps(shaping, sort_keys=True, default=str).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", config.name).strip("-._")[:60]
    return f"{name or 'run'}-{digest[:8]}"
