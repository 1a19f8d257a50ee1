"""A study that was killed anywhere goes on as if it had not been; numbers and grid points are given once."""

from __future__ import annotations

import math
import os
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage

from examples import examples
from ledgers import BRANCHES, FLAT, GRID, MIXED, Game, KilledError, Log, facts, stored
from rayloom.errors import UserError
from rayloom.search.ledger import Ledger, open_storage
from rayloom.signals import Terminated, sigterm_raises

EARLY = {"n_startup_trials": 3}
EVERY_WRITE = [
    Game("random", "hyperband", MIXED, trials=7),
    Game("tpe", "hyperband", MIXED, options=EARLY, trials=7, evaluations=6),
    Game("tpe", "median", BRANCHES, options=EARLY, evaluations=3, pruner_options=EARLY, trials=7),
    Game("cmaes", "successive_halving", evaluations=4, trials=9, pruner_options={"min_resource": 2}),
]
SOME_WRITES = [
    *(Game("random", pruner, evaluations=6) for pruner in ("none", "median", "successive_halving", "patient")),
    *(Game("tpe", pruner, MIXED, options=EARLY, trials=10) for pruner in ("none", "successive_halving", "patient")),
    Game("tpe", "hyperband", BRANCHES, options={**EARLY, "constant_liar": False}, trials=12),
    Game("tpe", "hyperband", FLAT, options={**EARLY, "multivariate": False}, pruner_options={"max_resource": "auto"}),
    Game("tpe", "successive_halving", pruner_options={"min_resource": "auto"}, evaluations=5),
    Game("tpe", space=BRANCHES, options=EARLY, trials=10, directions=("minimize", "maximize"), evaluations=2),
    Game("gp", "hyperband", MIXED, options=EARLY, trials=7, evaluations=3),
    Game("gp", options=EARLY, trials=7, directions=("minimize", "maximize"), evaluations=2),
    Game("cmaes", "hyperband", trials=25, evaluations=3),
    Game("cmaes", "median", trials=20, evaluations=3, options={"with_margin": True, "consider_pruned_trials": True}),
    Game("qmc", "hyperband", trials=12),
    Game("qmc", trials=12, evaluations=2, options={"qmc_type": "halton"}, directions=("maximize", "minimize")),
    Game("grid", "hyperband", GRID, trials=9),
]


def name(game: Game) -> str:
    """Return a test's name."""
    options = "-".join(f"{key}" for key in game.options if key not in EARLY)
    return f"{game.sampler}-{game.pruner}-{len(game.space)}-{len(game.directions)}-{options}"


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("game", EVERY_WRITE, ids=name)
def test_a_study_killed_at_any_write_goes_on_exactly(game: Game, stride: int) -> None:
    whole = Log()
    expected, kept = facts(game.play(game.open(whole))), stored(whole)
    counts = game.open(whole).counts()
    assert counts["PRUNED"] and counts["COMPLETE"] and counts["FAILED"], "the study shows too little"
    for writes in range(0, len(whole.lines), stride):
        log = Log()
        log.left = writes
        with pytest.raises(KilledError):
            game.play(game.open(log))
        log.left = math.inf
        assert facts(game.play(game.open(log))) == expected, f"killed after {writes} writes"
        assert stored(log) == kept, f"killed after {writes} writes"


@pytest.mark.parametrize("game", SOME_WRITES, ids=name)
def test_a_study_killed_again_and_again_goes_on_exactly(game: Game) -> None:
    whole, log = Log(), Log()
    expected = facts(game.play(game.open(whole)))
    lengths = random.Random(0)
    deaths = 0
    while True:
        log.left = lengths.randint(3, 6)  # a failed trial's end takes three writes, so that every life gets on
        try:
            ledger = game.play(game.open(log))
            break
        except KilledError:
            deaths += 1
    assert deaths > 5
    assert facts(ledger) == expected
    assert stored(log) == stored(whole)
    assert facts(game.open(log)) == expected


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "cmaes", "qmc", "grid"])
def test_seeds_decide(sampler: str) -> None:
    game = Game(sampler, "hyperband", GRID if sampler == "grid" else FLAT, trials=6, evaluations=3, options={})
    if sampler in ("tpe", "gp"):
        game = replace(game, options=EARLY)
    first = facts(game.play(game.open(Log())))
    assert facts(game.play(game.open(Log()))) == first
    other = facts(replace(game, seed=4).play(replace(game, seed=4).open(Log())))
    assert (other == first) == (sampler == "grid")


def run_interleaved(game: Game, moves: list[tuple[int, int, bool]], crashes: bool) -> tuple[Ledger, Log]:
    """Run trials at once, as the moves say: (which, ask or report, whether the driver is replaced afterwards)."""
    log = Log()
    ledger = game.open(log)
    for which, ask, crash in moves:
        running = ledger.running
        if (ask or not running) and len(ledger.entries) < game.trials:
            asked = ledger.ask()
            assert asked.number == len(ledger.entries) - 1
        elif running:
            entry = running[which % len(running)]
            game.step(ledger, entry, max(entry.reports, default=0) + 1)
        if crash and crashes:
            before, ended = facts(ledger), ledger._ended
            ledger = game.open(log)
            assert facts(ledger) == before
            assert ledger._ended == ended
    return ledger, log


