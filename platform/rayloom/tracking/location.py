"""Where a run is recorded: the tracking URI, resolved once in the driver."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit


def resolve_uri(config_uri: str | None, output: Path) -> str:
    """Return the absolute tracking URI: the config's, else MLFLOW_TRACKING_URI, else sqlite under `output`.

    UserError for a folder: MLflow 3.17 has no file store.
    """
    from rayloom.errors import UserError  # here, because the writer process has no use for torch

    uri = config_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output.absolute() / 'mlflow.db'}"
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file"):
        folder = uri.removeprefix("file:")
        database = Path("/" + folder.lstrip("/") if folder.startswith("/") else folder).absolute() / "mlflow.db"
        raise UserError(f"tracking.uri: MLflow no longer writes to folders; use sqlite:///{database} instead of {uri}")
    if scheme == "sqlite":
        path = uri.removeprefix("sqlite:///")
        if path in (uri, "", ":memory:"):
            raise UserError(f"tracking.uri: {uri} names no database file; write sqlite:////absolute/path/mlflow.db")
        return f"sqlite:///{Path(path).absolute()}"
    return uri


def artifact_location(uri: str, run_dir: Path) -> str | None:
    """Return where a new experiment keeps its artifacts; None where the tracking server decides."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https") or scheme.startswith("databricks"):
        return None
    parent = Path(uri.removeprefix("sqlite:///")).parent if scheme == "sqlite" else run_dir.absolute().parent
    return (parent / "mlartifacts").as_uri()
