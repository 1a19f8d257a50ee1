"""Runs that start from runs: at the start the weights of earlier runs are copied into the new run's folder.

    earlier run's checkpoint -> read_inputs -> role.start_from, once
                                    |-> keep_inputs: RUN_DIR/inputs/NAME.safetensors, inputs.json

Nothing is read from the other runs again: a run that begins anew, as one that was killed before its first checkpoint,
finds its inputs in its own folder, and learners on other nodes get them from the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch

from rayloom.checkpoint.store import tensors_sha256
from rayloom.config.inputs import InputConfig
from rayloom.config.names import output_folder
from rayloom.config.schema import RunConfig
from rayloom.contract import Input
from rayloom.errors import UserError
from rayloom.files import DamagedFileError, read_record, replace_file, write_json
from rayloom.runs.folders import find_run_folder, load_run_config
from rayloom.runs.jobs import known_id
from rayloom.runs.parcels import is_parcel, read_parcel
from rayloom.runs.starting import START
from rayloom.runs.weights import find_weights

_FOLDER, _RECORD = "inputs", "inputs.json"

Inputs = Mapping[str, Input]


def _wanted(config: RunConfig) -> dict[str, InputConfig]:
    return {**config.inputs, **({START: config.start_from} if config.start_from else {})}


def read_inputs(config: RunConfig) -> dict[str, Input]:
    """Return what a new run takes from earlier ones; UserError where one of those, or its weights, are not there."""
    found = {}
    for name, wanted in _wanted(config).items():
        key = name if name == START else f"inputs.{name}"
        try:
            if is_parcel(Path(wanted.run)):
                found[name] = _packed(Path(wanted.run), wanted)
                continue
            folder = find_run_folder(output_folder(config.output), wanted.run)
            theirs = load_run_config(folder)
            weights = find_weights(theirs, folder, wanted.weights)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        found[name] = Input(run_id=known_id(theirs, folder), step=weights.step, weights=weights.state)
    return found


def _packed(folder: Path, wanted: InputConfig) -> Input:
    """Return what a parcel holds, as a run's weights."""
    if wanted.weights is not None:
        raise UserError(f"a parcel as {folder} holds one state only; leave out weights: {wanted.weights}")
    told, state = read_parcel(folder)
    step = told.get("update", 0)  # earlier parcels do not say it
    return Input(run_id=folder.resolve().name, step=step if isinstance(step, int) else 0, weights=state)


def keep_inputs(folder: Path, inputs: Inputs) -> None:
    """Copy the inputs into the folder of the run that starts from them; UserError when the disk refuses."""
    if not inputs:
        return
    record = {
        name: {"run_id": each.run_id, "step": each.step, "sha256": tensors_sha256(each.weights)}
        for name, each in inputs.items()
    }
    try:
        (folder / _FOLDER).mkdir(exist_ok=True)
        for name, each in inputs.items():
            path = _path(folder, name)
            weights = {key: value.contiguous().clone() for key, value in each.weights.items()}
            replace_file(path, safetensors.torch.save(weights))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"inputs: {folder} cannot take the earlier runs' weights ({error}); free some space") from None
    write_json(folder / _FOLDER / _RECORD, record)  # last: what it names is there


def kept_inputs(folder: Path) -> dict[str, Input]:
    """Return the inputs that lie in a run's folder; UserError when one was changed."""
    found = {}
    for name, about in recorded_inputs(folder).items():
        weights = safetensors.torch.load_file(_path(folder, name))
        if tensors_sha256(weights) != about["sha256"]:
            raise UserError(f"the file {_path(folder, name)} has changed since the run began; bring the old one back")
        found[name] = Input(run_id=about["run_id"], step=about["step"], weights=weights)
    return found


def recorded_inputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return run id, step and hash of each input of a run, as they were at its start."""
    path = folder / _FOLDER / _RECORD
    record = read_record(path, {}) or {}
    for name, about in record.items():
        kinds = {key: type(value) for key, value in about.items()} if isinstance(about, dict) else {}
        if kinds != {"run_id": str, "step": int, "sha256": str}:
            raise DamagedFileError(path, f"{name} is missing or wrong")
    return record


def inputs_for(config: RunConfig, folder: Path) -> dict[str, Input]:
    """Return the inputs of a run that begins, kept in its folder from now on or already."""
    if not _wanted(config):
        return {}
    kept = kept_inputs(folder)
    if not kept:
        kept = read_inputs(config)
        keep_inputs(folder, kept)
    return kept


def _path(folder: Path, name: str) -> Path:
    return folder / _FOLDER / f"{name}.safetensors"
