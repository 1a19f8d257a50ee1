"""The study display: what a person and a pipe see of a search."""

from __future__ import annotations

import errno
import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from rayloom.cli.study_display import (
    LiveStudyDisplay,
    StudyDisplay,
    closing_study_table,
    describe_best,
    describe_progress,
    format_counts,
    format_parameter,
    make_study_observer,
)
from rayloom.search.observer import Standing, StudyObserver, StudyResult, TrialView, short_names

RATE, NAME = "learner.optimizer.learning_rate", "learner.optimizer.kind"


@pytest.fixture(autouse=True)
def _capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw as on an ordinary terminal, wherever the tests run."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Broken(Terminal):
    """A stream that fails from some write on."""

    def __init__(self, writes: int, error: OSError) -> None:
        super().__init__()
        self.left = writes
        self.error = error

    def write(self, text: str) -> int:
        if self.left <= 0:
            raise self.error
        self.left -= 1
        return super().write(text)


def view(number: int, state: Any = "COMPLETE", *values: float, **changes: Any) -> TrialView:
    """Return a trial that took ten seconds."""
    fields: dict[str, Any] = {
        "number": number,
        "state": state,
        "values": values or None,
        "parameters": {RATE: 0.00123456, NAME: "adam"},
        "fraction": 1.0,
        "elapsed_s": 10.0,
    }
    return TrialView(**{**fields, **changes})


def result(**changes: Any) -> StudyResult:
    """Return the result of a finished study."""
    fields: dict[str, Any] = {
        "study_id": "f00d",
        "status": "FINISHED",
        "best_number": 7,
        "best_values": (0.98765,),
        "best_parameters": {RATE: 0.00123456789, NAME: "adam", "algorithm.hidden_sizes": [64, 64]},
        "best_config": Path("/runs/study/best.yaml"),
        "counts": {"COMPLETE": 8, "PRUNED": 2, "FAILED": 0, "RUNNING": 0},
        "metrics": ("evaluate/accuracy",),
        "directions": ("maximize",),
        "study_dir": Path("/runs/study"),
        "tracking_uri": "sqlite:////runs/mlflow.db",
        "pareto": (7,),
        "duration_s": 185.0,
    }
    return StudyResult(**{**fields, **changes})


def start(display: StudyObserver, total: int | None = 10, slots: int = 2, *metrics: str, **tracking: Any) -> None:
    """Start a study that maximises the first metric and minimises the others."""
    metrics = metrics or ("evaluate/accuracy",)
    enabled = tracking.get("enabled", True)
    config: Any = SimpleNamespace(
        name="tiny", output=tracking.get("output", "rayloom-runs"), tracking=SimpleNamespace(enabled=enabled)
    )
    directions = ("maximize", *("minimize" for _ in metrics[1:]))
    display.started(config, Path("/runs/study"), total, slots, metrics, directions)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123456, "0.001235"), (64, "64"), ("adam", "adam"), (True, "true"), (None, "null"), ([64, 64], "[64, 64]"),
     (1e-12, "1e-12"), ({"a": 1}, '{"a": 1}')],
)  # fmt: skip
def test_parameters_are_short(value: Any, text: str) -> None:
    assert format_parameter(value) == text


def test_names_are_as_short_as_they_can_be() -> None:
    names = [RATE, NAME, "algorithm.network.name", "algorithm.hidden_sizes/0", "source.size", "x.source.size", "seed"]
    assert list(short_names(names).values()) == [
        "learning_rate", "optimizer.kind", "network.name", "hidden_sizes/0", "source.size", "x.source.size", "seed",
    ]  # fmt: skip
    assert short_names(["name", "a.kind"]) == {"name": "name", "a.kind": "a.kind"}
    assert short_names([]) == {}


def test_counts() -> None:
    assert format_counts({"RUNNING": 1, "FAILED": 2, "PRUNED": 0, "COMPLETE": 3}) == "3 complete, 2 failed, 1 running"
    assert format_counts({}) == "none"


