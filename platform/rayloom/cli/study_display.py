"""Shows a study while it runs: a live table of its trials on a terminal, a line for each finished trial elsewhere."""

from __future__ import annotations

import json as json_format
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rayloom.cli.run_display import DEFAULT_OUTPUT, NamedLines, format_duration, format_table, format_value, ui_hint
from rayloom.search.observer import STATES, Standing, StudyObserver, StudyResult, TrialView, short_names

if TYPE_CHECKING:
    from rich.table import Table

    from rayloom.config.schema import RunConfig

_STYLES = {"COMPLETE": "green", "PRUNED": "dim", "FAILED": "red", "RUNNING": "yellow"}
_MOST_PARAMETERS_IN_A_LINE = 6
_FINISHED_ROWS = 12
_WIDEST_CELL = 18
_COLUMN_GAP = 2
_LINES_AROUND_THE_TABLE = 5


def format_parameter(value: Any) -> str:
    """Return a sampled value in short: numbers with four significant digits, the rest as in YAML."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return format_value(value)
    return json_format.dumps(value, default=str)


def format_counts(counts: Mapping[str, int]) -> str:
    """Return trials by state as "8 complete, 2 pruned"."""
    return ", ".join(f"{counts[state]} {state.lower()}" for state in STATES if counts.get(state)) or "none"


def describe_best(standing: Standing) -> str:
    """Return "best 0.98 (trial 7)", or the size of the Pareto front; empty before the first complete trial."""
    if not standing.best:
        return ""
    if len(standing.directions) > 1:
        return f"Pareto front: {len(standing.best)} {'trial' if len(standing.best) == 1 else 'trials'}"
    number, values = standing.best[0]
    return f"best {format_value(values[0])} (trial {number})"


def describe_progress(standing: Standing) -> str:
    """Return "8/30  2m05s left", as far as that is known."""
    text = f"{standing.done}/{standing.total}" if standing.total is not None else f"{standing.done} done"
    seconds = standing.remaining_s()
    return f"{text}  {format_duration(seconds)} left" if seconds else text


def closing_study_table(result: StudyResult, hint: str = "") -> str:
    """Return what a person wants to know at the end: the best trial, how to run it, and where everything is.

    `hint` says how to look at the study, where it was tracked.
    """
    rows: dict[str, str] = {}
    if result.best_number is None:
        rows["best trial"] = "none: no trial was complete"
    else:
        for name, direction, value in zip(result.metrics, result.directions, result.best_values or (), strict=False):
            rows[f"best {name}"] = f"{format_value(value)} ({direction})"
        rows["best trial"] = str(result.best_number)
        rows |= {name: _exact(value) for name, value in result.best_parameters.items()}
    if len(result.metrics) > 1 and result.pareto:
        rows["Pareto front"] = "trials " + ", ".join(str(number) for number in result.pareto)
    rows |= {
        "trials": format_counts(result.counts),
        "status": result.status,
        "duration": format_duration(result.duration_s),
        "study": result.study_dir.name,
        **({"MLflow run": result.study_id} if result.study_id != result.study_dir.name else {}),
        "folder": str(result.study_dir),
    }
    if result.best_config is not None:
        rows["best config"] = str(result.best_config)
        rows["run it"] = f"rayloom run {shlex.quote(str(result.best_config))}"
    if result.status != "FINISHED":
        rows["continue it"] = f"rayloom search --resume {result.study_dir.name}"
    return format_table({**rows, "look at it": hint} if hint else rows)


def _exact(value: Any) -> str:
    """Return a sampled value with all its digits, to be copied."""
    return value if isinstance(value, str) else json_format.dumps(value, default=str)


class StudyDisplay(NamedLines, StudyObserver):
    """Plain lines on a stream: the study's name first and last, a line for each finished trial, a table at the end.

    `clock` (in seconds) tells how old the newest view of a running trial is.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `stream`, which stays open."""
        super().__init__(stream)
        self._clock = clock
        self._standing = Standing()
        self._metrics: tuple[str, ...] = ()
        self._output = DEFAULT_OUTPUT
        self._tracked = True
        self._names: dict[str, str] = {}

    def started(
        self,
        config: RunConfig,
        study_dir: Path,
        total: int | None,
        slots: int,
        metrics: tuple[str, ...],
        directions: tuple[str, ...],
    ) -> None:
        """Show what will be searched and where."""
        self._standing = Standing(total, slots, directions)
        self._metrics = metrics
        self._output = config.output
        self._tracked = config.tracking.enabled
        goal = ", ".join(f"{direction} {name}" for name, direction in zip(metrics, directions, strict=True))
        self._name(study_dir.name, "rayloom search --resume", config.output)
        count = "trials" if total is None else f"{total} {'trial' if total == 1 else 'trials'}"
        self._write(f"{config.name}: {goal}, {count}, {slots} at a time, in {study_dir}")

    def study_id(self, text: str) -> None:
        """Print MLflow's id."""
        self._identify(text)

    def trial(self, view: TrialView) -> None:
        """Print one line when a trial ends; one that ended before this process began is only counted."""
        self._take(view)
        if view.state != "RUNNING" and not view.earlier:
            self._write(self._describe(view))

    def note(self, text: str) -> None:
        """Print a remark."""
        self._write(text)

    def finished(self, result: StudyResult) -> None:
        """Print the closing table and the study's name."""
        self.close()
        hint = ui_hint(result.tracking_uri, self._output) if self._tracked else ""
        self._write(closing_study_table(result, hint))
        self._write(result.study_dir.name)

    def close(self) -> None:
        """Give the terminal back; called however the study ended. Idempotent."""

    def _take(self, view: TrialView) -> None:
        if not view.parameters.keys() <= self._names.keys():
            self._names = short_names([*self._names, *(key for key in view.parameters if key not in self._names)])
        self._standing.update(view)

    def _describe(self, view: TrialView) -> str:
        parts = [f"trial {view.number}", view.state]
        if view.values:
            parts += [f"{name} {format_value(v)}" for name, v in zip(self._metrics, view.values, strict=True)]
        if view.note:
            parts.append(view.note)
        shown = list(view.parameters.items())[:_MOST_PARAMETERS_IN_A_LINE]
        parts += [f"{self._names[key]} {format_parameter(value)}" for key, value in shown]
        if len(view.parameters) > len(shown):
            parts.append(f"and {len(view.parameters) - len(shown)} more")
        best = describe_best(self._standing)
        return "  ".join([*parts, *([best] if best else []), describe_progress(self._standing)])


