"""What commands of families are given: runs, parcels, and a way to add findings to a run that has ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rayloom.config.names import output_folder
from rayloom.contract import CommandHost, Figure, Learnt
from rayloom.errors import UserError
from rayloom.runs.folders import find_run_folder, load_run_config, read_result
from rayloom.runs.parcels import load_parcel, save_parcel
from rayloom.runs.weights import TrainedAlgorithm, build_trained, parse_which
from rayloom.tracking.tracker import STATUSES, Tracker

_PATIENCE_S = 60.0
"""How long a command waits until MLflow has what it recorded; the writer goes on without it."""


class RunHost(CommandHost):
    """Serves a command from the runs of one output folder."""

    def __init__(self, output: str, people: TextIO) -> None:
        self._output = output_folder(output)
        self.people = people

    def load(self, run: str, weights: str | None = None) -> Learnt:
        """Return what a run has learnt."""
        folder = find_run_folder(self._output, run)
        return self._learnt(folder, self._build(folder, weights))

    def load_parcel(self, folder: Path) -> Learnt:
        """Return what a parcel holds."""
        found = load_parcel(folder)
        return Learnt(folder.name, found.algorithm, found.config.source, found.weights, None, found.about)

    def save_parcel(self, run: str, weights: str | None, folder: Path, about: Mapping[str, Any]) -> Learnt:
        """Write a parcel of a run."""
        run_dir = find_run_folder(self._output, run)
        built = self._build(run_dir, weights)
        save_parcel(built, folder, about)
        return self._learnt(run_dir, built)

    def record(
        self, learnt: Learnt, name: str, files: Mapping[str, str | bytes], figures: Mapping[str, Figure]
    ) -> str | None:
        """Add files and figures to a run that has ended; its status, tags and parameters stay as they are."""
        if learnt.run_dir is None:
            return f"{learnt.name} is no run"
        config = load_run_config(learnt.run_dir)
        result = read_result(learnt.run_dir) or {}
        try:
            tracker = Tracker.start(
                learnt.run_dir,
                uri=config.tracking.uri or "",
                experiment=config.tracking.experiment or config.algorithm_path.split(".")[0],
                run_name=learnt.run_dir.name,
                params={},
                tags={},
                resume=True,
                enabled=config.tracking.enabled,
                system_metrics=False,
                pictures=config.tracking.pictures,
            )
        except UserError as error:
            return str(error)
        step = len(list((learnt.run_dir / "artifacts" / name).parent.glob("*/")))
        for file, content in files.items():
            tracker.log_content(f"{name}/{file}", content)
        for title, figure in figures.items():
            tracker.log_figure(title, figure, step)
        status = str(result.get("status"))
        if tracker.finish(status if status in STATUSES else "KILLED", timeout_s=_PATIENCE_S):
            return None
        return f"MLflow has not got it yet ({tracker.problem or 'it is slow'}); the next run there delivers it"

    def _build(self, folder: Path, weights: str | None) -> TrainedAlgorithm:
        which = None if weights is None else parse_which(weights, "--weights")
        built = build_trained(load_run_config(folder), folder, which)
        for note in built.weights.loaded.notes:
            print(note, file=self.people)
        return built

    def _learnt(self, folder: Path, built: TrainedAlgorithm) -> Learnt:
        built.algorithm.after_publish()
        return Learnt(folder.name, built.algorithm, built.config.source, str(built.weights), folder)