def test_an_observer_does_nothing_by_default() -> None:
    observer = StudyObserver()
    start(observer)
    observer.study_id("x")
    observer.trial(view(0))
    observer.note("x")
    observer.finished(result())


@pytest.mark.parametrize(("direction", "best"), [("maximize", (4, 0.75)), ("minimize", (1, 0.25))])
def test_the_best_trial_is_the_first_complete_one_with_the_best_value(direction: str, best: tuple[int, float]) -> None:
    standing = Standing(10, 1, (direction,))
    assert describe_best(standing) == ""
    standing.update(view(0, "COMPLETE", math.nan))
    assert standing.best == []
    standing.update(view(1, "COMPLETE", 0.25))
    standing.update(view(2, "PRUNED", 0.9))
    standing.update(view(3, "PRUNED", 0.1))
    for number, value in ((4, 0.75), (5, 0.75), (6, 0.25), (7, math.inf), (8, -math.inf)):
        standing.update(view(number, "COMPLETE", value))
    standing.update(view(9, "RUNNING", 0.99))
    assert standing.best == [(best[0], (best[1],))]
    assert describe_best(standing) == f"best {best[1]} (trial {best[0]})"
    assert standing.counts == {"COMPLETE": 7, "PRUNED": 2, "FAILED": 0, "RUNNING": 1}
    assert standing.done == 9


def test_the_pareto_front_has_what_no_other_beats() -> None:
    standing = Standing(10, 1, ("maximize", "minimize"))
    for number, values in enumerate([(0.5, 0.5), (0.4, 0.6), (0.6, 0.6), (0.5, 0.5), (0.6, 0.4), (0.9, 0.9)]):
        standing.update(view(number, "COMPLETE", *values))
        if number == 0:
            assert describe_best(standing) == "Pareto front: 1 trial"
        if number == 3:
            assert [n for n, _ in standing.best] == [0, 2]
    assert standing.best == [(4, (0.6, 0.4)), (5, (0.9, 0.9))]
    assert describe_best(standing) == "Pareto front: 2 trials"


def test_the_remaining_time_is_that_of_trials_like_those_so_far() -> None:
    standing = Standing(10, 2)
    assert standing.remaining_s() is None
    standing.update(view(0, "FAILED", elapsed_s=0.1))
    assert standing.remaining_s() is None  # says nothing about the others
    standing.update(view(10, "COMPLETE", 0.5, earlier=True, elapsed_s=0.0))
    assert standing.remaining_s() is None  # nobody knows how long it took
    standing.total = 11
    standing.update(view(1, "COMPLETE", 0.5, elapsed_s=30.0))
    standing.update(view(2, "PRUNED", 0.5, elapsed_s=10.0))
    assert standing.remaining_s() == 7 * 20 / 2
    standing.update(view(3, "RUNNING", 0.5, elapsed_s=5.0))
    standing.update(view(3, "RUNNING", 0.5, elapsed_s=15.0))
    standing.update(view(4, "RUNNING", elapsed_s=500.0))  # longer than the mean: the others take their time still
    assert standing.remaining_s() == (7 * 20 - 15 - 20) / 2
    assert describe_progress(standing) == "4/11  52s left"
    for number in range(3, 9):
        standing.update(view(number, "COMPLETE", 0.5, elapsed_s=20.0))
    assert standing.remaining_s() == 20  # one trial is left, and the other slot is idle
    standing.update(view(9, "COMPLETE", 0.5))
    assert describe_progress(standing) == "11/11"


def test_an_unknown_number_of_trials_has_no_remaining_time() -> None:
    standing = Standing(None, 2)
    standing.update(view(1, "COMPLETE", 0.5))
    assert standing.remaining_s() is None
    assert describe_progress(standing) == "1 done"