class LiveStudyDisplay(StudyDisplay):
    """A table of the running and the newest finished trials that redraws itself; failures and remarks scroll above."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw on `stream`, a terminal, from `started` to `finished`."""
        super().__init__(stream, clock=clock)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=self._stream, highlight=False, markup=False, soft_wrap=True)
        # The table is drawn by a thread of `Live`. Nothing is printed under this lock: printing takes the lock of
        # `Live`, which the drawing thread holds when it asks for this one.
        self._lock = threading.Lock()
        self._told_at: dict[int, float] = {}
        self._newest: deque[TrialView] = deque(maxlen=_FINISHED_ROWS)
        self._live = Live(console=self._console, get_renderable=self._render, transient=True, refresh_per_second=4)

    def started(
        self,
        config: RunConfig,
        study_dir: Path,
        total: int | None,
        slots: int,
        metrics: tuple[str, ...],
        directions: tuple[str, ...],
    ) -> None:
        """Start drawing; what will be searched and where is printed under the study's name."""
        super().started(config, study_dir, total, slots, metrics, directions)
        self._live.start()

    def trial(self, view: TrialView) -> None:
        """Change the table; a failure is printed above it too, because it scrolls away inside."""
        with self._lock:
            self._take(view)
            self._told_at[view.number] = self._clock()
            if view.state != "RUNNING":
                self._told_at.pop(view.number)
                self._newest.append(view)
        if view.state == "FAILED" and not view.earlier:
            self._write(self._describe(view))

    def close(self) -> None:
        """Stop drawing and show the cursor again."""
        self._live.stop()
        super().close()

    def _write(self, text: str) -> None:
        if self._live.is_started:
            self._console.print(text)
        else:
            super()._write(text)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            best, progress = describe_best(self._standing), describe_progress(self._standing)
            counts = format_counts(self._standing.counts)
            table, hidden = self._table()
        lines = [f"{progress}  ({counts})" + (f"  {best}" if best else "")]
        if hidden:
            lines.append(f"not shown: {', '.join(hidden)}")
        return Group(table, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _rows(self) -> list[TrialView]:
        """Return what the terminal has room for: the newest finished trials, then the running ones."""
        room = max(1, self._console.size.height - _LINES_AROUND_THE_TABLE)
        running = [self._standing.running[number] for number in sorted(self._standing.running)][:room]
        return [*list(self._newest)[max(0, len(self._newest) - room + len(running)) :], *running]

    def _table(self) -> tuple[Table, list[str]]:
        """Return the table and the short names of the parameters that did not fit."""
        from rich.table import Table
        from rich.text import Text

        rows = self._rows()
        best = {number for number, _ in self._standing.best}
        columns: list[tuple[str, list[str]]] = [
            ("trial", [f"{'*' if view.number in best else ''}{view.number}" for view in rows]),
            ("state", [view.state for view in rows]),
            *(
                (name, [format_value(v.values[i]) if v.values else "" for v in rows])
                for i, name in enumerate(self._metrics)
            ),
            ("done", [f"{view.fraction:.0%}" for view in rows]),
            ("time", [format_duration(self._elapsed(view)) for view in rows]),
        ]
        always = len(columns)
        used = sum(_width(name, cells) for name, cells in columns)
        hidden: list[str] = []
        for key, name in self._names.items():
            cells = [format_parameter(v.parameters[key]) if key in v.parameters else "" for v in rows]
            used += min(_WIDEST_CELL + _COLUMN_GAP, _width(name, cells))
            if used - _COLUMN_GAP > self._console.size.width:
                hidden.append(name)
            else:
                columns.append((name, cells))
        table = Table(box=None, padding=(0, _COLUMN_GAP, 0, 0), pad_edge=False, show_edge=False)
        for index, (name, _) in enumerate(columns):
            justify: Any = "left" if name == "state" else "right"
            limit = None if index < always else _WIDEST_CELL
            table.add_column(Text(name), justify=justify, no_wrap=True, overflow="ellipsis", max_width=limit)
        for index, view in enumerate(rows):
            table.add_row(*(Text(cells[index]) for _, cells in columns), style=_STYLES[view.state])
        return table, hidden

    def _elapsed(self, view: TrialView) -> float:
        told_at = self._told_at.get(view.number)
        return view.elapsed_s if told_at is None else view.elapsed_s + self._clock() - told_at


def _width(name: str, cells: Sequence[str]) -> int:
    return max(map(len, [name, *cells])) + _COLUMN_GAP


class QuietStudyDisplay(StudyDisplay):
    """The name, remarks, failed trials and the result."""

    def trial(self, view: TrialView) -> None:
        """Print a line when a trial fails."""
        self._take(view)
        if view.state == "FAILED" and not view.earlier:
            self._write(self._describe(view))


def make_study_observer(stream: TextIO, *, json: bool = False, quiet: bool = False) -> StudyDisplay:
    """Return a live display where `stream` is a terminal that nobody parses, and plain lines elsewhere."""
    if quiet:
        return QuietStudyDisplay(stream)
    return LiveStudyDisplay(stream) if stream.isatty() and not json else StudyDisplay(stream)
