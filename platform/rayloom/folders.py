"""Run folders under the output folder: making, finding, and how a run ended."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

from rayloom.config import RunConfig, from_tree, parse_yaml, suggest
from rayloom.contract import UserError
from rayloom.tracking.journal import BINDING, PROCESS, is_alive, read_json, write_json

RESULT = "result.json"


def make_run_folder(config: RunConfig) -> Path:
    """Make `OUTPUT/TIME-NAME-RANDOM` with the resolved config in it; UserError when the disk refuses."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(config.output).absolute() / f"{stamp}-{config.name}-{secrets.token_hex(3)}"
    try:
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"output: the folder {folder} cannot be written ({error.strerror}); choose another") from None
    return folder


def find_run_folder(output: Path, run_id: str) -> Path:
    """Return the folder of a run by its MLflow id, its folder's name, or the first 8 letters of either."""
    folders = [path for path in sorted(output.glob("*/")) if (path / "config.yaml").is_file()]
    names: dict[str, Path] = {}
    for folder in folders:
        names[folder.name] = folder
        binding = read_json(folder / BINDING)
        if binding:
            names[binding["run_id"]] = folder
    matches = {names[name] for name in names if name == run_id}
    if not matches and len(run_id) >= 8:
        matches = {names[name] for name in names if name.startswith(run_id)}
    if len(matches) > 1:
        raise UserError(f"run id {run_id!r} fits several runs; write more of it")
    if not matches:
        hint = suggest(run_id, names) if names else "; there are no runs yet"
        raise UserError(f"there is no run {run_id!r} under {output}{hint}")
    return matches.pop()


def load_run_config(folder: Path) -> RunConfig:
    """Return the resolved config that a run was started with."""
    path = folder / "config.yaml"
    return from_tree(parse_yaml(path.read_text(encoding="utf-8"), str(path)))


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return how the run ended; None while it runs or after kill -9."""
    result: dict[str, Any] | None = read_json(folder / RESULT)
    return result


def write_result(folder: Path, content: dict[str, Any]) -> None:
    """Record how the run ended."""
    json.dumps(content)
    write_json(folder / RESULT, content)


def forget_result(folder: Path) -> None:
    """The run goes on: how it ended before is no longer true."""
    (folder / RESULT).unlink(missing_ok=True)


def is_running(folder: Path) -> bool:
    """Tell whether the process that trains this run is alive on this machine."""
    process = read_json(folder / PROCESS)
    return bool(process and is_alive(process))