def test_lines_of_trials() -> None:
    stream = io.StringIO()
    display = StudyDisplay(stream, clock=Clock())
    start(display)
    display.study_id("f00d")
    display.trial(view(0, "RUNNING"))
    display.trial(view(0, "RUNNING", 0.25, fraction=0.5))
    display.trial(view(0, "COMPLETE", 0.5))
    display.trial(view(1, "FAILED", note="ValueError: no"))
    many = {f"algorithm.p{i}": i for i in range(8)}
    display.trial(view(2, "PRUNED", 0.25, parameters=many))
    assert stream.getvalue().splitlines()[3:] == [
        "trial 0  COMPLETE  evaluate/accuracy 0.5  learning_rate 0.001235  optimizer.kind adam  "
        "best 0.5 (trial 0)  1/10  45s left",
        "trial 1  FAILED  ValueError: no  learning_rate 0.001235  optimizer.kind adam  "
        "best 0.5 (trial 0)  2/10  40s left",
        "trial 2  PRUNED  evaluate/accuracy 0.25  p0 0  p1 1  p2 2  p3 3  p4 4  p5 5  and 2 more  "
        "best 0.5 (trial 0)  3/10  35s left",
    ]


def test_a_line_names_every_metric_and_a_failure_before_the_first_best() -> None:
    stream = io.StringIO()
    display = StudyDisplay(stream, clock=Clock())
    start(display, None, 2, "evaluate/accuracy", "evaluate/loss")
    display.study_id("f00d")
    display.trial(view(0, "FAILED", parameters={}))
    display.trial(view(1, "COMPLETE", 0.5, 0.25, parameters={}))
    assert stream.getvalue().splitlines()[1:] == [
        "tiny: maximize evaluate/accuracy, minimize evaluate/loss, trials, 2 at a time, in /runs/study",
        "MLflow run f00d",
        "trial 0  FAILED  1 done",
        "trial 1  COMPLETE  evaluate/accuracy 0.5  evaluate/loss 0.25  Pareto front: 1 trial  2 done",
    ]


def test_trials_of_an_earlier_session_count_but_are_no_news() -> None:
    for kind in (StudyDisplay, LiveStudyDisplay):
        stream = Terminal()
        display = kind(stream, clock=Clock())
        start(display)
        display.study_id("f00d")
        display.trial(view(0, "COMPLETE", 0.75, earlier=True))
        display.trial(view(1, "FAILED", earlier=True, note="long ago"))
        display.trial(view(2, "FAILED", note="just now"))
        display.close()
        shown = stream.getvalue()
        assert "long ago" not in shown
        assert "best 0.75 (trial 0)  3/10" in shown


def test_the_name_is_the_first_and_the_last_line_and_is_there_at_once() -> None:
    stream = io.StringIO()
    display = StudyDisplay(stream, clock=Clock())
    start(display, 1)
    assert stream.getvalue().splitlines() == [
        "study",
        "tiny: maximize evaluate/accuracy, 1 trial, 2 at a time, in /runs/study",
    ]
    assert (display.known_id, display.continuation) == ("study", "rayloom search --resume study")
    display.study_id("f00d")
    assert display.known_id == "f00d"
    display.trial(view(0, "COMPLETE", 0.5))
    display.finished(result())
    lines = stream.getvalue().splitlines()
    assert lines[2] == "MLflow run f00d" and lines[3].startswith("trial 0")
    assert lines[-1] == "study"


def test_quiet_is_the_name_failures_and_the_result() -> None:
    stream = io.StringIO()
    display = make_study_observer(stream, quiet=True)
    start(display, 2)
    display.trial(view(0, "COMPLETE", 0.5))
    display.trial(view(1, "FAILED", note="ValueError: no"))
    display.finished(result())
    shown = stream.getvalue()
    assert "trial 0  COMPLETE" not in shown and "trial 1  FAILED  ValueError: no" in shown
    assert shown.startswith("study\n") and shown.endswith("\nstudy\n")


def test_the_closing_table_says_everything() -> None:
    assert closing_study_table(result(), "rayloom ui") == "\n".join(
        [
            "  best evaluate/accuracy           0.9877 (maximize)",
            "  best trial                       7",
            "  learner.optimizer.learning_rate  0.00123456789",
            "  learner.optimizer.kind           adam",
            "  algorithm.hidden_sizes           [64, 64]",
            "  trials                           8 complete, 2 pruned",
            "  status                           FINISHED",
            "  duration                         3m05s",
            "  study                            study",
            "  MLflow run                       f00d",
            "  folder                           /runs/study",
            "  best config                      /runs/study/best.yaml",
            "  run it                           rayloom run /runs/study/best.yaml",
            "  look at it                       rayloom ui",
        ]
    )