MOVES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.booleans()), min_size=20, max_size=50)
PARALLEL = [
    Game("random", "hyperband", MIXED, trials=20, evaluations=3),
    Game("tpe", "successive_halving", BRANCHES, trials=20, evaluations=2, options=EARLY),
    Game("cmaes", "median", trials=25, evaluations=1, options={"popsize": 4}, pruner_options=EARLY),
    Game("qmc", trials=20, evaluations=2),
]


@pytest.mark.parametrize("game", PARALLEL, ids=name)
@settings(max_examples=examples(20, 2), deadline=None, derandomize=True)
@given(moves=MOVES)
def test_parallel_trials_survive_crashes_exactly(game: Game, moves: list[tuple[int, int, bool]]) -> None:
    calm, calm_log = run_interleaved(game, moves, crashes=False)
    shaken, shaken_log = run_interleaved(game, moves, crashes=True)
    assert [entry.number for entry in shaken.entries] == list(range(len(shaken.entries)))
    assert facts(shaken) == facts(calm)
    assert stored(shaken_log) == stored(calm_log)


def test_the_order_of_ends_is_repeated() -> None:
    """Which generation of CMA-ES a trial belongs to depends on what had ended when it began."""
    game = Game("cmaes", trials=60, options={"popsize": 4})
    runs = []
    for crash_every in (1_000, 7):
        log, choose = Log(), random.Random(0)
        ledger = game.open(log)
        while len(ledger.entries) < game.trials:
            while len(ledger.running) < 6:
                ledger.ask()
            entry = choose.choice(ledger.running)
            ledger.end(entry.number, "COMPLETE", game.values(entry, 1))
            if len(ledger.entries) % crash_every == 0:
                ledger = game.open(log)
        runs.append(facts(ledger))
    assert runs[0] == runs[1]


@settings(max_examples=examples(40, 8), deadline=None, derandomize=True)
@given(moves=MOVES)
def test_every_grid_point_is_given_exactly_once(moves: list[tuple[int, int, bool]]) -> None:
    game = Game("grid", "hyperband", GRID, trials=9, evaluations=3)
    ledger, log = run_interleaved(game, moves, crashes=True)
    game.play(ledger)
    points = Counter(repr(sorted(entry.assignment.values.items())) for entry in game.open(log).entries)
    expected = [[("kind", "a"), ("x", x), ("y", y)] for x in (1, 2, 3) for y in (1, 2)]
    expected += [[("kind", "b"), ("x", x)] for x in (1, 2, 3)]  # type: ignore[list-item]
    assert points == Counter(map(repr, expected))


def test_a_pruning_decision_stands() -> None:
    game = Game("random", "median", pruner_options={"n_startup_trials": 1}, evaluations=2)
    log = Log()
    ledger = game.open(log)
    first, second = ledger.ask(), ledger.ask()
    assert not ledger.report(first.number, 1, [1.0])
    ledger.end(first.number, "COMPLETE", [1.0])
    assert ledger.report(second.number, 1, [2.0])
    for reopened in (ledger, game.open(log)):
        assert reopened.report(second.number, 1, [0.0]), "the first report is the one that counts"
        assert reopened.entries[second.number].reports == {1: ((2.0,), True)}


@pytest.mark.parametrize("sampler", ["random", "cmaes"])
def test_a_trial_that_had_almost_failed_can_complete(sampler: str) -> None:
    game = Game(sampler)
    log = Log()
    ledger = game.open(log)
    numbers = [ledger.ask().number for _ in range(3)]
    log.left = 2  # how it ended is written, that it ended is not
    with pytest.raises(KilledError):
        ledger.end(numbers[0], "FAILED", failure="the disk is full")
    log.left = math.inf
    ledger = game.open(log)
    assert [entry.number for entry in ledger.running] == numbers
    ledger.end(numbers[1], "COMPLETE", [2.0])
    assert ledger.end(numbers[0], "COMPLETE", [1.0]).failure is None
    ledger.end(numbers[2], "FAILED", failure="x" * 5_000)
    reopened = game.open(log)
    assert facts(reopened) == facts(ledger)
    assert reopened.entries[0].failure is None
    assert reopened.entries[2].failure == "x" * 2_000
    assert reopened.best() == reopened.entries[0]


