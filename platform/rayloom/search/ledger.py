"""The facts of a study: an Optuna study in memory that suggests and prunes, and a storage that survives.

    memory:   ask, should it be pruned, tell          (Optuna's samplers and pruners look at this)
    storage:  trial begun, evaluation judged, trial ended      (one write for each fact)

Nothing that a sampler or pruner computes is half written: a fact reaches the storage in one write or not at all, so a
driver that is killed between two of them continues from the last one as if it had not been killed. The storage is a
journal file or any database that Optuna opens, for Optuna's own tools to read.
"""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from rayloom.config.search import SearchConfig
from rayloom.database_urls import sqlite_path
from rayloom.errors import UserError
from rayloom.redaction import redacted
from rayloom.search.domains import Categorical, Leaf
from rayloom.search.samplers import STATEFUL, make_pruner, make_sampler
from rayloom.search.space import Assignment, Space
from rayloom.signals import undisturbed
from rayloom.tracking.journal import NOT_FOR_ALL

EndState = Literal["COMPLETE", "PRUNED", "FAILED"]
_REPORT = "report:"
_ASKED_AFTER = "asked_after"
_ENDED_AS = "ended_as"
_FAILURE = "failure"
_LONGEST_FAILURE = 2000
_DATABASE_WAIT_S = 20
_STATES: dict[EndState, TrialState] = {
    "COMPLETE": TrialState.COMPLETE,
    "PRUNED": TrialState.PRUNED,
    "FAILED": TrialState.FAIL,
}
_NAMES = {state: name for name, state in _STATES.items()}


@dataclass
class TrialEntry:
    """One trial of the study."""

    number: int
    assignment: Assignment
    reports: dict[int, tuple[tuple[float, ...], bool]] = field(default_factory=dict)
    """Evaluation number to (values, whether the trial was to be pruned)."""
    state: EndState | None = None
    """None while the trial runs."""
    values: tuple[float, ...] | None = None
    """The values that count; of a pruned trial the last ones."""
    failure: str | None = None


