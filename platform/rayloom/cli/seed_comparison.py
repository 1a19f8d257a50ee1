"""What runs that differ in their seed reached together: a table, a figure and plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.cli.run_display import format_table, format_value
from rayloom.errors import UserError
from rayloom.runs.catalogue import SeedGroup
from rayloom.runs.seed_statistics import ConfidenceInterval, interquartile_interval

_MOST_PANELS = 6


def intervals(group: SeedGroup) -> dict[str, ConfidenceInterval]:
    """Return the interquartile mean of each metric over the runs that have it."""
    strata = {name: group.strata(name) for name in group.metrics()}
    return {name: interquartile_interval(scores) for name, scores in strata.items() if scores}


def table(groups: Mapping[str, SeedGroup]) -> str:
    """Return the interquartile mean, the 95 % interval and the runs of each metric, one block for each group."""
    blocks = []
    for name, group in groups.items():
        rows = {metric: _shown(found) for metric, found in intervals(group).items()}
        head = f"{name}: {len(group.runs)} runs, interquartile mean [95 % stratified bootstrap interval]"
        blocks.append(f"{head}\n{format_table(rows)}")
    return "\n\n".join(blocks)


def _shown(found: ConfidenceInterval) -> str:
    text = f"{format_value(found.mean)}  [{format_value(found.low)}, {format_value(found.high)}]"
    return f"{text}  {found.runs} run{'s' if found.runs > 1 else ''}"


def tree(group: SeedGroup) -> dict[str, Any]:
    """Return the same as plain data."""
    return {
        "runs": [run.name for run in group.runs],
        "metrics": {
            name: {"interquartile_mean": found.mean, "low": found.low, "high": found.high, "runs": found.runs}
            for name, found in intervals(group).items()
        },
    }


def draw(groups: Mapping[str, SeedGroup], destination: Path) -> None:
    """Draw each evaluated metric's means and intervals, a panel for each metric and a line for each group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    found = {name: intervals(group) for name, group in groups.items()}
    every = list(dict.fromkeys(metric for each in found.values() for metric in each))
    metrics = ([name for name in every if name.startswith("evaluate/")] or every)[:_MOST_PANELS]
    figure = Figure(figsize=(4.0 * len(metrics), 1.2 + 0.5 * len(groups)), layout="constrained")
    for metric, axes in zip(metrics, figure.subplots(1, len(metrics), squeeze=False)[0], strict=True):
        for place, name in enumerate(groups):
            if metric in found[name]:
                mean, low, high, _ = found[name][metric]
                axes.plot([low, high], [place, place], color="C0", linewidth=6, alpha=0.4)
                axes.plot([mean], [place], "|", color="C0", markersize=16, markeredgewidth=2)
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(metric)
        axes.set_title("interquartile mean, 95 %", fontsize=9)
    try:
        figure.savefig(destination)
    except (OSError, ValueError) as error:
        raise UserError(f"--figure: {destination} cannot be written ({error}); choose another file") from None