@pytest.mark.filterwarnings("error:invalid value:RuntimeWarning")
def test_values_at_the_edges() -> None:
    log = Log()
    game = Game(pruner="median", pruner_options={"n_startup_trials": 0}, evaluations=2)
    ledger = game.open(log)
    ends: list[tuple[float, ...]] = [(math.inf,), (-math.inf,), (5e-324,), (0.1 + 0.2,)]
    for values in ends:
        number = ledger.ask().number
        assert not ledger.report(number, 1, values) or math.isinf(values[0])
        ledger.end(number, "COMPLETE", values)
    broken = ledger.ask()
    ledger.report(broken.number, 1, [math.nan])
    assert ledger.end(broken.number, "PRUNED").state == "PRUNED"
    failed = ledger.ask()
    ledger.report(failed.number, 1, [7.0])
    ledger.end(failed.number, "FAILED", failure="why")
    for reopened in (ledger, game.open(log)):
        assert [entry.values for entry in reopened.entries[:4]] == ends
        assert repr(reopened.entries[4].values) == "(nan,)"
        assert (reopened.entries[5].values, reopened.entries[5].failure) == ((7.0,), "why")
        assert reopened.best() == reopened.entries[1]
        assert reopened.counts() == {"RUNNING": 0, "COMPLETE": 4, "PRUNED": 1, "FAILED": 1}


def naive_front(values: list[tuple[float, ...]], signs: tuple[int, ...]) -> list[int]:
    costs = [tuple(sign * value for sign, value in zip(signs, each, strict=True)) for each in values]
    return [
        n
        for n, mine in enumerate(costs)
        if not any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in costs)
    ]


SMALL = st.sampled_from([-math.inf, -1.0, 0.0, 1.0, 2.0, math.inf])


@settings(max_examples=examples(60, 15), deadline=None, derandomize=True)
@given(values=st.lists(st.tuples(SMALL, SMALL), max_size=10))
def test_the_pareto_front(values: list[tuple[float, float]]) -> None:
    game = Game(directions=("minimize", "maximize"), trials=10)
    log = Log()
    ledger = game.open(log)
    ledger.end(ledger.ask().number, "FAILED", failure="no values")
    numbers = [ledger.ask().number for _ in values]
    for number, pair in reversed(list(zip(numbers, values, strict=True))):
        assert not ledger.report(number, 1, pair)
        ledger.end(number, "COMPLETE", pair)
    front = [1 + n for n in naive_front(values, (1, -1))]
    for reopened in (ledger, game.open(log)):
        assert [entry.number for entry in reopened.pareto()] == front
        best = reopened.best()
        expected = min(front, key=lambda n: (values[n - 1][0], n), default=None)
        assert (best and best.number) == expected


@settings(max_examples=examples(40, 15), deadline=None, derandomize=True)
@given(values=st.lists(SMALL, max_size=8), direction=st.sampled_from(["minimize", "maximize"]))
def test_the_best_of_equals_is_the_first(values: list[float], direction: str) -> None:
    game = Game(directions=(direction,), trials=10)
    log = Log()
    ledger = game.open(log)
    numbers = [ledger.ask().number for _ in values]
    for number in reversed(numbers):
        ledger.end(number, "COMPLETE", [values[number]])
    ideal = (min if direction == "minimize" else max)(values, default=math.nan)
    expected = values.index(ideal) if values else None
    for reopened in (ledger, game.open(log)):
        assert [entry.number for entry in reopened.pareto()] == ([] if expected is None else [expected])
        best = reopened.best()
        assert (best and best.number) == expected


def test_the_record_holds_where_a_sampler_would_now_draw_something_else() -> None:
    game = Game("cmaes", trials=20, evaluations=1)
    log = Log()
    before = facts(game.play(game.open(log)))
    other = replace(game, seed=game.seed + 1, trials=30)
    ledger = other.open(log)
    assert facts(ledger) == before
    remembered: list[Any] = ledger._study.get_trials()
    assert [trial.params for trial in remembered] == [entry.assignment.parameters for entry in ledger.entries]
    other.play(ledger)


def test_other_peoples_trials_are_refused() -> None:
    game, log = Game(), Log()
    ledger = game.open(log)
    ledger.ask()
    storage = JournalStorage(log)
    storage.create_new_trial(storage.get_study_id_from_name("game"))
    with pytest.raises(UserError, match=r"search\.storage: another program adds trials to the study game"):
        ledger.ask()
    with pytest.raises(UserError, match=r"search\.storage: the study game in the database has trials of another"):
        game.open(log)
    log = Log()
    game.open(log)
    with pytest.raises(UserError, match=r"search\.storage: the study game in the database has .* other directions"):
        replace(game, directions=("maximize",)).open(log)


@pytest.mark.parametrize("moment", range(1, 12))
def test_a_signal_never_falls_into_a_write(moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while Optuna gives its lock back raised FileNotFoundError, and the study FAILED instead of KILLED."""
    game = Game(trials=3, evaluations=2)
    left, unlink = [moment], os.unlink

    def interrupted(path: str) -> None:
        unlink(path)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)

    with sigterm_raises(), pytest.raises(Terminated):
        ledger = game.open(open_storage(None, tmp_path))
        with monkeypatch.context() as patched:
            patched.setattr("optuna.storages.journal._file.os.unlink", interrupted)
            game.play(ledger)
    assert facts(game.play(game.open(open_storage(None, tmp_path)))) == facts(game.play(game.open(Log())))