def test_the_closing_table_of_a_study_that_was_stopped() -> None:
    stopped = result(status="KILLED", best_config=Path("/my runs/best.yaml"))
    rows = closing_study_table(stopped).splitlines()
    assert rows[-1].split(maxsplit=2)[2] == "rayloom search --resume study"
    assert rows[-2].endswith("rayloom run '/my runs/best.yaml'")
    nothing = result(status="FAILED", best_number=None, best_values=None, best_parameters={}, best_config=None,
                     counts={"FAILED": 3}, pareto=())  # fmt: skip
    names = [row[2:].split("  ")[0] for row in closing_study_table(nothing).splitlines()]
    assert names == ["best trial", "trials", "status", "duration", "study", "MLflow run", "folder", "continue it"]
    assert "none: no trial was complete" in closing_study_table(nothing)


def test_the_closing_table_of_several_metrics_has_the_front() -> None:
    both = result(metrics=("evaluate/accuracy", "evaluate/loss"), directions=("maximize", "minimize"),
                  best_values=(0.9, 0.1), pareto=(3, 7))  # fmt: skip
    rows = closing_study_table(both).splitlines()
    assert rows[1].split() == ["best", "evaluate/loss", "0.1", "(minimize)"]
    assert "  Pareto front                     trials 3, 7" in rows
    assert "Pareto" not in closing_study_table(result())


def test_a_study_that_was_not_tracked_is_not_to_be_looked_at_in_the_ui() -> None:
    for changes, hints in (({"enabled": False}, 0), ({"output": "elsewhere"}, 1)):
        stream = io.StringIO()
        display = StudyDisplay(stream, clock=Clock())
        start(display, **changes)
        display.finished(result())
        assert stream.getvalue().count("rayloom ui") == hints
        assert stream.getvalue().count("rayloom ui --output elsewhere\n") == hints


@pytest.mark.parametrize("kind", [StudyDisplay, LiveStudyDisplay])
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.EIO, "the terminal was closed")])
@pytest.mark.parametrize("writes", [0, 3])
def test_a_reader_that_goes_away_does_not_end_the_study(kind: Any, error: OSError, writes: int) -> None:
    stream = Broken(writes, error)
    display = kind(stream, clock=Clock())
    start(display)
    display.study_id("f00d")
    for number in range(3):
        display.trial(view(number, "FAILED"))
    display.finished(result())
    assert stream.left == 0


def test_a_reader_that_went_away_gets_nothing_more() -> None:
    stream = Broken(0, BrokenPipeError())
    display = StudyDisplay(stream, clock=Clock())
    display.study_id("f00d")
    stream.left = 9
    display.note("half a story")
    assert stream.getvalue() == ""


def test_a_full_disk_is_not_hidden() -> None:
    display = StudyDisplay(Broken(0, OSError(errno.ENOSPC, "no space")), clock=Clock())
    with pytest.raises(OSError, match="no space"):
        display.study_id("f00d")


def test_a_terminal_gets_a_live_table_and_a_pipe_gets_lines() -> None:
    assert isinstance(make_study_observer(Terminal()), LiveStudyDisplay)
    assert type(make_study_observer(Terminal(), json=True)) is StudyDisplay
    assert type(make_study_observer(io.StringIO())) is StudyDisplay


