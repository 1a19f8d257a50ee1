"""Held-out evaluation of one algorithm object, whatever the run's evaluation is.

An evaluation never changes the run: it draws from generators of its own, seeded by the seed tree and its number.
"""

from __future__ import annotations

from dataclasses import replace

from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationContext, Findings
from rayloom.datasets.dataset import Dataset
from rayloom.errors import UserError
from rayloom.runs.isolation import isolated
from rayloom.seeding import derive_seed


class Evaluator:
    """Evaluates one algorithm object, which it shares with its owner. Used by one thread, but for `units`."""

    def __init__(self, config: RunConfig, algorithm: Algorithm, dataset: Dataset | None) -> None:
        self._seed = config.seed
        self._algorithm = algorithm
        self._deadline_s = config.evaluate.settings.deadline_s
        context = EvaluationContext(source=config.source, data=dataset)
        self._evaluation: Evaluation = config.evaluate.make(context)
        self._budget = Budget(self._deadline_s)

    @property
    def units(self) -> int:
        """Units of work that the newest evaluation has done."""
        return self._budget.units

    def evaluate(self, number: int, count: int | None = None) -> Findings:
        """Evaluate; `number` addresses the seeds, so that equal numbers meet equal episodes.

        `count` asks for so many episodes or games, whatever the settings say.
        """
        with isolated(self._algorithm, self._seed, number):
            self._budget = Budget(self._deadline_s, count)
            self._algorithm.after_publish()
            seed = derive_seed(self._seed, "evaluate", number, "environment")
            found = self._evaluation.run(self._algorithm, seed, self._budget)
        if not isinstance(found, Findings):
            name = type(self._evaluation).__name__
            raise UserError(f"{name}.run returns a {type(found).__name__}; return Findings(metrics)")
        return replace(found, metrics={f"evaluate/{name}": float(value) for name, value in found.metrics.items()})

    def close(self) -> None:
        """Release what the evaluation holds: environments, engines."""
        self._evaluation.close()
