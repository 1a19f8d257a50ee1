"""Where a run is recorded: the tracking URI, resolved once in the driver."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from rayloom.database_urls import is_sqlite, sqlite_path, sqlite_url
from rayloom.errors import UserError
from rayloom.files import is_there
from rayloom.redaction import completed, lacks_secret, redacted, redacted_url

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""The variable with the whole URI where the config, or what is recorded of a run, leaves the password out."""

_SQLITE = b"SQLite format 3\0"
"""How such a database begins; a new one is empty."""
_LONGEST_EXPERIMENT = 500


def resolve_uri(config_uri: str | None, output: Path, tracked: bool = True) -> str:
    """Return the absolute tracking URI: the config's, else MLFLOW_TRACKING_URI, else sqlite under `output`.

    Nobody needs the password of a run that is not `tracked`.

    UserError for a folder, since MLflow 3.17 has no file store, and for a URI whose password is not known.
    """
    own = os.environ.get(TRACKING_URI)
    uri = _absolute(config_uri or own or sqlite_url(output.absolute() / "mlflow.db"))
    whole = completed(uri, [_absolute(own) if own and lacks_secret(uri) else None])
    if not tracked:
        return whole or uri
    if is_sqlite(uri) and (path := sqlite_path(uri)):
        _check_database(path)
    if whole is None:
        raise UserError(
            f"tracking.uri: {uri} stands here without its password; set {TRACKING_URI} to the whole of it, or give it "
            f"as tracking.uri=URL"
        )
    return whole


def resolve_experiment(config_experiment: str | None) -> str | None:
    """Return the experiment that the config names, else MLFLOW_EXPERIMENT_NAME; None where neither does.

    UserError for a name that is longer than MLflow takes.
    """
    name = config_experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or None
    if name is not None and len(name) > _LONGEST_EXPERIMENT:
        raise UserError(f"tracking.experiment: a name of {len(name):,} letters is too long; write at most 500")
    return name


def _absolute(uri: str) -> str:
    try:
        scheme = urlsplit(uri).scheme
        if scheme in ("http", "https"):
            _ = urlsplit(uri).port  # read, so that it is checked
    except ValueError as error:
        raise UserError(f"tracking.uri: {redacted_url(uri)} is no URL ({error})") from None
    if scheme in ("", "file"):
        folder = unquote(uri.removeprefix("file:")) if scheme else uri
        database = Path("/" + folder.lstrip("/") if folder.startswith("/") else folder).absolute() / "mlflow.db"
        raise UserError(
            f"tracking.uri: MLflow no longer writes to folders; use {sqlite_url(database)} instead of "
            f"{redacted_url(uri)}"
        )
    if not is_sqlite(uri):
        return uri
    path = sqlite_path(uri)
    if path is None:
        raise UserError(
            f"tracking.uri: {redacted_url(uri)} names no database file; write sqlite:////absolute/path/mlflow.db"
        )
    return sqlite_url(path.absolute(), uri)


def _check_database(path: Path) -> None:
    """Refuse (UserError) what cannot be a store before anything is recorded: MLflow would try it for minutes."""
    folder = path.parent / "mlartifacts"
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"tracking.uri: {folder} is no folder, and the run's files belong there; remove it")
        if not is_there(path, sys.maxsize):
            return
        with path.open("rb") as file:
            head = file.read(len(_SQLITE))
    except OSError as error:
        raise UserError(f"tracking.uri: {path} cannot be read ({error.strerror})") from None
    if head and head != _SQLITE:
        raise UserError(f"tracking.uri: {path} is no database of sqlite; bring back a good copy, or remove it")


def known_uri(recorded: str) -> str:
    """Return a recorded URI with its password, which a writer process has in its environment.

    UserError where it has not: one that delivers what a dead process left, after the password has changed.
    """
    whole = completed(recorded, [os.environ.get(TRACKING_URI)])
    if whole is None:
        raise UserError(f"{recorded} is recorded without its password, and {TRACKING_URI} does not have it")
    return whole


def told_of_store(text: str) -> str:
    """Return what a library said of the store, without its password, wherever that stands."""
    return redacted(text, os.environ.get(TRACKING_URI, ""))


def artifact_location(uri: str, run_dir: Path) -> str | None:
    """Return where a new experiment keeps its artifacts; None where the tracking server decides."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https") or scheme.startswith("databricks"):
        return None
    database = sqlite_path(uri) if is_sqlite(uri) else None
    parent = database.parent if database is not None else run_dir.absolute().parent
    return (parent / "mlartifacts").as_uri()


def private_file(path: Path) -> BinaryIO:
    """Open a file that its user alone may read, to append what other programs say; DamagedFileError for no file."""
    is_there(path, sys.maxsize)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
