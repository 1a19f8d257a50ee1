"""When something is due: intervals over counters, and the budget. No clock is involved.

Everything here depends on counters only, so an interrupted and an uninterrupted run do the same things at
the same points.
"""

from __future__ import annotations

from collections.abc import Mapping

from rayloom.config.schema import Interval

Counters = dict[str, int]


class Schedule:
    """Named intervals and a stopping budget."""

    def __init__(
        self,
        intervals: Mapping[str, Interval | None],
        budget: Mapping[str, int],
        samples_per_epoch: int | None = None,
    ) -> None:
        """`samples_per_epoch`, where it is known, lets `fraction` grow within an epoch."""
        self._intervals = [(name, i.unit, i.count) for name, i in intervals.items() if i is not None]
        self._budget = list(budget.items())
        self._samples_per_epoch = samples_per_epoch

    def due(self, before: Counters, after: Counters) -> set[str]:
        """Return the names whose interval has a multiple in (before, after]."""
        return {
            name for name, unit, count in self._intervals if after.get(unit, 0) // count > before.get(unit, 0) // count
        }

    def fraction(self, counters: Counters) -> float:
        """Return the share of the budget that is spent, 0 to 1."""
        return min(1.0, max((self._spent(unit, counters) / limit for unit, limit in self._budget), default=0.0))

    def _spent(self, unit: str, counters: Counters) -> float:
        count = counters.get(unit, 0)
        if unit != "epochs" or not self._samples_per_epoch:
            return count
        return min(count + 1.0, max(float(count), counters["samples"] / self._samples_per_epoch))

    def exhausted(self, counters: Counters) -> str | None:
        """Return the budget that is spent, as "env_steps >= 100000", or None."""
        for unit, limit in self._budget:
            if counters.get(unit, 0) >= limit:
                return f"{unit} >= {limit}"
        return None


def share_of_budget(budget: Mapping[str, int], parts: int, updates_per_epoch: int | None) -> Interval:
    """Return the interval that fits `parts` times into the budget; epochs are cut finer where their length is known."""
    unit, limit = next(iter(budget.items()))
    if unit == "epochs" and updates_per_epoch:
        unit, limit = "updates", limit * updates_per_epoch
    return Interval(max(1, int(limit) // parts), unit)
