"""Shows a run while it trains: a live progress bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import errno
import math
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from rayloom.runs.observer import Observer, Report, Result
from rayloom.timeline import is_percentage

if TYPE_CHECKING:
    from rayloom.config.schema import RunConfig
    from rayloom.runs.plan import Plan

MAIN_METRICS = ("evaluate/return_mean", "train/return_mean", "evaluate/accuracy", "evaluate/loss", "train/loss")
"""The one metric that stands beside the progress bar: the first of these that the run has."""
LEADING_COUNTERS = ("env_steps", "samples", "updates")
"""The counter whose rate is shown: the first of these that the run has."""
LINE_INTERVAL_S = 3.0
DEFAULT_OUTPUT = "rayloom-runs"
_BAR_STEPS = 1000
_BAR_WIDTH = 16
_AROUND = _BAR_WIDTH + len(" 100% ")
"""Columns that the bar and the percentage take."""


def format_value(value: float) -> str:
    """Return a metric with four significant digits, without exponent where that stays readable."""
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.3e}")
    if rounded != 0 and not 1e-4 <= abs(rounded) < 1e9:
        return f"{rounded:.4g}"
    if abs(rounded) >= 1000:
        return f"{rounded:.0f}"
    return f"{rounded:.7f}".rstrip("0").rstrip(".") if abs(rounded) < 1 else f"{rounded:.4g}"


def format_duration(seconds: float) -> str:
    """Return seconds as 12s, 3m05s or 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def format_table(rows: Mapping[str, str]) -> str:
    """Return names and values as two aligned columns, without a final newline."""
    width = max((len(name) for name in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())


def main_metric(metrics: Mapping[str, float]) -> str | None:
    """Return the name of the metric that tells most about the run, or None."""
    return next((name for name in MAIN_METRICS if name in metrics), None)


def closing_table(result: Result, duration_s: float, hint: str = "") -> str:
    """Return what a person wants to know at the end: metrics, counters, and where everything is.

    `duration_s` is in seconds; `hint` says how to look at the run, where it was tracked.
    """
    evaluated = {name: value for name, value in sorted(result.metrics.items()) if name.startswith("evaluate/")}
    # What there is to say about the timelines is the advice; the curves are in MLflow.
    others = {
        name: value
        for name, value in sorted(result.metrics.items())
        if name not in evaluated and not is_percentage(name)
    }
    rows = {name: format_value(value) for name, value in {**evaluated, **others}.items()}
    rows |= {name: f"{count:,}" for name, count in result.counters.items()}
    rows |= {
        "status": f"{result.status} ({result.stopped_by})" if result.stopped_by else result.status,
        "duration": format_duration(duration_s),
        "run": result.run_dir.name,
        **({"MLflow run": result.run_id} if result.run_id != result.run_dir.name else {}),
        "folder": str(result.run_dir),
    }
    return format_table({**rows, "look at it": hint} if hint else rows)


def ui_hint(tracking_uri: str, output: str) -> str:
    """Return how to open the MLflow UI on the store of a run."""
    if tracking_uri.startswith(("http://", "https://")):
        return tracking_uri
    return "rayloom ui" if output == DEFAULT_OUTPUT else f"rayloom ui --output {shlex.quote(output)}"


class Pace:
    """Speed and remaining time, measured from the first report so that a resumed run is judged by itself alone."""

    def __init__(self) -> None:
        """Start without a measurement."""
        self._first: Report | None = None

    def update(self, report: Report) -> tuple[str, str]:
        """Return the rate ("1200 env_steps/s") and the remaining time ("3m05s"); empty while unknown."""
        first = self._first = self._first or report
        seconds = report.elapsed_s - first.elapsed_s
        if seconds <= 0:
            return "", ""
        counter = next((name for name in LEADING_COUNTERS if name in report.counters), None)
        rate = ""
        if counter is not None:
            done = report.counters[counter] - first.counters.get(counter, 0)
            rate = f"{format_value(done / seconds)} {counter}/s"
        share = report.fraction - first.fraction
        remaining = format_duration((1 - report.fraction) * seconds / share) if share > 0 else ""
        return rate, remaining


class LastingStream:
    """A stream that goes on when its reader went away (`rayloom run ... | head -1`) or the terminal was closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            action()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO) and not isinstance(error, BrokenPipeError):
                raise
            self._gone = True


class NamedLines:
    """Lines on a stream, of which the first is the name of the run or study: what it is resumed by is known at once."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`, which stays open; that its reader goes away is no reason to end the training."""
        self._stream = cast(TextIO, LastingStream(stream))
        self.known_id: str | None = None
        """MLflow's id of what is watched; its name until that is known, None before it has begun."""
        self.continuation: str | None = None
        """Command that goes on with it."""

    def _name(self, name: str, command: str, output: str) -> None:
        """Print the name; `command` continues what it names, which lies in the folder `output`."""
        self.known_id = name
        elsewhere = "" if output == DEFAULT_OUTPUT else f" --output {shlex.quote(output)}"
        self.continuation = f"{command} {name}{elsewhere}"
        self._write(name)

    def _identify(self, tracked_id: str) -> None:
        """Note MLflow's id, or the name again where there is none."""
        if tracked_id != self.known_id:
            self._write(f"MLflow run {tracked_id}")
        self.known_id = tracked_id

    def _write(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Display(NamedLines, Observer):
    """Plain lines on a stream: the run's name first and last, a line every few seconds, a table at the end.

    `stream` gets the lines; `interval_s` is the least time between two reports, by `clock` (both in seconds).
    """

    def __init__(
        self, stream: TextIO, interval_s: float = LINE_INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write to `stream`, which stays open."""
        super().__init__(stream)
        self._interval_s = interval_s
        self._clock = clock
        self._begin = clock()
        self._last_line_at = -math.inf
        self._unprinted: Report | None = None
        self._pace = Pace()
        self._pace_texts = ("", "")
        self._output = DEFAULT_OUTPUT
        self._tracked = True

    def started(self, config: RunConfig, plan: Plan, run_dir: Path) -> None:
        """Show what will run and where."""
        self._begin_run(config, run_dir)
        self._write(f"{config.name}: {config.algorithm_path}, seed {config.seed}, in {run_dir}")
        for line in plan.describe().rstrip("\n").splitlines():
            self._write(line)

    def _begin_run(self, config: RunConfig, run_dir: Path) -> None:
        self._output = config.output
        self._tracked = config.tracking.enabled
        self._name(run_dir.name, "rayloom resume", config.output)

    def run_id(self, run_id: str) -> None:
        """Print MLflow's id."""
        self._identify(run_id)

    def report(self, report: Report) -> None:
        """Print one line, unless the last one is too fresh."""
        self._pace_texts = self._pace.update(report)
        self._unprinted = report
        if self._clock() - self._last_line_at >= self._interval_s:
            self._print_report()

    def note(self, text: str) -> None:
        """Print a remark."""
        self._write(text)

    def finished(self, result: Result) -> None:
        """Print the last report, the closing table and the run's name."""
        if self._unprinted is not None:
            self._print_report()
        self.close()
        hint = ui_hint(result.tracking_uri, self._output) if self._tracked else ""
        self._write(closing_table(result, self._clock() - self._begin, hint))
        if result.advice:
            self._write(f"advice: {result.advice}")
        self._write(result.run_dir.name)

    def close(self) -> None:
        """Give the terminal back; called however the run ended. Idempotent."""

    def _print_report(self) -> None:
        assert self._unprinted is not None
        self._write(f"{self._unprinted.fraction:4.0%}  {self._describe(self._unprinted)}")
        self._unprinted = None
        self._last_line_at = self._clock()

    def _describe(self, report: Report, width: int | None = None) -> str:
        """Return what a report says; in `width` columns what matters most of it."""
        rate, remaining = self._pace_texts
        leading = next((name for name in LEADING_COUNTERS if name in report.counters), None)
        # (importance, text): the smallest number stays longest.
        parts = [(2 if name == leading else 4, f"{name} {count:,}") for name, count in report.counters.items()]
        name = main_metric(report.metrics)
        if name is not None:
            parts.append((0, f"{name} {format_value(report.metrics[name])}"))
        if rate:
            parts.append((3, rate))
        if remaining and report.fraction < 1:
            parts.append((1, f"{remaining} left"))
        while width is not None and len(parts) > 1 and len("  ".join(text for _, text in parts)) > width:
            parts.remove(max(parts, key=lambda part: part[0]))
        return "  ".join(text for _, text in parts)


class LiveDisplay(Display):
    """A progress bar that redraws itself on a terminal; remarks scroll above it."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw on `stream`, a terminal, from `started` to `finished`."""
        super().__init__(stream, clock=clock)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.percentage:3.0f}%", markup=False),
            TextColumn("{task.description}", markup=False),
            console=Console(file=self._stream, highlight=False, markup=False, soft_wrap=True),
            transient=True,
            refresh_per_second=4,
        )
        self._task: Any = None

    def started(self, config: RunConfig, plan: Plan, run_dir: Path) -> None:
        """Start drawing; what will run and where is printed under the run's name."""
        super().started(config, plan, run_dir)
        self._task = self._progress.add_task("starting", total=_BAR_STEPS)
        self._progress.start()

    def report(self, report: Report) -> None:
        """Redraw the bar."""
        self._pace_texts = self._pace.update(report)
        if self._task is not None:
            text = self._describe(report, self._progress.console.width - _AROUND)
            self._progress.update(self._task, completed=report.fraction * _BAR_STEPS, description=text)

    def close(self) -> None:
        """Stop drawing and show the cursor again."""
        self._progress.stop()
        super().close()

    def _write(self, text: str) -> None:
        if self._progress.live.is_started:
            self._progress.console.print(text)
        else:
            super()._write(text)


class QuietDisplay(Display):
    """The name, remarks and the result."""

    def started(self, config: RunConfig, plan: Plan, run_dir: Path) -> None:
        """Print the name alone."""
        self._begin_run(config, run_dir)

    def report(self, report: Report) -> None:
        """Print nothing."""


class VerboseDisplay(Display):
    """Plain lines: at the start the settings that are not as by default, then every metric at every log step."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `stream`, which stays open."""
        super().__init__(stream, interval_s=0.0, clock=clock)

    def started(self, config: RunConfig, plan: Plan, run_dir: Path) -> None:
        """Show what will run, where, and by which settings."""
        super().started(config, plan, run_dir)
        self._write(config.to_yaml(changed=True).rstrip("\n"))

    def _print_report(self) -> None:
        report = self._unprinted
        super()._print_report()
        if report is not None and report.metrics:
            self._write(format_table({name: format_value(value) for name, value in sorted(report.metrics.items())}))


def make_observer(stream: TextIO, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> Display:
    """Return a live display where `stream` is a terminal that nobody parses, and plain lines elsewhere."""
    if quiet or verbose:
        return QuietDisplay(stream) if quiet else VerboseDisplay(stream)
    return LiveDisplay(stream) if stream.isatty() and not json else Display(stream)
