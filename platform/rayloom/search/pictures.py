"""Draws a study as PNG files and tables: `python -m rayloom.search.pictures REQUEST.json`.

The request names the `storage` (a journal file or a database URL), the `study_name`, the `folder` to write to, and the
study's `metrics` and `directions`. Only the storage is read, so that this may run beside the study. The values of
parameters are those that the sampler saw: before a transform of the search space, lists by their items.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

import optuna
from matplotlib import pyplot
from matplotlib.category import StrCategoryFormatter
from matplotlib.ticker import NullFormatter
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from rayloom.redaction import redacted_output
from rayloom.runs.passwords import whole_storage
from rayloom.search.observer import short_names

_NICENESS = 10
_FEWEST_FOR_IMPORTANCES = 4
_MOST_LEGEND_ROWS = 20
_DOTS_PER_INCH = 110
_WIDEST_PICTURE = 6000
_LONGEST_LABEL = 24
_STATE_NAMES = {TrialState.FAIL: "FAILED"}


@dataclass(frozen=True)
class Request:
    """What to draw, and where."""

    storage: str
    """Path of an Optuna journal file, or the URL of a database; RAYLOOM_SEARCH_STORAGE has its password."""
    study_name: str
    """The study's name in the storage."""
    folder: Path
    """Where the files go; made if it does not exist."""
    metrics: tuple[str, ...]
    """Full names of the study's metrics, in the order of the values."""
    directions: tuple[str, ...]
    """maximize or minimize, one for each metric."""

    @classmethod
    def read(cls, path: Path) -> Request:
        """Read a request from its JSON file."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(tree[name]) for name in ("metrics", "directions")}
        return cls(
            storage=whole_storage(tree["storage"]), study_name=tree["study_name"], folder=Path(tree["folder"]), **lists
        )


def draw_study(request: Request) -> list[str]:
    """Write all pictures and tables that the study is good for; return one line for each that was left out."""
    request.folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), pyplot.rc_context():
        # Optuna's pictures are marked as experimental, and its evaluator remarks on conditional parameters.
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        trials = load_trials(request.storage, request.study_name)
        _write(request.folder / "trials.csv", lambda file: write_trials(trials, request.metrics, file))
        return _Drawing(request, trials).draw()


def load_trials(storage: str, study_name: str) -> list[Any]:
    """Return all trials of a study, in the order of their numbers.

    Raises FileNotFoundError where the journal does not exist, and KeyError where the storage has no such study.
    """
    opened: Any = storage
    if "://" not in storage:
        if not Path(storage).is_file():  # Optuna would make an empty one
            raise FileNotFoundError(f"there is no journal of a study at {storage}")
        opened = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    study = optuna.load_study(study_name=study_name, storage=opened)
    return sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)


def write_trials(trials: Sequence[Any], metrics: Sequence[str], file: IO[Any]) -> None:
    """Write a CSV table with one row for each trial; `duration_s` is in seconds, what does not apply is empty."""
    names = _parameter_names(trials)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", "state", *metrics, *names, "duration_s"])
    for trial in trials:
        values = trial.values or [None] * len(metrics)
        parameters = [_cell(trial.params[name]) if name in trial.params else "" for name in names]
        duration = trial.duration.total_seconds() if trial.duration is not None else ""
        state = _STATE_NAMES.get(trial.state, trial.state.name)
        writer.writerow([trial.number, state, *values, *parameters, duration])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parameter_names(trials: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.params))


class _Drawing:
    """The pictures of one study, from copies of its trials with short parameter names."""

    def __init__(self, request: Request, trials: Sequence[Any]) -> None:
        self._folder = request.folder
        self._metrics, self._directions = request.metrics, request.directions
        self._trials = trials
        self._names = short_names(_parameter_names(trials))
        self._complete = [trial for trial in trials if _usable(trial)]
        self._searched = len(_parameter_names(self._complete))
        self._left_out: list[str] = []

    def draw(self) -> list[str]:
        """Draw everything and return what was left out, and why."""
        if not self._complete:
            self._left_out.append("no trial was complete with finite values: no picture of values was drawn")
        else:
            importances = {}
            for index, metric in enumerate(self._metrics):
                ending = "" if len(self._metrics) == 1 else f"_{_slug(self._metrics, index)}"
                importances[metric] = self._one_metric(index, ending)
            if any(importances.values()):
                content = json.dumps({metric: found for metric, found in importances.items() if found}, indent=2)
                _write(self._folder / "importances.json", lambda file: file.write(content + "\n"))
            self._all_metrics()
        if any(trial.intermediate_values for trial in self._trials):
            self._intermediate_values()
        return self._left_out

    def _one_metric(self, index: int, ending: str) -> dict[str, float]:
        """Draw what shows one metric at a time; return the importances by the parameters' full names."""
        metric = self._metrics[index]
        study = self._copy([index])
        axes = plots.plot_optimization_history(study, target_name=metric)
        axes.set_title("")
        axes.set_xlabel("trial")
        for line in axes.lines:
            line.set(drawstyle="steps-post", label="best so far")
        axes.legend(loc="best")
        self._save(axes, f"history{ending}.png", (9, 5))
        if not self._searched:
            self._left_out.append(f"slices{ending}.png: the trials have no parameters")
            return {}
        axes = plots.plot_slice(study, target_name=metric)
        panels = list(np.atleast_1d(axes))
        panels[0].figure.suptitle("")
        for panel in panels:
            _label_slice(panel)
        self._save(axes, f"slices{ending}.png", (1.5 + 3.0 * len(panels) if len(panels) > 1 else 7, 4.5))
        return self._importances(study, index, ending)

    def _importances(self, study: Any, index: int, ending: str) -> dict[str, float]:
        reason = None
        if len(self._complete) < _FEWEST_FOR_IMPORTANCES:
            reason = f"fewer than {_FEWEST_FOR_IMPORTANCES} trials were complete"
        elif self._searched < 2:
            reason = "there is one parameter"
        elif len({trial.values[index] for trial in self._complete}) == 1:
            reason = f"all values of {self._metrics[index]} are equal"
        if reason is not None:
            self._left_out.append(f"importances{ending}.png: {reason}")
            return {}
        found = optuna.importance.get_param_importances(study)
        axes = plots.plot_param_importances(study, target_name=self._metrics[index])
        axes.set_title("", loc="left")
        axes.set_xlabel(f"importance for {self._metrics[index]}, in sum 1")
        axes.set_ylabel("")
        axes.get_legend().remove()
        self._save(axes, f"importances{ending}.png", (8, 1.5 + 0.45 * len(found)))
        full = {short: name for name, short in self._names.items()}
        return {full[name]: float(share) for name, share in found.items()}

    def _all_metrics(self) -> None:
        """Draw what shows all metrics at once."""
        study = self._copy(range(len(self._metrics)))
        if len(self._metrics) > 1:
            study.set_metric_names(list(self._metrics))
        if self._searched:
            axes = plots.plot_parallel_coordinate(study, target_name=self._metrics[0])
            _label_coordinates(axes)
            self._save(axes, "parallel_coordinates.png", (3 + 1.6 * (self._searched + len(self._metrics)), 5))
        if len(self._metrics) in (2, 3):
            axes = plots.plot_pareto_front(study, target_names=list(self._metrics))
            axes.set_title("")
            self._save(axes, "pareto_front.png", (8, 6))

    def _intermediate_values(self) -> None:
        study = self._copy(range(len(self._metrics)))
        axes = plots.plot_intermediate_values(study)
        axes.set_title("")
        axes.set_xlabel("step")
        axes.set_ylabel(self._metrics[0])
        if len(axes.lines) > _MOST_LEGEND_ROWS:  # Optuna's colours end there, and the legend would be a column
            axes.get_legend().remove()
            colors = matplotlib.colormaps["viridis"]
            shades = matplotlib.colors.Normalize(0, len(self._trials) - 1)
            for line in axes.lines:
                line.set_color(colors(shades(int(line.get_label().removeprefix("Trial")))))
            scale = matplotlib.cm.ScalarMappable(shades, colors)
            axes.figure.colorbar(scale, ax=axes, label="trial")
        self._save(axes, "intermediate_values.png", (9, 5))

    def _copy(self, indices: Sequence[int]) -> Any:
        """Return the study in memory, with some of its metrics and with short names; numbers stay as they are."""
        study = optuna.create_study(directions=[self._directions[index] for index in indices])
        for trial in self._trials:
            # Pruned trials lose their value: of the pictures of values, those of complete trials are compared.
            usable = _usable(trial)
            state = TrialState.FAIL if trial.state == TrialState.COMPLETE and not usable else trial.state
            study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=[trial.values[index] for index in indices] if usable else None,
                    params={self._names[name]: value for name, value in trial.params.items()},
                    distributions={self._names[name]: kind for name, kind in trial.distributions.items()},
                    intermediate_values=trial.intermediate_values,
                )
            )
        return study

    def _save(self, axes: Any, name: str, inches: tuple[float, float]) -> None:
        figure = np.atleast_1d(axes)[0].figure
        figure.set_size_inches(*inches)
        resolution = min(_DOTS_PER_INCH, _WIDEST_PICTURE / inches[0])
        _write(
            self._folder / name,
            lambda file: figure.savefig(file, format="png", dpi=resolution, bbox_inches="tight"),
            binary=True,
        )
        pyplot.close(figure)


