"""MLflow behind a small face: one run, addressed by its id, through MlflowClient. Runs in the writer process only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import requests
import sqlalchemy.exc
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from rayloom.database_urls import sqlite_path, sqlite_url
from rayloom.tracking.journal import NOT_FOR_ALL, Record, locked
from rayloom.tracking.location import artifact_location, told_of_store
from rayloom.tracking.views import EXPERIMENT_TAGS
from rayloom.tracking.writer.errors import METRICS_PER_BATCH, RefusedError, UnreachableError
from rayloom.tracking.writer.keys import hash_of, mlflow_key
from rayloom.tracking.writer.log import say

ITEMS_PER_BATCH = 100
LONGEST_PARAM = 6000
LONGEST_TAG = 5000
LONGEST_DIGEST = 36
JOURNAL_TAG = "rayloom.journal"
RENAMED_TAG = "rayloom.renamed/"
"""Followed by the hash at the end of a key that MLflow has; its value is that key, and the one that the run gave."""

_DATABASE_DEADLINE_S = 120.0
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")

MetricPoint = tuple[str, float, int, int]
"""Key, value, timestamp in milliseconds, step."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what MLflow and its transports raise into UnreachableError or RefusedError."""
    try:
        yield
    except MlflowException as error:
        kind = RefusedError if error.error_code in _REFUSALS else UnreachableError
        raise kind(_first_line(error)) from error
    except (requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        raise UnreachableError(f"{type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return told_of_store((str(error).splitlines() or [type(error).__name__])[0])[:500]


class Store:
    """Writes one run. Every method raises UnreachableError or RefusedError, and may be repeated after either."""

    def __init__(self, uri: str, run_dir: Path, client: MlflowClient | None = None) -> None:
        """Connect, or use the connection of another Store of the same `uri`."""
        self.uri = uri
        """With its password."""
        self.run_dir = run_dir
        self.run_id = ""
        self.experiment_id = ""
        self._renamed: set[str] = set()
        with translated():
            if client is None:
                _create_database(uri)
            self.client = client or MlflowClient(tracking_uri=uri)

    def attach(self, start: Record, known_id: str | None, tags: Mapping[str, str], search: bool) -> bool:
        """Find or create the run of a start record and set it RUNNING; True when it is one that MLflow did not have.

        A new run has `tags` from its first moment. A run is recognised by the tag `rayloom.journal`, so a creation
        whose answer was lost is not repeated; without `search` it is certain that there is none yet.
        """
        with translated():
            self.experiment_id = self._experiment(start["experiment"])
            run = self._existing_run(known_id)
            if run is None and search:
                run = next(iter(self._runs_of(start["journal"])), None)
            created = run is None
            if run is None:
                run = self.client.create_run(
                    self.experiment_id,
                    start_time=start["time"],
                    tags={JOURNAL_TAG: start["journal"], **tags},
                    run_name=start["name"],
                )
            self.run_id = run.info.run_id
            self.experiment_id = run.info.experiment_id
            if run.info.status != "RUNNING":
                self.client.update_run(self.run_id, status="RUNNING")
        return created

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":  # restoring it would bring back all its runs
            raise RefusedError(
                f"the experiment {name!r} was deleted; restore it (mlflow experiments restore --experiment-id "
                f"{found.experiment_id}), or set tracking.experiment to another"
            )
        if found is not None:
            return str(found.experiment_id)
        try:
            location = artifact_location(self.uri, self.run_dir)
            return str(self.client.create_experiment(name, location, tags=EXPERIMENT_TAGS))
        except MlflowException as error:
            # Another run created it between the two calls.
            found = self.client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return str(found.experiment_id)

    def _existing_run(self, run_id: str | None) -> Run | None:
        if run_id is None:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _runs_of(self, journal_id: str) -> list[Run]:
        """Return the runs of a journal, the oldest first."""
        condition = f"tags.`{JOURNAL_TAG}` = '{journal_id}'"
        runs = self.client.search_runs([self.experiment_id], condition, ViewType.ACTIVE_ONLY)
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def delete_twins(self, journal_id: str) -> int:
        """Delete runs that a slow server created from a request whose answer came too late; return how many."""
        with translated():
            twins = [run for run in self._runs_of(journal_id) if run.info.run_id != self.run_id]
            for run in twins:
                self.client.delete_run(run.info.run_id)
        return len(twins)

    def is_deleted(self) -> bool:
        """Tell whether somebody deleted the run."""
        with translated():
            return self._existing_run(self.run_id) is None

    def log_points(self, points: Sequence[MetricPoint]) -> list[str]:
        """Write metric points; a repeated point is stored once. Returns one line per point that MLflow refused."""
        self._tell_renamed([key for key, *_ in points])
        refused: list[str] = []
        for start in range(0, len(points), METRICS_PER_BATCH):
            batch = [Metric(mlflow_key(k), v, t, s) for k, v, t, s in points[start : start + METRICS_PER_BATCH]]
            refused += self._log_metrics(batch)
        return refused

    def _log_metrics(self, batch: list[Metric]) -> list[str]:
        """Write a batch; halve it where it is refused, until the culprit stands alone."""
        try:
            with translated():
                self.client.log_batch(self.run_id, metrics=batch)
        except RefusedError as error:
            if self.is_deleted():
                raise
            if len(batch) == 1:
                return [f"metric {batch[0].key} at step {batch[0].step}: {error}"]
            middle = len(batch) // 2
            return self._log_metrics(batch[:middle]) + self._log_metrics(batch[middle:])
        return []

    def log_params(self, params: Mapping[str, str]) -> None:
        """Write params; long values are cut. MLflow cannot change a param: a new value of it becomes a tag."""
        with translated():
            before = self.client.get_run(self.run_id).data.params
        self._tell_renamed(params)
        wanted = {mlflow_key(key): _cut(value, LONGEST_PARAM) for key, value in params.items()}
        new = [Param(key, value) for key, value in wanted.items() if key not in before]
        with translated():
            for start in range(0, len(new), ITEMS_PER_BATCH):
                self.client.log_batch(self.run_id, params=new[start : start + ITEMS_PER_BATCH])
        changed = {key: value for key, value in wanted.items() if before.get(key, value) != value}
        self.set_tags({f"rayloom.changed/{key}": value for key, value in changed.items()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Write tags; long values are cut."""
        self._tell_renamed(tags)
        self._set_tags(tags)

    def _tell_renamed(self, keys: Iterable[str]) -> None:
        """Say in tag and log which keys MLflow does not take as they are, each once."""
        renamed = {mlflow_key(key): key for key in keys if key not in self._renamed and mlflow_key(key) != key}
        if not renamed:
            return
        self._set_tags({RENAMED_TAG + hash_of(ours): f"{ours} stands for {key}" for ours, key in renamed.items()})
        for ours, key in renamed.items():
            say(f"MLflow takes no key {key!r}: it is {ours} there")
        self._renamed.update(renamed.values())

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        items = [RunTag(mlflow_key(key), _cut(str(value), LONGEST_TAG)) for key, value in tags.items()]
        with translated():
            for start in range(0, len(items), ITEMS_PER_BATCH):
                self.client.log_batch(self.run_id, tags=items[start : start + ITEMS_PER_BATCH])

    def log_data(self, record: Record) -> None:
        """Write the data set of a run, as the input from which it trains."""
        dataset = Dataset(
            name=record["name"],
            digest=record["digest"][:LONGEST_DIGEST],
            source_type="rayloom",
            source=record["source"],
            schema=record["fields"],
            profile=record["rows"],
        )
        training = InputTag(key="mlflow.data.context", value="training")
        with translated():
            self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [training])])

    def log_file(self, path: Path, folder: str | None) -> None:
        """Write an artifact."""
        if not path.is_file():
            raise RefusedError(f"{path} is gone")
        with translated():
            self.client.log_artifact(self.run_id, str(path), folder)

    def terminate(self, status: str, time_ms: int) -> None:
        """Set the terminal status."""
        with translated():
            self.client.set_terminated(self.run_id, status, time_ms)


def _create_database(uri: str) -> None:
    """Build a new sqlite store aside and move it in place: MLflow's first migration survives neither two writers nor
    a kill half way."""
    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(path.name + ".lock"), _DATABASE_DEADLINE_S) as held:
        if not held:
            raise UnreachableError(f"another process has been creating {path} for {_DATABASE_DEADLINE_S:g} s")
        if path.exists():
            return
        aside = path.with_name(f"{path.name}.{os.getpid()}.new")
        os.close(os.open(aside, os.O_CREAT | os.O_WRONLY, NOT_FOR_ALL))
        MlflowClient(tracking_uri=sqlite_url(aside)).search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()


def _cut(value: str, longest: int) -> str:
    return value if len(value) <= longest else value[: longest - 1] + "…"
