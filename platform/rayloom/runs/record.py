"""What a tracker is told about a run: where it came from, its settings, and in words what became of it.

Settings that shape what a run learns are parameters, those of its places and processes are tags.
"""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rayloom.config.schema import RunConfig, flatten
from rayloom.runs.folders import RUN, write_result
from rayloom.runs.inputs import recorded_inputs
from rayloom.runs.jobs import job_tag
from rayloom.runs.objectives import read_objectives
from rayloom.runs.observer import Result
from rayloom.runs.sameness import learnt_from
from rayloom.tracking.provenance import git_state, ray_job_tag
from rayloom.tracking.tracker import Tracker

DESCRIPTION = "mlflow.note.content"
"""MLflow's tag for what a run's page says first, in Markdown."""
_SOURCE = "mlflow.source.name"
_COMPARED = ("name", "stop", "evaluate", "search")
"""Parameters beside those that shape the learning."""
_PLACE = "rayloom.place/"


@dataclass(frozen=True)
class Hosting:
    """What a run that belongs to a study has from it."""

    tags: Mapping[str, str]
    """MLflow tags that tell the trial."""


def described(config: RunConfig, folder: Path, result: Result | None = None, ended: str = "") -> str:
    """Return in Markdown what a run is, what became of it, and how to load it."""
    module, _, name = config.algorithm_path.partition(":")
    lines = [f"**{config.name}**: {name} of `{module}`, seed {config.seed}"]
    if result is not None:
        counters = ", ".join(f"{count:,} {unit}" for unit, count in result.counters.items())
        lines.append(f"{result.status} ({result.stopped_by}) after {counters}")
        best = read_objectives(config).best
        judged = [best] if best in result.metrics else sorted(result.metrics)
        shown = [key for key in judged if key == best or key.startswith("evaluate/")][:3]
        lines += [f"- {key}: {result.metrics[key]:.6g}" for key in shown]
    elif ended:
        lines.append(ended)
    lines.append(f"`{_command()}`")
    run, output = folder.name, folder.parent
    if output.name == "trials":
        run, output = f"{output.parent.name}/{run}", output.parent.parent
    lines.append(f"`rayloom.load({run!r}, output={str(output)!r})` in Python, or `rayloom evaluate {run}`")
    return "\n\n".join(lines)


def _source(config: RunConfig) -> str:
    """Return what ran, in a few words: MLflow shows what follows the last slash."""
    program = Path(sys.argv[0]).name or "python"
    return f"{program} {config.name}"


def _command() -> str:
    """Return what was run, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])[:500]


def start_run_tracker(
    config: RunConfig, folder: Path, resumed: bool, hosting: Hosting | None, identity: str | None = None
) -> Tracker:
    """Open the journal of a run; with `hosting` a study's writer carries it. `identity` as for `Tracker.start`."""
    tags = hosting.tags if hosting else {}
    recorded = (RUN, (folder / RUN).read_text(encoding="utf-8"))
    return start_tracker(config, folder, resumed, recorded, tags, hosted=hosting is not None, identity=identity)


def start_tracker(
    config: RunConfig,
    folder: Path,
    resumed: bool,
    recorded: tuple[str, str],
    tags: Mapping[str, str],
    *,
    hosts: bool = False,
    hosted: bool = False,
    identity: str | None = None,
) -> Tracker:
    """Open the journal of a run or, with `hosts`, of a study, with everything that tells how it came about.

    `recorded` is the config as an artifact: its name and text.
    """
    family = config.algorithm_path.split(".")[0]
    # A study has recorded its sources once, for all trials.
    state = None if hosted else git_state(Path.cwd())
    about = {"rayloom.folder": str(folder), "rayloom.algorithm": config.algorithm_path, "rayloom.family": family}
    about |= job_tag(folder) | ray_job_tag()
    about |= {_SOURCE: _source(config), DESCRIPTION: described(config, folder)}
    settings = {key: str(value) for key, value in flatten(config.to_tree()).items()}
    shaping = learnt_from(config)
    params = {key: value for key, value in settings.items() if key in shaping or key.split(".")[0] in _COMPARED}
    changed = flatten(config.changed_tree())
    about |= {_PLACE + key: value for key, value in settings.items() if key in changed and key not in params}
    taken = recorded_inputs(folder)
    about |= {f"rayloom.input.{name}": each["run_id"] for name, each in taken.items()}
    tracker = Tracker.start(
        folder,
        uri=config.tracking.uri or "",
        experiment=config.tracking.experiment or family,
        # Runs of one config have different names, those of a study are told apart by their number.
        run_name=config.name if hosted else folder.name,
        params={**params, **(flatten({"taken": taken}) if taken else {})},
        tags={**about, **tags, **(state.tags() if state else {})},
        resume=resumed,
        enabled=config.tracking.enabled,
        system_metrics=config.tracking.system_metrics,
        hosts=hosts,
        hosted=hosted,
        pictures=config.tracking.pictures,
        identity=identity,
    )
    if not resumed:
        tracker.log_text(*recorded)
        if state and state.diff:
            tracker.log_text("diff.patch", state.diff)
    return tracker


def record_failed_start(config: RunConfig, folder: Path, hosting: Hosting) -> None:
    """Record a trial whose roles could not be built; called while that exception is handled."""
    tracker = start_run_tracker(config, folder, False, hosting)
    tracker.log_text("traceback.txt", traceback.format_exc())
    tracker.set_tags({"rayloom.trial_state": "FAILED"})
    tracker.finish("FAILED")
    write_result(folder, {"status": "FAILED", "stopped_by": "an exception"})
