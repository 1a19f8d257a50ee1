"""The commands that look at runs that are there: `rayloom runs`, `compare` and `rm`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayloom.cli.run_display import format_value, main_metric
from rayloom.cli.terminal import human_stream, print_json
from rayloom.config.names import output_folder
from rayloom.errors import UserError
from rayloom.runs.catalogue import (
    PastRun,
    SeedGroup,
    differing,
    find_any,
    past_runs,
    read_past_run,
    remove,
    seed_groups,
)
from rayloom.runs.jobs import seed_folders

_WIDEST = 34
"""Columns of a cell; a longer one loses its middle."""


def list_runs(options: argparse.Namespace) -> int:
    """List the runs and studies of the output folder, the newest last."""
    found, unreadable = past_runs(output_folder(options.output))
    if options.status is not None:
        found = [run for run in found if run.status == options.status.upper()]
    human = human_stream(options)
    print(_columns([["run", "status", "seed", "result"], *map(_row, found)]) if found else "no runs", file=human)
    for line in unreadable:
        print(f"not readable: {_shown(line)}", file=human)
    if options.json:
        print_json({"status": "FINISHED", "runs": [_facts(run) for run in found], "unreadable": unreadable})
    return 0


def compare_runs(options: argparse.Namespace) -> int:
    """Show in what runs differ, and what they reached, side by side; and together those that differ in their seed."""
    output = output_folder(options.output)
    folders = [folder for name in options.names for folder in seed_folders(output, name) or [find_any(output, name)]]
    if len(folders) < 2:
        raise UserError("compare needs at least two runs, as rayloom compare RUN RUN")
    runs = [read_past_run(folder) for folder in folders]
    groups = seed_groups(runs, options.across)
    if options.figure is not None and not groups:
        raise UserError("--figure: no two of these runs finished and differ in their seed alone; train with --seeds")
    settings = differing(runs)
    metrics = [name for name in sorted({n for run in runs for n in run.metrics}) if name.startswith(("evaluate", "tr"))]
    letters = [chr(ord("A") + n) if n < 26 else str(n) for n in range(len(runs))]
    rows = [["", *letters], ["status", *(run.status for run in runs)]]
    rows += [[key, *(_plain(value) for value in values)] for key, values in settings.items()]
    for name in metrics:
        rows.append([name, *(format_value(run.metrics[name]) if name in run.metrics else "" for run in runs)])
    human = human_stream(options)
    print("\n".join(f"{letter}  {_shown(run.name)}" for letter, run in zip(letters, runs, strict=True)), file=human)
    print(f"\n{_columns(rows)}", file=human)
    summaries = _tell_groups(groups, dict(zip(folders, letters, strict=True)), options) if groups else []
    if options.json:
        facts = [_facts(run) for run in runs]
        print_json({"status": "FINISHED", "runs": facts, "differing": settings, "groups": summaries})
    return 0


def _tell_groups(
    groups: Sequence[SeedGroup], letters: Mapping[Path, str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Print what the seeds of each group reached together, and draw it where that is asked for."""
    from rayloom.cli.seed_comparison import draw, table, tree  # NumPy, which other comparisons do without

    named = {" ".join(letters[run.folder] for run in group.runs): group for group in groups}
    print(f"\n{table(named)}", file=human_stream(options))
    if options.figure is not None:
        draw(named, options.figure)
        print(f"\n{options.figure}", file=human_stream(options))
    return [tree(group) for group in groups]


def remove_runs(options: argparse.Namespace) -> int:
    """Delete the folders of runs or studies; MLflow keeps what it has of them."""
    output = output_folder(options.output)
    folders = [find_any(output, name) for name in options.names]
    for folder in folders:
        remove(folder)
        print(f"removed {_shown(str(folder))}", file=human_stream(options))
    if options.json:
        print_json({"status": "FINISHED", "removed": [str(folder) for folder in folders]})
    return 0


def _facts(run: PastRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "kind": run.kind,
        "status": run.status,
        "stopped_by": run.stopped_by,
        "run_id": run.mlflow_run,
        "run_dir": str(run.folder),
        "algorithm": run.config.get("algorithm.import"),
        "seed": run.config.get("seed"),
        "metrics": dict(run.metrics),
        "counters": dict(run.counters),
    }


def _row(run: PastRun) -> list[str]:
    name = main_metric(run.metrics)
    reached = f"{name} {format_value(run.metrics[name])}" if name else run.stopped_by
    return [run.name, run.status, str(run.config.get("seed", "")), "a study" if run.kind == "study" else reached]


def _plain(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    half = (_WIDEST - 3) // 2
    return text if len(text) <= _WIDEST else f"{text[:half]}...{text[-half:]}"


def _shown(text: str) -> str:
    """Return a text of files that others may have written without signs that steer a terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    rows = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
