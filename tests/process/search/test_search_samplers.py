"""What samplers draw: decided by seed, trial, parameter and history; quiet; of the quality that their names promise."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ledgers import BRANCHES, FLAT, GRID, MIXED, Game, Log
from places import FAKES
from rayloom.config.search import SearchConfig
from rayloom.errors import UserError
from rayloom.search.samplers import make_pruner, make_sampler
from rayloom.search.space import Space

SQUARE = {"a": {"float": [0.0, 1.0]}, "b": {"float": [0.0, 1.0]}}


def settings_of(sampler: str = "tpe", pruner: str = "none", **options: object) -> SearchConfig:
    return SearchConfig(
        space=FLAT,
        sampler=sampler,  # type: ignore[arg-type]
        sampler_options=options if pruner == "none" else {},  # type: ignore[arg-type]
        pruner=pruner,  # type: ignore[arg-type]
        pruner_options={} if pruner == "none" else options,  # type: ignore[arg-type]
        trials=10,
    )


def test_a_value_depends_on_seed_number_and_name_alone() -> None:
    log = Log()
    ledger = Game("random").open(log)
    drawn = [ledger.ask().assignment.parameters for _ in range(6)]
    random.seed(0)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    turned = replace(Game("random"), space=dict(reversed(FLAT.items())))
    assert [turned.open(log).entries[n].assignment.parameters for n in range(6)] == drawn
    other = turned.open(Log())
    assert [other.ask().assignment.parameters for _ in range(6)] == drawn
    alone = replace(Game("random"), space={"x": FLAT["x"]}).open(Log())
    assert [alone.ask().assignment.parameters["x"] for _ in range(6)] == [each["x"] for each in drawn]
    assert (np.random.get_state()[1] == state).all()  # type: ignore[index]
    for one, two in itertools.combinations(drawn, 2):
        assert not set(one.values()) & (set(two.values()) - set(range(1, 9)))
    assert all(abs(each["x"] - np.log(each["y"] / 1e-4) / np.log(1e4)) > 1e-6 for each in drawn), "one draw for two"


@pytest.mark.parametrize("kind", ["sobol", "halton"])
@pytest.mark.parametrize("at_once", [1, 16])
def test_a_sequence_fills_the_square_evenly(kind: str, at_once: int) -> None:
    game = Game("qmc", space=SQUARE, options={"qmc_type": kind}, trials=16)
    ledger = game.open(Log())
    while len(ledger.entries) < game.trials:
        for entry in [ledger.ask() for _ in range(at_once)]:
            ledger.end(entry.number, "FAILED" if entry.number % 5 == 2 else "COMPLETE", [float(entry.number)])
    points = [entry.assignment.parameters for entry in ledger.entries]
    rows = Counter(int(16 * point["a"]) for point in points)
    assert set(rows.values()) == {1}, "every sixteenth of the first axis has one point"
    if kind == "sobol":
        cells = Counter((int(4 * point["a"]), int(4 * point["b"])) for point in points)
        assert set(cells.values()) == {1} and len(cells) == 16
    again = game.open(Log())
    assert [again.ask().assignment.parameters for _ in range(16)] == points, "the order of ends does not matter"
    other = replace(game, seed=99).open(Log())
    assert other.ask().assignment.parameters != points[0]


@pytest.mark.parametrize("sampler", ["cmaes", "gp", "tpe"])
def test_a_sampler_learns(sampler: str) -> None:
    game = Game(sampler, space=SQUARE, trials={"gp": 18}.get(sampler, 60))
    ledger = game.open(Log())
    for _ in range(game.trials):
        entry = ledger.ask()
        cost = sum((value - 0.8) ** 2 for value in entry.assignment.parameters.values())
        ledger.end(entry.number, "COMPLETE", [cost])
    late = [entry.values[0] for entry in ledger.entries[-6:] if entry.values]
    assert np.median(late) < 0.05, late  # of random points 15 in 100 are as good


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_several_metrics(sampler: str) -> None:
    options = {} if sampler == "random" else {"n_startup_trials": 4}
    game = Game(sampler, space=MIXED, directions=("minimize", "maximize"), trials=8, evaluations=2, options=options)
    ledger = game.play(game.open(Log()))
    assert len(ledger.pareto()) >= 2
    assert ledger.best() in ledger.pareto()
    assert all(len(values) == 2 for entry in ledger.entries for values, _ in entry.reports.values())


@pytest.mark.parametrize(("pruner", "option"), [("hyperband", "max_resource"), ("successive_halving", "min_resource")])
def test_resources_do_not_wait_for_complete_trials(pruner: str, option: str) -> None:
    """Optuna's "auto" does, and keeps what it saw then, which a resumed study could not know."""
    ledger = Game("random", pruner, evaluations=9, pruner_options={option: "auto"}).open(Log())
    assert any(ledger.report(ledger.ask().number, 1, [float(value)]) for value in range(20))


