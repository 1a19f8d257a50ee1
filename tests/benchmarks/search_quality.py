"""What samplers find in a real space: DQN on CartPole with few steps, against random search, over several seeds.

    python tests/benchmarks/search_quality.py [SEEDS] [TRIALS] [FIRST_SEED]

Prints, for each sampler, the best return found after all trials: its median and quartiles over the seeds. Every study
trains its trials from its own seed; nothing is asserted here.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from typing import Any

import rayloom
from rayloom.search.observer import StudyObserver, TrialView

SAMPLERS = ("random", "tpe", "gp")
SPACE: dict[str, Any] = {
    "learner.optimizer.learning_rate": {"log": [1e-5, 1e-1]},
    "algorithm.gamma": {"log": [1e-3, 0.3], "transform": "one_minus"},
    "algorithm.target_period": {"int": [1, 1000], "log": True},
    "source.steps_per_update": {"int": [1, 8]},
    "learner.max_grad_norm": {"log": [0.01, 100.0]},
}


class _Curve(StudyObserver):
    """Keeps the value of each trial in the order of their ends."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def trial(self, view: TrialView) -> None:
        if view.state == "COMPLETE" and view.values:
            self.values.append(view.values[0])


def found(sampler: str, seed: int, trials: int) -> list[float]:
    """Return the trials' values of one study."""
    curve = _Curve()
    with tempfile.TemporaryDirectory() as folder:
        search = {"sampler": sampler, "trials": trials, "metric": "evaluate/return_mean", "space": SPACE}
        tree = {
            "name": "quality",
            "seed": seed,
            "algorithm": {"import": "rayloom_agents.value_based.dqn:DQN", "hidden_sizes": [64]},
            "source": {"kind": "replay", "env": "CartPole-v1", "num_envs": 8, "learning_starts": 256},
            "learner": {"batch_size": 64},
            "evaluate": {"episodes": 20},
            "stop": {"env_steps": 5_000},
            "tracking": {"enabled": False},
            "output": folder,
            "search": search,
        }
        rayloom.run_study(tree, local=True, observer=curve)
    return curve.values


def main() -> None:
    """Compare the samplers."""
    seeds, trials, first = (int(text) for text in (*sys.argv[1:], *("10", "30", "0")[len(sys.argv) - 1 :]))
    for sampler in SAMPLERS:
        best = [max(found(sampler, seed, trials), default=float("nan")) for seed in range(first, first + seeds)]
        quartiles = statistics.quantiles(best, n=4) if len(best) > 1 else best * 3
        print(
            f"{sampler}: median {quartiles[1]:.1f} ({quartiles[0]:.1f}-{quartiles[2]:.1f})  {sorted(best)}", flush=True
        )


if __name__ == "__main__":
    main()
