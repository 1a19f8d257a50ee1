"""How long a study of ten thousand trials takes to propose the next one: `many_trials.py SAMPLER ours|optuna`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from rayloom.config.search import SearchConfig
from rayloom.search.ledger import Ledger, open_storage
from rayloom.search.space import Space

TRIALS, ASKS = 10_000, 5
NAMES = [f"p{index}" for index in range(5)]


def fill(storage: optuna.storages.BaseStorage) -> None:
    """Add ten thousand finished random trials."""
    study = optuna.create_study(storage=storage, study_name="many")
    random = np.random.default_rng(0)
    distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in NAMES}
    for _ in range(TRIALS):
        point = {name: float(random.random()) for name in NAMES}
        study.add_trial(
            optuna.create_trial(
                params=point,
                distributions=distributions,
                value=sum((x - 0.3) ** 2 for x in point.values()),
                user_attrs={"asked_after": 0, "ended_as": 0},
            )
        )


def main(sampler: str, side: str) -> float:
    """Return the median seconds of one proposal."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "optuna.journal")
        fill(JournalStorage(JournalFileBackend(path)))
        if side == "ours":
            tree = {name: {"float": [0.0, 1.0]} for name in NAMES}
            settings = SearchConfig(space=tree, sampler=sampler, trials=TRIALS + ASKS)  # type: ignore[arg-type]
            ledger = Ledger(
                settings, Space.parse(tree), 0, name="many", storage=open_storage(None, Path(folder)),
                directions=["minimize"], evaluations=1,
            )  # fmt: skip
            return statistics.median(_timed(ledger.ask) for _ in range(ASKS))
        classes = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
        storage = JournalStorage(JournalFileBackend(path))
        study = optuna.load_study(study_name="many", storage=storage, sampler=classes[sampler](seed=0))

        def ask() -> None:
            trial = study.ask()
            for name in NAMES:
                trial.suggest_float(name, 0.0, 1.0)

        return statistics.median(_timed(ask) for _ in range(ASKS))


def _timed(function: object) -> float:
    start = time.perf_counter()
    function()  # type: ignore[operator]
    return time.perf_counter() - start


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2]))
