"""The pictures and tables of a study."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from matplotlib.image import imread

from rayloom.search import pictures
from rayloom.search.pictures import Request, draw_study, load_trials

optuna.logging.set_verbosity(optuna.logging.ERROR)
FLOAT = optuna.distributions.FloatDistribution
CHOICE = optuna.distributions.CategoricalDistribution
RATE, SIZES, MOMENTUM = "learner.optimizer.learning_rate", "algorithm.hidden_sizes", "learner.optimizer.momentum"


def trial(
    values: Sequence[float] | None, state: str = "COMPLETE", reports: Sequence[float] = (), **changes: Any
) -> Any:
    """Return a trial with a log-uniform and a categorical parameter, the second condition of a third."""
    rate = changes.get("rate", 1e-3)
    sizes = changes.get("sizes", "[64, 64]")
    parameters: dict[str, Any] = {RATE: rate, SIZES: sizes}
    kinds: dict[str, Any] = {RATE: FLOAT(1e-5, 1e-1, log=True), SIZES: CHOICE(["[64, 64]", None, True])}
    if sizes is None:
        parameters[MOMENTUM], kinds[MOMENTUM] = 0.5, FLOAT(0.0, 1.0)
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        values=values,
        params=changes.get("params", parameters),
        distributions=changes.get("distributions", kinds),
        intermediate_values=dict(enumerate(reports, 1)),
    )


def varied(count: int, metrics: int = 1, **changes: Any) -> list[Any]:
    """Return complete trials with varied parameters and values."""
    sizes = ["[64, 64]", None, True]
    return [
        trial(
            [math.sin(7 * i + metric) for metric in range(metrics)],
            rate=10 ** (-5 + 4 * (i * 0.37 % 1)),
            sizes=sizes[i % 3],
            **changes,
        )
        for i in range(count)
    ]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Request]:
    """Return a function that stores trials in a journal and returns the request to draw them."""

    def store(trials: Sequence[Any], *metrics: str) -> Request:
        metrics = metrics or ("evaluate/accuracy",)
        directions = tuple("minimize" if "loss" in name else "maximize" for name in metrics)
        path = str(tmp_path / "study.log")
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
        study = optuna.create_study(storage=storage, study_name="s", directions=list(directions))
        study.add_trials(trials)
        return Request(path, "s", tmp_path / "made" / "pictures", metrics, directions)

    return store


def files(request: Request) -> set[str]:
    """Return the names of what was written; every picture can be read and is not blank."""
    for path in request.folder.glob("*.png"):
        image = imread(path)[..., :3]
        assert min(image.shape[:2]) > 100
        assert image.std() > 0.01
    return {path.name for path in request.folder.iterdir()}


def test_a_study_with_one_metric(ask: Callable[..., Request]) -> None:
    trials = [
        *varied(8, reports=(0.1, 0.2, 0.3)),
        trial(None, "FAIL"),
        trial([0.1], "PRUNED", reports=(0.1,)),
        trial([math.inf]),
        trial(None, "RUNNING"),
    ]
    request = ask(trials)
    assert draw_study(request) == []
    assert files(request) == {
        "trials.csv", "history.png", "slices.png", "importances.png", "importances.json", "parallel_coordinates.png",
        "intermediate_values.png",
    }  # fmt: skip
    importances = json.loads((request.folder / "importances.json").read_text())
    assert set(importances) == {"evaluate/accuracy"}
    assert set(importances["evaluate/accuracy"]) == {RATE, SIZES, MOMENTUM}  # by their whole names
    assert sum(importances["evaluate/accuracy"].values()) == pytest.approx(1)


def test_a_study_with_two_metrics_and_many_reports(ask: Callable[..., Request]) -> None:
    request = ask(varied(5, 2), "evaluate/accuracy", "evaluate/loss")
    assert draw_study(request) == []
    one_each = ("history", "slices", "importances")
    assert files(request) == {
        *(f"{name}_evaluate_{metric}.png" for name in one_each for metric in ("accuracy", "loss")),
        "trials.csv", "importances.json", "parallel_coordinates.png", "pareto_front.png",
    }  # fmt: skip
    assert set(json.loads((request.folder / "importances.json").read_text())) == {"evaluate/accuracy", "evaluate/loss"}


def test_many_curves_have_a_scale_instead_of_a_legend(
    ask: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask([*(trial([0.5], reports=(0.1, 0.5)) for _ in range(21)), trial(None, "FAIL")])
    drawing = pictures._Drawing(request, load_trials(request.storage, "s"))
    seen: list[Any] = []
    monkeypatch.setattr(drawing, "_save", lambda axes, name, inches: seen.append(axes))
    drawing._intermediate_values()
    assert seen[0].get_legend() is None
    assert len({line.get_color() for line in seen[0].lines}) == 21
    assert len(seen[0].figure.axes) == 2


def test_the_numbers_and_the_direction_are_kept_in_the_pictures(ask: Callable[..., Request]) -> None:
    request = ask([trial(None, "FAIL"), trial([3.0]), trial([math.nan], "PRUNED"), trial([1.0])], "train/loss")
    copy = pictures._Drawing(request, load_trials(request.storage, "s"))._copy([0])
    assert [(t.number, t.state.name, t.values) for t in copy.trials] == [
        (0, "FAIL", None), (1, "COMPLETE", [3.0]), (2, "PRUNED", None), (3, "COMPLETE", [1.0]),
    ]  # fmt: skip
    assert copy.best_trial.number == 3
    assert list(copy.trials[1].params) == ["learning_rate", "hidden_sizes"]


def test_the_copies_have_the_metrics_that_were_asked_for(ask: Callable[..., Request]) -> None:
    request = ask([trial([3.0, 5.0])], "evaluate/accuracy", "train/loss")
    drawing = pictures._Drawing(request, load_trials(request.storage, "s"))
    for indices, values, directions in (([0, 1], [3.0, 5.0], ["MAXIMIZE", "MINIMIZE"]), ([1], [5.0], ["MINIMIZE"])):
        copy = drawing._copy(indices)
        assert copy.trials[0].values == values
        assert [direction.name for direction in copy.directions] == directions


def test_the_table_has_every_trial(ask: Callable[..., Request]) -> None:
    trials = [
        trial([0.5, 1.0], rate=0.01, sizes=None),
        trial(None, "FAIL", sizes=True),
        trial([0.25, 2.0], "PRUNED"),
        trial(None, "RUNNING"),
    ]
    request = ask(trials, "evaluate/accuracy", "evaluate/loss")
    draw_study(request)
    with (request.folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["number", "state", "evaluate/accuracy", "evaluate/loss", RATE, SIZES, MOMENTUM, "duration_s"]
    assert list(rows[0]) == names
    assert [list(row.values())[:-1] for row in rows] == [
        ["0", "COMPLETE", "0.5", "1.0", "0.01", "null", "0.5"],
        ["1", "FAILED", "", "", "0.001", "true", ""],
        ["2", "PRUNED", "0.25", "2.0", "0.001", "[64, 64]", ""],
        ["3", "RUNNING", "", "", "0.001", "[64, 64]", ""],
    ]
    assert [bool(row["duration_s"]) for row in rows] == [True, True, True, False]
    assert float(rows[0]["duration_s"]) >= 0


@pytest.mark.parametrize(
    ("trials", "line", "missing"),
    [
        ([], "no trial was complete", {"history.png", "slices.png", "parallel_coordinates.png", "importances.json"}),
        ([trial(None, "FAIL"), trial([math.inf])], "no trial was complete", {"history.png"}),
        (
            [*varied(3), trial([1.0], "PRUNED")],
            "importances.png: fewer than 4 trials",
            {"importances.png", "importances.json"},
        ),
        ([trial([0.5], rate=10**-i) for i in (2, 3, 4, 5)], "importances.png: all values of", {"importances.png"}),
        (
            [trial([i], params={RATE: 10**-i}, distributions={RATE: FLOAT(1e-9, 1)}) for i in range(1, 5)],
            "importances.png: there is one parameter",
            {"importances.png"},
        ),
        (
            [trial([0.5], params={}, distributions={})],
            "slices.png: the trials have no parameters",
            {"slices.png", "parallel_coordinates.png"},
        ),
    ],
)
def test_what_cannot_be_drawn_is_left_out(
    ask: Callable[..., Request], trials: list[Any], line: str, missing: set[str]
) -> None:
    request = ask(trials)
    left_out = draw_study(request)
    assert len([text for text in left_out if text.startswith(line)]) == 1
    made = files(request)
    assert "trials.csv" in made
    assert not made & missing
    assert not any(name.startswith(".") for name in made)
    if "history.png" not in missing:
        assert "history.png" in made


def test_metrics_that_look_alike_have_files_of_their_own() -> None:
    metrics = ("evaluate/a b", "evaluate/a_b", "train/loss")
    assert [pictures._slug(metrics, index) for index in range(3)] == ["evaluate_a_b_0", "evaluate_a_b_1", "train_loss"]


def test_a_journal_is_read_while_it_is_written_and_never_made(ask: Callable[..., Request], tmp_path: Path) -> None:
    request = ask(varied(2))
    journal = Path(request.storage)
    with journal.open("a") as file:
        file.write('{"op_code": 4, "worker')
    before = journal.read_bytes()
    assert len(load_trials(request.storage, "s")) == 2
    assert journal.read_bytes() == before
    assert not list(tmp_path.glob("*.lock"))
    with pytest.raises(FileNotFoundError, match="no journal"):
        load_trials(str(tmp_path / "nothing.log"), "s")
    assert not (tmp_path / "nothing.log").exists()
    with pytest.raises(KeyError):
        load_trials(request.storage, "another")


def test_a_database_is_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(storage=url, study_name="s").add_trial(trial([1.0]))
    assert [one.values for one in load_trials(url, "s")] == [[1.0]]


def test_a_picture_is_renamed_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail(file: Any) -> None:
        file.write("half")
        file.flush()
        assert target.read_text() == "old"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        pictures._write(target, fail)
    assert target.read_text() == "old"
    pictures._write(target, lambda file: file.write("new"))
    assert target.read_text() == "new"


def test_drawing_leaves_the_cores_to_the_trials(
    ask: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask([])
    (tmp_path / "request.json").write_text(json.dumps({**vars(request), "folder": str(request.folder)}))
    asked: list[int] = []
    monkeypatch.setattr(os, "nice", asked.append)
    assert pictures.main([str(tmp_path / "request.json")]) == 0
    assert asked == [10]
