"""Run folders under the output folder: making, finding, and how a run ended."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from pathlib import Path
from typing import Any

from rayloom.config.import_path import suggest
from rayloom.config.load import from_tree, read_mapping
from rayloom.config.names import output_folder
from rayloom.config.schema import RunConfig
from rayloom.errors import MissingModule, UserError
from rayloom.files import INTERNAL, DamagedFileError, make_internal, read_record, replace_file, write_json
from rayloom.redaction import redacted_tree
from rayloom.tracking.journal import NOT_FOR_ALL, is_alive, read_binding, read_process

RESULT = "result.json"
RUN = "config.yaml"
STUDY = "study.yaml"
LOCAL_MARK = f"{INTERNAL}/local"
"""A file in the folder of a run or study that was started without Ray."""


def mark_local(folder: Path) -> None:
    """Remember that what lies in the folder was started without Ray."""
    try:
        make_internal(folder)
        (folder / LOCAL_MARK).touch()
    except OSError as error:
        raise DamagedFileError(folder / LOCAL_MARK, error.strerror or "not writable") from None


def make_run_folder(config: RunConfig, file: str = RUN) -> Path:
    """Make `OUTPUT/TIME-NAME-RANDOM` with the resolved config in `file`; UserError when the disk refuses."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = output_folder(config.output) / f"{stamp}-{config.name}-{secrets.token_hex(3)}"
    try:
        folder.mkdir(parents=True)
        write_config(folder / file, config)
    except OSError as error:
        raise UserError(f"output: the folder {folder} cannot be written ({error.strerror}); choose another") from None
    except UnicodeEncodeError as error:
        raise UserError(
            f"name: the encoding of file names here, {error.encoding}, lacks {error.object[error.start]!r}; "
            "write other letters, or set PYTHONUTF8=1"
        ) from None
    return folder


def write_config(path: Path, config: RunConfig) -> None:
    """Write a config at once, or not at all; URLs in it lose their passwords."""
    replace_file(path, config.to_yaml(), NOT_FOR_ALL)


def make_folder(folder: Path) -> None:
    """Make a folder that may be there already; UserError when the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: the folder {folder} cannot be made ({error.strerror}); choose another") from None


def find_study_folder(output: Path, study_id: str) -> Path:
    """Return the folder of a study by its MLflow id, its folder's name, or the first 8 letters of either."""
    names: dict[str, Path] = {}
    for path in sorted(output.glob(f"*/{STUDY}")):
        _name(path.parent, names)
    return _only(study_id, names, {}, output, ("study", "studies"))


def find_run_folder(output: Path, run_id: str) -> Path:
    """Return the folder of a run by its MLflow id, its folder's name, or the first 8 letters of either.

    A trial of a study is found by its MLflow id, or as STUDY/0007 or STUDY/trials/0007. UserError for a study itself.
    """
    names: dict[str, Path] = {}
    paths: dict[str, Path] = {}  # of trials; they take no part in the guessing
    for folder in sorted(output.glob("*/")):
        if (folder / STUDY).is_file():
            _name(folder, names)
            for trial in (path.parent for path in sorted(folder.glob("trials/*/config.yaml"))):
                paths[f"{folder.name}/{trial.name}"] = paths[f"{folder.name}/trials/{trial.name}"] = trial
                _name(trial, names, named=False)
        elif (folder / RUN).is_file():
            _name(folder, names)
    found = _only(run_id, names, paths, output, ("run", "runs"))
    if (found / STUDY).is_file():
        raise UserError(f"{run_id} is a study: continue it with rayloom search --resume {run_id}")
    return found


def _only(wanted: str, names: dict[str, Path], exact: dict[str, Path], output: Path, nouns: tuple[str, str]) -> Path:
    """Return the one folder of that name; the beginning of one in `names` is enough, of one in `exact` it is not."""
    if not wanted.isprintable() or Path(wanted).is_absolute() or {"", ".", ".."}.intersection(wanted.split("/")):
        raise UserError(
            f"{wanted!r} names no {nouns[0]}: write the name of its folder, its MLflow id or 8 letters of it; "
            f"it is looked for in {output}, and --output names another folder"
        )
    matches = {path for name, path in (names | exact).items() if name == wanted}
    if not matches and len(wanted) >= 8:
        matches = {path for name, path in names.items() if name.startswith(wanted)}
    one, many = nouns
    if len(matches) > 1:
        raise UserError(f"{one} id {wanted!r} fits several {many}; write more of it")
    if not matches:
        hint = suggest(wanted, names) if names else f"; there are no {many} yet"
        raise UserError(f"there is no {one} {wanted!r} under {output}{hint}")
    return matches.pop()


def _name(folder: Path, names: dict[str, Path], named: bool = True) -> None:
    """Add what a folder is called: its MLflow id, and its own name where that is unique."""
    if named:
        names[folder.name] = folder
    with contextlib.suppress(DamagedFileError):  # one old run's file must not hide all others
        binding = read_binding(folder)
        if binding:
            names[binding["run_id"]] = folder


def load_run_config(folder: Path, file: str = RUN) -> RunConfig:
    """Return the resolved config that a run, or with STUDY a study, was started with."""
    path = folder / file
    try:
        return from_tree(read_mapping(path))
    except MissingModule as error:
        raise UserError(
            f"{error} (code of one's own is looked for in the working folder and on PYTHONPATH: go to the folder "
            f"from which {folder.name} was started, or name that in PYTHONPATH)"
        ) from None


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return how the run or study ended; None while it runs or after kill -9."""
    result = read_record(folder / RESULT, {"status": str})
    if result and not (folder / STUDY).is_file():
        finished = {"counters": dict, "metrics": dict, "weights_sha256": str} if result["status"] == "FINISHED" else {}
        read_record(folder / RESULT, {"stopped_by": str, **finished})
    return result


def write_result(folder: Path, content: dict[str, Any]) -> None:
    """Record how the run ended."""
    json.dumps(content)
    write_json(folder / RESULT, redacted_tree(content))


def forget_result(folder: Path) -> None:
    """The run goes on: how it ended before is no longer true."""
    (folder / RESULT).unlink(missing_ok=True)


def is_running(folder: Path) -> bool:
    """Tell whether the process that trains this run is alive on this machine."""
    process = read_process(folder)
    return bool(process and is_alive(process))
