"""Golden runs: the first updates of a small run of every chapter, and what their curves were when last recorded."""

from __future__ import annotations

import json
from pathlib import Path

from cases import case
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import make_schedule

FOLDER = Path(__file__).resolve().parent.parent / "local" / "golden"
NAMES = (
    "ppo", "ppo_continuous", "impala", "dqn", "dqn_prioritized_n_step",
    "softmax_regression", "lenet5", "rnn", "vae", "wgan_gp",
)  # fmt: skip
"""At least one small run of every family and chapter."""
FIRST = (1, 2, 3, 5, 8)
"""Updates whose metrics must be the recorded ones but for rounding."""
LATER = (16, 24)
"""Updates at which the curve must be roughly where it was: rounding has had time to grow."""
_OF_THE_CLOCK = ("throughput/", "time/")

Curve = dict[str, dict[str, float]]
"""{metric: {update: value}}."""


def run_curve(name: str) -> Curve:
    """Train the case for some updates and return its training metrics at the points."""
    config = case(name)
    role = LearnerRole(config)
    schedule = make_schedule(config, role.updates_per_epoch())
    curve: Curve = {}
    try:
        for update in range(1, LATER[-1] + 1):
            role.advance(schedule, most_updates=1)
            metrics = role.metrics()
            if update in FIRST + LATER:
                for key, value in metrics.items():
                    if not key.startswith(_OF_THE_CLOCK):
                        curve.setdefault(key, {})[str(update)] = value
    finally:
        role.close()
    return curve


def recorded(name: str) -> Curve:
    """Return the recorded curve of a case."""
    curve: Curve = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return curve


def record(name: str) -> Path:
    """Write the curve of a case as it is now."""
    path = FOLDER / f"{name}.json"
    rounded = {
        key: {at: float(f"{value:.9g}") for at, value in points.items()} for key, points in run_curve(name).items()
    }
    path.write_text(json.dumps(rounded, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path