def _label_slice(panel: Any) -> None:
    """Name a panel above instead of under its ticks, and write choices without quotes and slanted."""
    panel.set_title(panel.get_xlabel(), fontsize="medium")
    panel.set_xlabel("")
    formatter = panel.xaxis.get_major_formatter()
    if isinstance(formatter, StrCategoryFormatter):
        ticks = list(panel.get_xticks())
        labels = [label.strip("'")[:_LONGEST_LABEL] for label in formatter.format_ticks(ticks)]
        panel.set_xticks(ticks, labels, rotation=40, ha="right", rotation_mode="anchor")
        panel.set_xlim(-0.5, len(ticks) - 0.5)
    elif panel.get_xscale() == "log":
        low, high = panel.get_xlim()
        if any(low <= tick <= high for tick in panel.get_xticks()):
            panel.xaxis.set_minor_formatter(NullFormatter())
        else:
            panel.tick_params(axis="x", which="minor", labelrotation=60)


def _label_coordinates(axes: Any) -> None:
    """Make lines and labels readable: no grid, an axis for each parameter, labels on white; dark stays the best."""
    axes.set_title("")
    for label in axes.get_xticklabels():
        label.set(rotation=30, ha="right", rotation_mode="anchor")
    for place in axes.get_xticks():
        axes.axvline(place, color="grey", linewidth=0.8)
    lines = axes.collections[0]
    lines.set_cmap("viridis" if lines.get_cmap().name.endswith("_r") else "viridis_r")
    for scale in [other for other in axes.figure.axes if other is not lines.colorbar.ax]:
        scale.set_facecolor("white")
        scale.grid(False)
        for label in scale.get_yticklabels():
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})


def _usable(trial: Any) -> bool:
    return trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values))


def _slug(metrics: Sequence[str], index: int) -> str:
    """Return a metric's name as part of a file name, which no other metric of the study has."""
    slugs = ["".join(sign if sign.isalnum() else "_" for sign in metric) for metric in metrics]
    return slugs[index] if slugs.count(slugs[index]) == 1 else f"{slugs[index]}_{index}"


def _write(target: Path, write: Callable[[IO[Any]], Any], binary: bool = False) -> None:
    """Write a file aside and rename it, so that whoever uploads it never meets half of one."""
    aside = target.with_name(f".{target.name}.part")
    with aside.open("wb") if binary else aside.open("w", encoding="utf-8", newline="") as file:
        write(file)
    aside.replace(target)


def main(arguments: Sequence[str]) -> int:
    """Draw what the request file asks for; print what was left out on standard error."""
    os.nice(_NICENESS)
    for line in draw_study(Request.read(Path(arguments[0]))):
        print(line, file=sys.stderr)
    return 0


if __name__ == "__main__":
    with redacted_output():
        raise SystemExit(main(sys.argv[1:]))
