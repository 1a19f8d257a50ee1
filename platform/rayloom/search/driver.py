"""The study's driver: fills slots with trials, decides on their evaluations, and records what came of them.

    ledger --ask--> orders --> pool of slots --events--> decide, tell --> ledger, tracker, observer

One driver owns a study: nobody else writes to its ledger, and nothing else decides which trial goes on.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from rayloom.config.import_path import suggest
from rayloom.config.load import from_tree
from rayloom.config.names import derived_name
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.folders import RESULT, write_result
from rayloom.search.drawing import Drawing
from rayloom.search.ledger import EndState, Ledger, TrialEntry
from rayloom.search.observer import StudyObserver, TrialView, short_names
from rayloom.search.study_plan import Study
from rayloom.search.trials import Event, Order, TrialPool
from rayloom.tracking.journal import JOURNAL
from rayloom.tracking.tracker import Tracker, record_end

_WAIT_S = 0.5
_MOST_DEATHS = 2
BEST = "best.yaml"


class TooManyFailuresError(RuntimeError):
    """More trials failed than `search.max_failures` allows."""


class Driver:
    """Runs a study from where its ledger stands to its last trial."""

    def __init__(
        self, study: Study, ledger: Ledger, pool: TrialPool, tracker: Tracker, observer: StudyObserver
    ) -> None:
        self._study = study
        self._ledger = ledger
        self._pool = pool
        self._tracker = tracker
        self._observer = observer
        self._waiting = deque(ledger.running)
        self._idle = list(range(pool.slots))
        self._busy: dict[int, list[int]] = {}
        self._told: dict[int, dict[int, bool]] = {}
        self._deaths: Counter[int] = Counter()
        self._began: dict[int, float] = {}
        self._fractions: dict[int, float] = {}
        self._announced = False
        self._best: int | None = None
        self._last_failure: Event | None = None
        self._drawing = Drawing(study, tracker) if study.config.tracking.enabled else None

    def run(self) -> None:
        """Return when every trial has ended. The caller closes the pool and the tracker, whatever happens."""
        self._take_up()
        for slot in list(self._idle):
            self._begin(slot, {})
        while self._busy:
            for slot, answer in self._pool.wait(_WAIT_S):
                self._take(slot, answer)
            self._announce()
            if self._drawing is not None:
                self._drawing.update(sum(entry.state is not None for entry in self._ledger.entries))
        self._check_failures(at_end=True)
        if self._drawing is not None:
            self._drawing.finish()

    def interrupted(self) -> None:
        """Record that trials were interrupted, where their own processes no longer can."""
        for entry in self._ledger.entries:
            if entry.state is None:
                self._record_end(entry.number, "KILLED", "interrupted")
        self._record_pruned(self.decisions())

    def decisions(self) -> dict[int, bool]:
        """Return the pruned trials, of which some may not know it yet."""
        return {entry.number: True for entry in self._ledger.entries if entry.state == "PRUNED"}

    def _take_up(self) -> None:
        """Catch up with a ledger that knows more than the tracker and the trials: its driver died in between."""
        entries = [entry for entry in self._ledger.entries if entry.state is not None]
        for entry in entries:
            self._show(entry, earlier=True)
        if entries:
            self._record_pruned(self.decisions())
            self._log_standing()
        failed, limit = self._ledger.counts()["FAILED"], self._study.settings.max_failures
        if failed > limit:
            raise UserError(f"search.max_failures: {failed} trials have failed already; allow more than {limit}")

    def _record_pruned(self, numbers: Iterable[int]) -> None:
        """Record the end of pruned trials whose process died before it knew, or could say so."""
        for number in numbers:
            self._record_end(number, "KILLED", f"pruned at evaluation {max(self._ledger.entries[number].reports)}")

    # --- beginning trials -----------------------------------------------------------------------------------------

    def _begin(self, slot: int, decisions: dict[int, bool]) -> None:
        """Give an idle slot its next trials; it also learns which of its own were pruned."""
        entries = self._next_entries()
        if not entries and not decisions:
            return
        self._idle = [other for other in self._idle if other != slot]
        self._busy[slot] = [entry.number for entry in entries]
        self._submit(slot, [self._order(entry) for entry in entries], decisions)
        for entry in entries:
            self._began[entry.number] = time.monotonic()
            self._fractions.setdefault(entry.number, 0.0)
            self._show(entry)

    def _submit(self, slot: int, orders: list[Order], decisions: dict[int, bool]) -> None:
        self._told[slot] = decisions
        self._pool.submit(slot, orders, decisions)

    def _next_entries(self) -> list[TrialEntry]:
        """Return interrupted trials, or else new ones, as many as train together.

        Never both: new trials beside old ones would be asked for earlier than without the interruption.
        """
        most = self._study.settings.population
        if self._waiting:
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        left = self._study.total - len(self._ledger.entries)
        return [self._ledger.ask() for _ in range(min(most, left))]

    def _order(self, entry: TrialEntry) -> Order:
        study = self._study
        tree = study.trial_tree(entry, derived_name(study.config.name, f"-{entry.number:04d}"))
        tags = {"rayloom.trial": str(entry.number), "rayloom.study": study.folder.name}
        return Order(entry.number, tree, str(study.trial_folder(entry.number)), tags, study.local)

    # --- what slots answer ----------------------------------------------------------------------------------------

    def _take(self, slot: int, answer: list[Event] | str) -> None:
        if isinstance(answer, str):
            self._bury(slot, answer)
            return
        decisions: dict[int, bool] = {}
        for event in answer:
            if event.kind == "failed":
                self._fail(event)
            elif event.kind == "finished":
                self._complete(event)
            else:
                decisions[event.number] = self._decide(event)
        running = [n for n in self._busy[slot] if self._ledger.entries[n].state is None]
        if running:
            self._busy[slot] = running
            self._submit(slot, [], decisions)
            return
        del self._busy[slot]
        self._idle.append(slot)
        self._begin(slot, decisions)

    def _bury(self, slot: int, reason: str) -> None:
        """A slot's process has died: its trials continue from their checkpoints, unless they keep killing it."""
        numbers = self._busy.pop(slot)
        self._idle.append(slot)
        for number in reversed(numbers):
            entry = self._ledger.entries[number]
            if entry.state is not None:
                continue
            self._deaths[number] += 1
            if self._deaths[number] <= _MOST_DEATHS:
                self._observer.note(f"trial {number}: {reason}; it continues from its last checkpoint")
                self._waiting.appendleft(entry)
                continue
            lasting = f"its process died {self._deaths[number]} times: {reason}"
            self._record_end(number, "FAILED", "an exception", lasting)
            self._fail(Event(number, "failed", failure=lasting, error=lasting))
        self._record_pruned(number for number, prune in self._told[slot].items() if prune)
        self._begin(slot, {})

    def _decide(self, event: Event) -> bool:
        values = self._values(event)
        prune = self._ledger.report(event.number, event.evaluation, values)
        self._fractions[event.number] = event.fraction
        if prune:
            self._close(event.number, "PRUNED", note=f"at evaluation {event.evaluation}")
        else:
            self._show(self._ledger.entries[event.number])
        return prune

    def _complete(self, event: Event) -> None:
        values = self._values(event)
        self._ledger.report(event.number, event.evaluation, values)
        self._fractions[event.number] = event.fraction
        entry = self._ledger.entries[event.number]
        counted = self._counted(entry)
        if any(value != value for value in counted):
            reason = f"{', '.join(self._study.metrics)} is not a number at the end"
            self._fail(Event(event.number, "failed", failure=reason, error=reason))
            return
        self._close(event.number, "COMPLETE", counted, note=event.stopped_by)

    def _counted(self, entry: TrialEntry) -> tuple[float, ...]:
        """Return the values that count for a finished trial: its last ones, or its best one."""
        if self._study.settings.value == "last":
            return entry.reports[max(entry.reports)][0]
        choose = max if self._study.directions[0] == "maximize" else min
        numbers = [values[0] for values, _ in entry.reports.values() if values[0] == values[0]]
        return (choose(numbers, default=float("nan")),)

    def _fail(self, event: Event) -> None:
        self._close(event.number, "FAILED", failure=event.failure, note=event.error)
        self._last_failure = event
        self._check_failures()

    def _check_failures(self, at_end: bool = False) -> None:
        """End the study when too many trials have failed, or all of them."""
        counts = self._ledger.counts()
        failed, limit = counts["FAILED"], self._study.settings.max_failures
        hopeless = at_end and failed and not counts["COMPLETE"] + counts["PRUNED"]
        if failed <= limit and not hopeless:
            return
        last = self._last_failure
        many = f"{failed} of {len(self._ledger.entries)} trials failed"
        if last is not None and last.users:
            raise UserError(f"{many} (search.max_failures is {limit}), the last one with: {last.error}")
        details = last.failure if last is not None else "see the trials' traceback.txt"
        raise TooManyFailuresError(f"{many} (search.max_failures is {limit}); the last one:\n{details}")

    def _values(self, event: Event) -> tuple[float, ...]:
        metrics = event.metrics or {}
        for name in self._study.metrics:
            if name not in metrics:
                raise UserError(f"search.metric: a trial has no metric {name!r}{suggest(name, sorted(metrics))}")
        return tuple(float(metrics[name]) for name in self._study.metrics)

    # --- records ----------------------------------------------------------------------------------------------------

    def _close(
        self,
        number: int,
        state: EndState,
        values: Sequence[float] | None = None,
        failure: str | None = None,
        note: str = "",
    ) -> None:
        """Tell the ledger how a trial ended, then everybody who watches."""
        entry = self._ledger.end(number, state, values, failure)
        points: dict[str, float] = {}
        if entry.values is not None and state != "FAILED":
            names = short_names(self._study.metrics)
            points = {f"search/{names[name]}": v for name, v in zip(self._study.metrics, entry.values, strict=True)}
        self._log_standing(points)
        self._show(entry, note)

    def _log_standing(self, points: Mapping[str, float] | None = None) -> None:
        """Log `points`, the counts and the best trial at the number of trials that have ended."""
        counts = self._ledger.counts()
        ended = sum(counts.values()) - counts["RUNNING"]
        points = {
            **(points or {}),
            **{f"search/{n.lower()}": float(counts[n]) for n in ("COMPLETE", "PRUNED", "FAILED")},
        }
        best = self._ledger.best()
        if best is not None and best.values is not None and len(self._study.metrics) == 1:
            points["search/best"] = best.values[0]
        self._tracker.log_metrics(points, ended)
        if best is not None and best.number != self._best:
            self._best = best.number
            self._tracker.log_text(BEST, best_config(self._study, best).to_yaml())

    def _record_end(self, number: int, status: str, reason: str, failure: str | None = None) -> None:
        """Write the end of a trial whose process is gone into the trial's own journal."""
        folder = self._study.trial_folder(number)
        if (folder / RESULT).exists() or not (folder / JOURNAL).exists():
            return
        state = self._ledger.entries[number].state or ("FAILED" if status == "FAILED" else None)
        tags = {"rayloom.trial_state": state, "rayloom.stopped_by": reason} if state else {}
        record_end(folder, status, tags, ("traceback.txt", failure) if failure else None)
        write_result(folder, {"status": status, "stopped_by": reason})

    def _show(self, entry: TrialEntry, note: str = "", earlier: bool = False) -> None:
        last = entry.reports[max(entry.reports)][0] if entry.reports else None
        began = self._began.get(entry.number)
        if not note and entry.failure:
            note = entry.failure.strip().splitlines()[-1]
        view = TrialView(
            number=entry.number,
            state=entry.state or "RUNNING",
            values=entry.values if entry.state else last,
            parameters=dict(entry.assignment.values),
            fraction=1.0 if entry.state == "COMPLETE" else self._fractions.get(entry.number, 0.0),
            elapsed_s=time.monotonic() - began if began is not None else 0.0,
            note=note,
            earlier=earlier,
        )
        self._observer.trial(view)

    def _announce(self) -> None:
        """Tell the study's id: MLflow's as soon as it is known, the folder's name when there is none to be had."""
        if self._announced:
            return
        known = self._tracker.run_id
        if known is None and (not self._study.config.tracking.enabled or self._tracker.problem):
            known = self._study.folder.name
        if known:
            self._announced = True
            self._observer.study_id(known)

    @property
    def announced(self) -> bool:
        """Whether the observer knows the study's id."""
        return self._announced


def best_config(study: Study, best: TrialEntry) -> RunConfig:
    """Return the best trial's config as a run of its own, with the tracking of the study's config file."""
    return from_tree(study.trial_tree(best, derived_name(study.config.name, "-best")))
