"""Runs of sources that are named by their import paths, for every tier of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig


def _run(name: str, algorithm: str, source: dict[str, Any], output: Path | str, **sections: Any) -> RunConfig:
    return from_tree(
        {
            "name": name,
            "algorithm": {"import": algorithm},
            "source": source,
            "output": str(output),
            "tracking": {"enabled": False, "system_metrics": False},
            **sections,
        }
    )


def line(output: Path | str = "rayloom-runs", learners: int = 1, **source: Any) -> RunConfig:
    """Return a run that fits a line to batches that its source makes up."""
    learner = {"batch_size": 32, "count": learners, "optimizer": {"learning_rate": 0.03}}
    source = {"import": "own_sources:NoisyLine", **source}
    return _run("line", "own_sources:Line", source, output, learner=learner, stop={"samples": 6400})


def games(output: Path | str = "rayloom-runs", learners: int = 1, updates: int = 40, **source: Any) -> RunConfig:
    """Return a run that learns Tic-tac-toe from games against itself."""
    learner = {"batch_size": 64, "count": learners, "optimizer": {"learning_rate": 0.01}}
    source = {"import": "own_sources:SelfPlay", "num_envs": 32, **source}
    return _run("games", "own_sources:Outcomes", source, output, learner=learner, stop={"updates": updates})
