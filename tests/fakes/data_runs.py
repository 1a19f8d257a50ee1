"""Small runs of any algorithm on points in the plane."""

from __future__ import annotations

from typing import Any

from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig


def points_run(algorithm: str, output: str, **sections: Any) -> RunConfig:
    """Return the config of four passes over the points of a grid of 25 modes, with sections overridden."""
    tree: dict[str, Any] = {
        "name": "points",
        "output": output,
        "algorithm": {"import": algorithm},
        "source": {"kind": "dataset", "dataset": "gaussian-grid"},
        "learner": {"batch_size": 128},
        "stop": {"epochs": 4},
        "tracking": {"enabled": False, "system_metrics": False},
    }
    return from_tree({**tree, **sections})