def _suggest(trial: optuna.Trial, leaf: Leaf) -> Any:
    if isinstance(leaf, Categorical):
        return trial.suggest_categorical(leaf.name, leaf.choices)
    if leaf.kind == "int":
        return trial.suggest_int(leaf.name, int(leaf.low), int(leaf.high), step=int(leaf.step or 1), log=leaf.log)
    return trial.suggest_float(leaf.name, leaf.low, leaf.high, step=leaf.step, log=leaf.log)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Return the database of `url`, or the journal file in the study's folder."""
    if url is None:
        return JournalStorage(_journal(folder / "optuna.journal"))
    try:
        _make_unreadable_for_others(sqlite_path(url))
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": _connecting(url)})
    except ImportError as error:
        raise UserError(
            f"search.storage: the database's driver is not installed ({error.__cause__ or error}); install it, for "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME by pip install 'rayloom[postgresql]'"
        ) from error
    except Exception as error:
        # sqlalchemy, its drivers and importlib raise classes of their own for an address that cannot be used.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = redacted(lines[0] if lines else type(error).__name__, url)
        raise UserError(
            f"search.storage: the database cannot be opened ({reason}); check its address, as "
            "sqlite:////FOLDER/study.db or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        ) from error


def _journal(path: Path) -> JournalFileBackend:
    """Return a journal without what a driver that was killed while it wrote has left: its lock, and half a line."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)
    _make_unreadable_for_others(path)
    return JournalFileBackend(str(path))


def _connecting(url: str) -> dict[str, Any]:
    """Return arguments of a database driver that bound its waits."""
    dialect, _, driver = url.partition(":")[0].partition("+")
    if dialect == "sqlite":
        return {"timeout": _DATABASE_WAIT_S}
    if dialect == "postgresql" and driver in ("", "psycopg", "psycopg2"):
        probes = {"keepalives_idle": _DATABASE_WAIT_S, "keepalives_interval": 5, "keepalives_count": 3}
        return {"connect_timeout": _DATABASE_WAIT_S, "tcp_user_timeout": 1000 * _DATABASE_WAIT_S, **probes}
    return {"connect_timeout": _DATABASE_WAIT_S} if dialect in ("mysql", "mariadb") else {}


def _make_unreadable_for_others(path: Path | None) -> None:
    """Make the file of a store that is new, so that whoever opens it does not choose who may read it."""
    if path is not None and path.parent.is_dir() and not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, NOT_FOR_ALL))


class Ledger:
    """The study's driver's own. One driver at a time; `open` restores what a dead one left."""

    def __init__(
        self,
        settings: SearchConfig,
        space: Space,
        seed: int,
        *,
        name: str,
        storage: BaseStorage,
        directions: Sequence[str],
        evaluations: int,
    ) -> None:
        """`evaluations`: how many a trial has that runs to its end."""
        self._space = space
        self._storage = storage
        self._name = name
        self._directions = list(directions)
        self._stateful = settings.sampler in STATEFUL
        self._memory = InMemoryStorage()
        self._study = optuna.create_study(
            study_name="study",  # Hyperband hashes the name: two studies with the same seed do the same
            storage=self._memory,
            directions=self._directions,
            sampler=make_sampler(settings, space, seed),
            pruner=make_pruner(settings, evaluations),
        )
        self._stored: list[int] = []
        self._ended = 0
        self._front: list[TrialEntry] = []
        self.entries: list[TrialEntry] = []
        self._study_id = self._open()

    # --- asking and telling -------------------------------------------------------------------------------------

    @undisturbed()
    def ask(self) -> TrialEntry:
        """Return a new trial, recorded as running."""
        with np.errstate(all="ignore"):  # values may be infinite
            trial = self._study.ask()
            assignment = self._space.assign(lambda leaf: _suggest(trial, leaf))
        frozen = self._memory.get_trial(trial._trial_id)
        if not self._stateful:
            # What a sampler noted for other processes: a resumed study has no such notes, so this one has none either.
            frozen.system_attrs = {}
        fact = copy.copy(frozen)
        fact.user_attrs = {"values": _jsonable(assignment.values), _ASKED_AFTER: self._ended}
        fact.system_attrs = {}
        stored = self._storage.create_new_trial(self._study_id, template_trial=fact)
        number = self._storage.get_trial_number_from_id(stored)
        if number != trial.number:
            raise UserError(
                f"search.storage: another program adds trials to the study {self._name} (number {number} came instead "
                f"of {trial.number}); a study has one driver, so stop that program and start a new study"
            )
        self._stored.append(stored)
        self.entries.append(TrialEntry(trial.number, assignment))
        return self.entries[-1]

    @undisturbed()
    def report(self, number: int, evaluation: int, values: Sequence[float]) -> bool:
        """Record the values of a trial's n-th evaluation, n >= 1; return whether to prune the trial.

        An evaluation that was judged before, by this driver or a dead one, keeps its decision.
        """
        entry = self.entries[number]
        if evaluation in entry.reports:
            return entry.reports[evaluation][1]
        known = set(self._trial(number).system_attrs)
        prune = False
        if len(self._directions) == 1:
            self._memory.set_trial_intermediate_value(self._id(number), evaluation, values[0])
            with np.errstate(all="ignore"):  # values may be infinite
                prune = bool(self._study.pruner.prune(self._study, self._trial(number)))
        marks = {k: v for k, v in self._trial(number).system_attrs.items() if k not in known}
        fact = {"values": [_text(value) for value in values], "prune": prune, "marks": marks}
        self._storage.set_trial_user_attr(self._stored[number], f"{_REPORT}{evaluation:06d}", json.dumps(fact))
        if len(self._directions) == 1:  # for those who look at the storage with Optuna's tools
            self._storage.set_trial_intermediate_value(self._stored[number], evaluation, values[0])
        entry.reports[evaluation] = (tuple(values), prune)
        return prune

    @undisturbed()
    def end(
        self, number: int, state: EndState, values: Sequence[float] | None = None, failure: str | None = None
    ) -> TrialEntry:
        """Record how a trial ended: COMPLETE with its values, PRUNED, or FAILED with the reason."""
        stored = self._stored[number]
        self._storage.set_trial_user_attr(stored, _ENDED_AS, self._ended)
        if state == "FAILED":
            failure = (failure or "")[-_LONGEST_FAILURE:]
            self._storage.set_trial_user_attr(stored, _FAILURE, failure)
        self._tell(number, state, values)
        frozen = self._trial(number)
        self._storage.set_trial_state_values(stored, frozen.state, frozen.values)
        entry = self.entries[number]
        self._close(entry, frozen, failure if state == "FAILED" else None)
        return entry

    def _close(self, entry: TrialEntry, frozen: FrozenTrial, failure: str | None) -> None:
        """Note in an entry how its trial ended, and whether it is among the best ones."""
        entry.state = _NAMES[frozen.state]
        last = entry.reports[max(entry.reports)][0] if entry.reports else None
        entry.values = tuple(frozen.values) if frozen.state == TrialState.COMPLETE else last
        entry.failure = failure
        if frozen.state != TrialState.COMPLETE:
            return
        costs = self._costs(entry)
        if len(self._directions) == 1:
            self._front = [min([*self._front, entry], key=lambda other: (self._costs(other), other.number))]
        elif not any(_beats(self._costs(other), costs) for other in self._front):
            self._front = [other for other in self._front if not _beats(costs, self._costs(other))] + [entry]

    def _costs(self, entry: TrialEntry) -> tuple[float, ...]:
        """Return the values of a complete trial, each so that less is better."""
        assert entry.values is not None
        signs = (1.0 if direction == "minimize" else -1.0 for direction in self._directions)
        return tuple(sign * value for sign, value in zip(signs, entry.values, strict=True))

    def _tell(self, number: int, state: EndState, values: Sequence[float] | None) -> None:
        told = list(values) if state == "COMPLETE" and values is not None else None
        self._study.tell(number, told, state=_STATES[state])
        self._ended += 1

    def _trial(self, number: int) -> FrozenTrial:
        return self._memory.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        """Return the id of a trial in memory, which is not always its number."""
        found: int = self._memory.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return found

    # --- looking ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[TrialEntry]:
        """The trials that have not ended."""
        return [entry for entry in self.entries if entry.state is None]

    def counts(self) -> dict[str, int]:
        """Return the number of trials by state."""
        counts = {"RUNNING": 0, "COMPLETE": 0, "PRUNED": 0, "FAILED": 0}
        for entry in self.entries:
            counts[entry.state or "RUNNING"] += 1
        return counts

    def pareto(self) -> list[TrialEntry]:
        """Return the complete trials that no other one beats in every metric; of one metric the best, alone."""
        return sorted(self._front, key=lambda entry: entry.number)

    def best(self) -> TrialEntry | None:
        """Return the best complete trial; of several metrics, the one of the Pareto front that is best in the first."""
        return min(self._front, key=lambda entry: (self._costs(entry)[0], entry.number), default=None)

    # --- opening ------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        directions = [StudyDirection[direction.upper()] for direction in self._directions]
        known = {study.study_name: study for study in self._storage.get_all_studies()}
        if self._name not in known:
            study_id: int = self._storage.create_new_study(directions, self._name)
            return study_id
        study_id = known[self._name]._study_id
        trials = self._storage.get_all_trials(study_id, deepcopy=False)
        trials = sorted(trials, key=lambda trial: trial.number)
        foreign = any(_ASKED_AFTER not in trial.user_attrs for trial in trials)
        if foreign or known[self._name].directions != directions:
            raise UserError(
                f"search.storage: the study {self._name} in the database has trials of another program or other "
                "directions; a study has one driver, so start a new one"
            )
        self._stored = [trial._trial_id for trial in trials]
        if self._stateful:
            self._repeat(trials)
        for trial in trials:
            if not self._stateful:
                self._study.add_trial(_restored(trial))
            self.entries.append(self._restored_entry(trial))
            if not trial.state.is_finished():
                self._show_reports(trial)
        self._ended = sum(trial.state.is_finished() for trial in trials)
        return study_id

    def _show_reports(self, trial: FrozenTrial) -> None:
        """Note for Optuna's tools what was judged last, if a driver was killed before it did."""
        for evaluation, value in _restored(trial).intermediate_values.items():
            if evaluation not in trial.intermediate_values:
                self._storage.set_trial_intermediate_value(trial._trial_id, evaluation, value)

    def _restored_entry(self, trial: FrozenTrial) -> TrialEntry:
        assignment = self._space.assign(lambda leaf: trial.params[leaf.name])
        entry = TrialEntry(trial.number, assignment)
        for evaluation, fact in _reports(trial).items():
            entry.reports[evaluation] = (tuple(float(text) for text in fact["values"]), fact["prune"])
        if trial.state.is_finished():
            failed = trial.state == TrialState.FAIL
            self._close(entry, trial, trial.user_attrs[_FAILURE] if failed else None)
        return entry

    def _repeat(self, trials: Sequence[FrozenTrial]) -> None:
        """Ask and tell again, in the order in which it happened, for samplers that keep a state of their own."""
        ended = sorted(
            (trial for trial in trials if trial.state.is_finished()), key=lambda trial: trial.user_attrs[_ENDED_AS]
        )
        told = 0
        for trial in trials:
            while told < trial.user_attrs[_ASKED_AFTER]:
                self._retell(ended[told])
                told += 1
            again = self._study.ask()
            self._space.assign(functools.partial(_suggest, again))
            for name, item in trial.distributions.items():
                # The record holds, should another version of a library have drawn something else.
                internal = item.to_internal_repr(trial.params[name])
                self._memory.set_trial_param(self._id(trial.number), name, internal, item)
        for trial in ended[told:]:
            self._retell(trial)
        for trial in trials:
            if not trial.state.is_finished():
                self._remember_reports(trial)

    def _retell(self, trial: FrozenTrial) -> None:
        self._remember_reports(trial)
        values = trial.values if trial.state == TrialState.COMPLETE else None
        self._study.tell(trial.number, values, state=trial.state)

    def _remember_reports(self, trial: FrozenTrial) -> None:
        restored = _restored(trial)
        for evaluation, value in restored.intermediate_values.items():
            self._memory.set_trial_intermediate_value(self._id(trial.number), evaluation, value)
        for key, value in restored.system_attrs.items():
            self._memory.set_trial_system_attr(self._id(trial.number), key, value)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Return whether costs are nowhere higher than others, and somewhere lower."""
    return one != other and all(mine <= others for mine, others in zip(one, other, strict=True))


def _reports(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    return {
        int(key.removeprefix(_REPORT)): json.loads(text)
        for key, text in sorted(trial.user_attrs.items())
        if key.startswith(_REPORT)
    }


def _restored(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial made of its recorded facts alone."""
    reports = _reports(trial)
    single = all(len(fact["values"]) == 1 for fact in reports.values())
    restored = create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs={key: value for fact in reports.values() for key, value in fact["marks"].items()},
        intermediate_values={n: float(fact["values"][0]) for n, fact in reports.items()} if single else {},
    )
    restored.datetime_start, restored.datetime_complete = trial.datetime_start, trial.datetime_complete
    return restored


def _text(value: float) -> str:
    """Return a number as text that keeps its bits, infinities included: JSON has none."""
    return repr(float(value))


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json.loads(json.dumps(value)) for key, value in values.items()}