GAMES = [
    *(Game(s, "median", MIXED, 8, 3, options={"n_startup_trials": 3}, pruner_options={}) for s in ("tpe", "gp")),
    *(Game(s, "patient", FLAT, 8, 5, pruner_options={"patience": 1}) for s in ("random", "cmaes", "qmc")),
    Game("tpe", "hyperband", BRANCHES, 8, 3, options={"n_startup_trials": 3}),
    Game("gp", "none", MIXED, 8, 2, directions=("minimize", "maximize"), options={"n_startup_trials": 3}),
    Game("cmaes", "median", FLAT, 12, 2, options={"with_margin": True, "sigma0": 0.2, "popsize": 4}),
    Game("grid", "successive_halving", GRID, 9, 3),
]


def test_processes_agree_and_nothing_is_printed() -> None:
    """Also where the hashes of strings differ; values that are infinite or not numbers give no warnings."""
    script = "import sys, json, ledgers, test_search_samplers as t\n"
    script += "print(json.dumps([ledgers.facts(g.play(g.open(ledgers.Log()))) for g in t.GAMES]))"
    here = FAKES
    paths = os.pathsep.join([str(here), *(path for path in sys.path if path)])
    answers = []
    for hashes in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": paths, "PYTHONWARNINGS": ""}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert "inf" in repr(answers[0]) and "nan" in repr(answers[0])


REFUSED = [
    ("tpe", "none", {"n_startup": 3}, "search.sampler_options.n_startup: there is no such option; did you mean"),
    ("tpe", "none", {"seed": 3}, "search.sampler_options.seed: there is no such option"),
    ("tpe", "none", {"gamma": 3}, "search.sampler_options.gamma: there is no such option"),
    ("tpe", "none", {"n_startup_trials": "ten"}, "search.sampler_options.n_startup_trials: must be int, not 'ten'"),
    ("tpe", "none", {"n_startup_trials": True}, "search.sampler_options.n_startup_trials: must be int, not True"),
    ("tpe", "none", {"multivariate": False, "group": True}, "search.sampler_options: ``group`` option can only"),
    ("qmc", "none", {"qmc_type": "faure"}, "search.sampler_options: The `qmc_type='faure'` is invalid"),
    ("qmc", "none", {"independent_sampler": None}, "search.sampler_options.independent_sampler: there is no such"),
    ("cmaes", "none", {"sigma0": "big"}, "search.sampler_options.sigma0: must be float or null, not 'big'"),
    ("random", "none", {"seed": 1}, "search.sampler_options.seed: there is no such option"),
    ("random", "median", {"n_trials": 1}, "search.pruner_options.n_trials: there is no such option"),
    ("random", "median", {"n_startup_trials": -1}, "search.pruner_options: Number of startup trials cannot be"),
    ("random", "successive_halving", {"min_resource": 0}, "search.pruner_options: The value of `min_resource` is 0"),
    ("random", "patient", {"wrapped_pruner": "median"}, "search.pruner_options.wrapped_pruner: there is no such"),
    ("random", "hyperband", {"max_resource": 1.5}, "search.pruner_options.max_resource: must be str or int, not 1.5"),
]


@pytest.mark.parametrize(("sampler", "pruner", "options", "sentence"), REFUSED)
def test_options_are_refused(sampler: str, pruner: str, options: dict[str, object], sentence: str) -> None:
    chosen = settings_of(sampler, pruner, **options)
    with pytest.raises(UserError) as caught:
        make_sampler(chosen, Space.parse(FLAT), 0)
        make_pruner(chosen, 9)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_the_options_of_grids_are_refused() -> None:
    chosen = SearchConfig(space=GRID, sampler="grid", sampler_options={"seed": 1})
    with pytest.raises(UserError, match=r"search\.sampler_options\.seed: there is no such option"):
        make_sampler(chosen, Space.parse(GRID), 0)