def table_of(display: LiveStudyDisplay, width: int, height: int = 40) -> list[str]:
    """Return the lines that a terminal of that size would show, without colours."""
    display._console.size = (width, height)  # type: ignore[assignment]
    stream = io.StringIO()
    Console(file=stream, width=width, height=height).print(display._render())
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def filled(finished: int, running: int, clock: Clock | None = None) -> LiveStudyDisplay:
    """Return a display of so many trials, which draws only when it is asked to."""
    display = LiveStudyDisplay(Terminal(), clock=clock or Clock())
    start(display, 20)
    display._live.stop()
    for number in range(finished):
        display.trial(view(number, "COMPLETE" if number % 2 == 0 else "PRUNED", number / 10, fraction=1.0))
    for number in range(finished, finished + running):
        display.trial(view(number, "RUNNING", fraction=0.25, elapsed_s=2.0))
    return display


def test_the_table_has_running_and_finished_trials() -> None:
    clock = Clock()
    display = filled(3, 1, clock)
    clock.now += 3
    assert table_of(display, 100) == [
        "trial  state     evaluate/accuracy  done  time  learning_rate  optimizer.kind",
        "    0  COMPLETE                  0  100%   10s       0.001235            adam",
        "    1  PRUNED                  0.1  100%   10s       0.001235            adam",
        "   *2  COMPLETE                0.2  100%   10s       0.001235            adam",
        "    3  RUNNING                       25%    5s       0.001235            adam",
        "3/20  1m24s left  (2 complete, 1 pruned, 1 running)  best 0.2 (trial 2)",
    ]


def test_columns_go_as_far_as_the_width_allows() -> None:
    display = filled(1, 0)
    display.trial(view(1, "COMPLETE", 0.5, parameters={"algorithm.sizes": [64] * 20, "x": "[b]"}))
    wide = table_of(display, 120)
    assert "not shown" not in "".join(wide)
    assert "  [64, 64, 64, 64, …  [b]" in wide[2]
    assert wide[2].endswith("[b]")  # not taken for a style
    narrow = table_of(display, 62)
    assert narrow[0].split() == ["trial", "state", "evaluate/accuracy", "done", "time", "learning_rate"]
    assert narrow[-1] == "not shown: optimizer.kind, sizes, x"
    assert all(len(line) <= 62 for line in narrow)
    assert all(len(line) <= 20 for line in table_of(display, 20))


def test_rows_go_as_far_as_the_height_allows() -> None:
    def numbers(display: LiveStudyDisplay, height: int) -> list[int]:
        return [int(line.split()[0].lstrip("*")) for line in table_of(display, 100, height)[1:-1]]

    display = filled(15, 3)
    assert numbers(display, 40) == list(range(3, 18))  # the newest twelve and the running ones
    assert numbers(display, 11) == list(range(12, 18))
    assert numbers(display, 7) == [15, 16]
    assert numbers(display, 1) == [15]
    assert numbers(filled(2, 0), 40) == [0, 1]


def test_rows_are_coloured_by_state() -> None:
    display = filled(2, 1)
    table = display._table()[0]
    assert [row.style for row in table.rows] == ["green", "dim", "yellow"]
    assert all(isinstance(cell, Text) for column in table.columns for cell in column.cells)


def test_a_live_study_ends_with_the_same_table_and_gives_the_cursor_back() -> None:
    stream = Terminal()
    display = LiveStudyDisplay(stream, clock=Clock())
    start(display)
    display.study_id("f00d")
    display.trial(view(0, "RUNNING"))
    display.trial(view(0, "COMPLETE", 0.5))
    display.trial(view(1, "FAILED", note="[a remark] in brackets"))
    display.finished(result())
    display.close()
    shown = stream.getvalue()
    assert shown.index("study") < shown.index("2 at a time, in /runs/study")  # nothing is printed above the name
    assert "trial 1  FAILED  [a remark] in brackets" in shown
    assert "trial 0  COMPLETE" not in shown  # stands in the table
    assert shown.endswith(closing_study_table(result(), "rayloom ui") + "\nstudy\n")
    assert "\x1b[2K" in shown[shown.rindex("\x1b[?25h") :]  # the table is wiped away
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_the_terminal_is_given_back_after_a_failure() -> None:
    stream = Terminal()
    display = LiveStudyDisplay(stream, clock=Clock())
    start(display)
    display.close()
    display.close()
    shown = stream.getvalue()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "in /runs/study" in shown
