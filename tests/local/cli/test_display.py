"""The progress display: what a person and a pipe see of a run."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest

from rayloom.cli.run_display import (
    Display,
    LiveDisplay,
    Pace,
    closing_table,
    format_duration,
    format_table,
    format_value,
    main_metric,
    make_observer,
    ui_hint,
)
from rayloom.runs.observer import Report, Result
from rayloom.runs.plan import make_plan
from tiny_algorithm import loader


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


class ClosedPipe(io.StringIO):
    """A stream whose reader goes away after so many lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.left = lines

    def write(self, text: str) -> int:
        if self.left <= 0:
            raise BrokenPipeError
        self.left -= text.count("\n")
        return super().write(text)


def report(fraction: float = 0.25, elapsed_s: float = 10.0, **metrics: float) -> Report:
    """Return a report of a run with a thousand environment steps."""
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    counters = {"updates": round(fraction * 100), "env_steps": round(fraction * 4000)}
    return Report(counters=counters, metrics=names, fraction=fraction, elapsed_s=elapsed_s)


def result(**changes: Any) -> Result:
    """Return the result of a finished run."""
    values: dict[str, Any] = {
        "run_id": "f00d",
        "status": "FINISHED",
        "metrics": {"train/loss": 0.123456, "evaluate/return_mean": 481.25},
        "counters": {"updates": 1234, "env_steps": 98765},
        "weights_sha256": "ab" * 32,
        "run_dir": Path("/runs/here"),
        "tracking_uri": "sqlite:////runs/mlflow.db",
        "stopped_by": "evaluate/return_mean >= 475",
    }
    return Result(**{**values, **changes})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (475.0, "475"),
        (0.98765, "0.9877"),
        (0.5, "0.5"),
        (12.3456, "12.35"),
        (999.96, "1000"),
        (1234.5, "1234"),
        (123456.7, "123500"),
        (-3.14159, "-3.142"),
        (0.001, "0.001"),
        (0.00012344, "0.0001234"),
        (0.00001234567, "1.235e-05"),
        (1.5e12, "1.5e+12"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_metrics_have_four_significant_digits(value: float, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.6, "1s"), (59.4, "59s"), (59.6, "1m00s"), (185, "3m05s"), (3599.6, "1h00m"), (7620, "2h07m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_tables_are_aligned() -> None:
    assert format_table({"a": "1", "long name": "2"}) == "  a          1\n  long name  2"
    assert format_table({}) == ""


def test_the_main_metric_is_the_first_that_exists() -> None:
    everything = ["train/loss", "evaluate/loss", "evaluate/accuracy", "train/return_mean", "evaluate/return_mean"]
    for _ in range(5):
        assert main_metric(dict.fromkeys(everything, 1.0)) == everything[-1]
        everything.pop()
    assert main_metric({"train/entropy": 1.0}) is None


def test_pace_is_measured_from_the_first_report() -> None:
    pace = Pace()
    # A resumed run: half is done, and its first report comes after two seconds.
    assert pace.update(report(0.5, 2.0)) == ("", "")
    # A tenth of the budget (400 steps) in ten seconds: 40 a second, and the missing 40 % take 40 seconds.
    assert pace.update(report(0.6, 12.0)) == ("40 env_steps/s", "40s")
    assert pace.update(report(0.7, 32.0)) == ("26.67 env_steps/s", "45s")


def test_pace_knows_samples_and_updates_and_nothing() -> None:
    def at(seconds: float, **counters: int) -> Report:
        return Report(counters=counters, metrics={}, fraction=0.0, elapsed_s=seconds)

    for counters, rate in (
        ({"samples": 500, "updates": 5}, "500 samples/s"),
        ({"updates": 5}, "5 updates/s"),
        ({}, ""),
    ):
        pace = Pace()
        pace.update(at(1.0, **dict.fromkeys(counters, 0)))
        assert pace.update(at(2.0, **counters)) == (rate, "")


def test_lines_come_at_most_every_interval_and_the_last_always() -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display(stream, interval_s=3.0, clock=clock)
    display.run_id("f00d")
    for second in range(8):
        clock.now = 100.0 + second
        display.report(report(second / 10, float(second), evaluate__return_mean=second))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "MLflow run f00d"
    assert [line.split()[0] for line in lines[1:]] == ["0%", "30%", "60%"]
    assert (
        lines[2] == "30%".rjust(4) + "  updates 30  env_steps 1,200  evaluate/return_mean 3  400 env_steps/s  7s left"
    )
    display.finished(result())
    assert stream.getvalue().splitlines()[4].startswith(" 70%")  # held back by the interval, but the last one


def test_a_report_that_was_printed_is_not_printed_again() -> None:
    stream = io.StringIO()
    display = Display(stream, clock=Clock())
    display.run_id("f00d")
    display.report(report(1.0))
    display.finished(result())
    assert stream.getvalue().count("100%") == 1


def test_the_name_is_the_first_and_the_last_line_and_is_there_at_once(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = Display(stream, clock=Clock())
    config = loader(tmp_path)("", "seed=5", "output=my runs")
    assert (display.known_id, display.continuation) == (None, None)
    display.started(config, make_plan(config, local=True), Path("/runs/here"))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "here", "what the run is resumed by waits for nobody"
    assert lines[1] == f"tiny_run: {config.algorithm_path}, seed 5, in /runs/here"
    assert lines[2].split()[:2] == ["role", "count"]
    assert display.known_id == "here"
    assert display.continuation == "rayloom resume here --output 'my runs'"
    display.run_id("f00d")
    assert display.known_id == "f00d"
    display.note("an older checkpoint")
    display.finished(result())
    lines = stream.getvalue().splitlines()
    assert lines.index("MLflow run f00d") < lines.index("an older checkpoint")
    assert lines[-1] == "here"


def test_a_run_without_mlflow_has_its_name_alone(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = Display(stream, clock=Clock())
    config = loader(tmp_path)()
    display.started(config, make_plan(config, local=True), Path("/runs/here"))
    display.run_id("here")
    display.finished(result(run_id="here"))
    assert "MLflow" not in stream.getvalue()


def test_quiet_is_the_name_remarks_and_the_result(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = make_observer(stream, quiet=True)
    config = loader(tmp_path)()
    display.started(config, make_plan(config, local=True), Path("/runs/here"))
    display.report(report(0.5))
    display.note("a worker was replaced")
    display.finished(result())
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["here", "a worker was replaced"]
    assert lines[2].startswith("  evaluate/return_mean") and lines[-1] == "here"
    assert display.continuation is not None


def test_verbose_is_the_settings_and_every_metric_of_every_report(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = make_observer(stream, verbose=True)
    config = loader(tmp_path)()
    display.started(config, make_plan(config, local=True), Path("/runs/here"))
    assert config.to_yaml(changed=True) in stream.getvalue()
    display.report(Report({"updates": 1}, {"train/loss": 0.5, "train/odd": 7.0}, 0.1, 1.0))
    display.report(Report({"updates": 2}, {"train/loss": 0.25, "train/odd": 7.5}, 0.2, 1.1))
    table = stream.getvalue().splitlines()[-6:]
    assert table[0].startswith(" 10%") and table[3].startswith(" 20%")
    assert table[1:3] == ["  train/loss  0.5", "  train/odd   7"]
    assert table[4:] == ["  train/loss  0.25", "  train/odd   7.5"]


def test_the_closing_table_says_everything() -> None:
    assert closing_table(result(), 185.0, "rayloom ui") == "\n".join(
        [
            "  evaluate/return_mean  481.2",
            "  train/loss            0.1235",
            "  updates               1,234",
            "  env_steps             98,765",
            "  status                FINISHED (evaluate/return_mean >= 475)",
            "  duration              3m05s",
            "  run                   here",
            "  MLflow run            f00d",
            "  folder                /runs/here",
            "  look at it            rayloom ui",
        ]
    )
    killed = closing_table(result(status="KILLED", stopped_by="", metrics={}, counters={}), 0).splitlines()
    assert killed[0].split() == ["status", "KILLED"]
    assert [line.split()[0] for line in killed] == ["status", "duration", "run", "MLflow", "folder"]  # no hint, no row


def test_where_to_look() -> None:
    assert ui_hint("sqlite:////a/mlflow.db", "rayloom-runs") == "rayloom ui"
    assert ui_hint("sqlite:////a/mlflow.db", "elsewhere") == "rayloom ui --output elsewhere"
    assert ui_hint("http://tracker:5000", "elsewhere") == "http://tracker:5000"


def test_a_run_that_was_not_tracked_is_not_to_be_looked_at_in_the_ui(tmp_path: Path) -> None:
    for override, hints in (("tracking.enabled=false", 0), ("output=elsewhere", 1)):
        stream = io.StringIO()
        display = Display(stream, clock=Clock())
        config = loader(tmp_path)("", override)
        display.started(config, make_plan(config, local=True), Path("/runs/here"))
        display.finished(result())
        assert stream.getvalue().count("rayloom ui --output elsewhere\n") == hints
        assert stream.getvalue().count("rayloom ui") == hints


def test_advice_is_the_last_line_before_the_run_id() -> None:
    for stream, display_class in ((io.StringIO(), Display), (Terminal(), LiveDisplay)):
        display = display_class(stream, clock=Clock())
        display.run_id("f00d")
        display.finished(result(advice="the learner waited 71 % of the time"))
        end = "rayloom ui\nadvice: the learner waited 71 % of the time\nhere\n"
        assert stream.getvalue().endswith(end)


def test_the_table_leaves_percentages_of_time_to_the_advice() -> None:
    metrics = {"time/learner_wait_percent": 71.0, "time/wait_fraction": 0.71, "train/clip_percent": 3.0}
    rows = [line.split()[0] for line in closing_table(result(metrics=metrics), 1.0).splitlines()]
    assert rows[:2] == ["time/wait_fraction", "train/clip_percent"]


def test_the_duration_is_the_displays_own() -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display(stream, clock=clock)
    display.run_id("f00d")
    clock.now += 65
    display.finished(result())
    assert "duration              1m05s" in stream.getvalue()


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_reader_that_goes_away_does_not_end_the_run(lines: int) -> None:
    stream, clock = ClosedPipe(lines), Clock()
    display = Display(stream, interval_s=0.0, clock=clock)
    display.run_id("f00d")
    for step in range(5):
        display.report(report(step / 10, float(step)))
    display.finished(result())
    assert stream.getvalue().count("\n") == lines


def test_a_terminal_gets_a_live_bar_and_a_pipe_gets_lines() -> None:
    assert isinstance(make_observer(Terminal()), LiveDisplay)
    assert type(make_observer(Terminal(), json=True)) is Display
    assert type(make_observer(io.StringIO())) is Display


def test_the_live_display_ends_with_the_same_table_and_gives_the_cursor_back(tmp_path: Path) -> None:
    stream, clock = Terminal(), Clock()
    display = LiveDisplay(stream, clock=clock)
    config = loader(tmp_path)()
    display.started(config, make_plan(config, local=True), Path("/runs/here"))
    display.run_id("f00d")
    display.report(report(0.25, 1.0, train__loss=0.5))
    display.report(report(0.5, 2.0, train__loss=0.25))
    display.note("[a remark] in brackets")
    display.finished(result())
    shown = stream.getvalue()
    assert shown.index("here") < shown.index("seed 0, in /runs/here")  # nothing is printed above the name
    assert "[a remark] in brackets" in shown
    assert shown.endswith(closing_table(result(), 0.0, "rayloom ui") + "\nhere\n")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def bar_of(columns: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the bar of a run half way, on a terminal so wide."""
    monkeypatch.setenv("COLUMNS", str(columns))
    display = LiveDisplay(Terminal(), clock=Clock())
    display._task = display._progress.add_task("starting", total=1000)
    display.report(report(0.25, 1.0, train__loss=0.5))
    display.report(report(0.5, 2.0, train__loss=0.25))
    return display._progress.tasks[0]


def test_the_live_bar_shows_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    task = bar_of(200, monkeypatch)
    assert task.percentage == 50
    assert task.description == "updates 50  env_steps 2,000  train/loss 0.25  1000 env_steps/s  2s left"


def test_a_narrow_terminal_keeps_what_matters_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bar_of(82, monkeypatch).description == "env_steps 2,000  train/loss 0.25  1000 env_steps/s  2s left"
    assert bar_of(80, monkeypatch).description == "env_steps 2,000  train/loss 0.25  2s left"
    assert bar_of(52, monkeypatch).description == "train/loss 0.25  2s left"
    assert bar_of(30, monkeypatch).description == "train/loss 0.25"


def test_the_terminal_is_given_back_after_a_failure(tmp_path: Path) -> None:
    stream = Terminal()
    display = LiveDisplay(stream, clock=Clock())
    config = loader(tmp_path)()
    display.started(config, make_plan(config, local=True), Path("/runs/here"))
    display.close()
    display.close()
    shown = stream.getvalue()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "in /runs/here" in shown
