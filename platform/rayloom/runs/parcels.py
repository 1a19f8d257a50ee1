"""A parcel: what a run has learnt, in a folder that needs no run, no data and no MLflow.

    parcel.yaml             the settings that make the algorithm, what it sees, and how it was made
    weights.safetensors     the state of its module

Nothing in it can execute but what the settings import.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import yaml
from torch import Tensor

from rayloom.config.load import from_tree, parse_yaml
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, GlobalNoise, Spec, TensorSpec
from rayloom.devices import choose_device
from rayloom.errors import UserError
from rayloom.files import replace_file
from rayloom.redaction import redacted_tree
from rayloom.runs.weights import TrainedAlgorithm

PARCEL, WEIGHTS = "parcel.yaml", "weights.safetensors"
_KEPT = ("name", "seed", "algorithm", "source", "learner", "stop")
"""Parts of a config that make its algorithm, or without which it is no config."""


@dataclass(frozen=True)
class Parcel:
    """A parcel that was read back."""

    config: RunConfig
    algorithm: Algorithm
    spec: Spec
    weights: str
    """Which weights of the run these are, in words."""
    about: dict[str, Any]


def save_parcel(built: TrainedAlgorithm, folder: Path, about: Mapping[str, Any]) -> None:
    """Write what was trained into a new or empty folder; UserError where it is neither, or cannot be written."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds something already; name another folder")
    tensors = {name: value.detach().cpu().contiguous() for name, value in built.algorithm.state_dict().items()}
    content = safetensors.torch.save(tensors)
    tree = {key: value for key, value in built.config.changed_tree().items() if key in _KEPT}
    told = {
        "weights": str(built.weights),
        "update": built.weights.step,
        "sha256": hashlib.sha256(content).hexdigest(),
        "about": dict(about),
        "spec": {name: _written(each) for name, each in built.spec.items()},
        "config": tree,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / WEIGHTS, content)
        replace_file(folder / PARCEL, yaml.safe_dump(redacted_tree(told), sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); name another folder") from None


def is_parcel(folder: Path) -> bool:
    """Return whether a folder holds a parcel; no folder does whose name the system does not take."""
    try:
        return (folder / PARCEL).is_file()
    except OSError:
        return False


def read_parcel(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a parcel says of itself, and its weights; UserError where it is none, or damaged. Imports nothing."""
    try:
        told = parse_yaml((folder / PARCEL).read_text(encoding="utf-8"), str(folder / PARCEL))
        content = (folder / WEIGHTS).read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} is no parcel of a trained algorithm: {getattr(error, 'strerror', error)}") from None
    if not isinstance(told, dict) or not {"weights", "sha256", "spec", "config"} <= set(told):
        raise UserError(f"{folder / PARCEL} is damaged: parts of it are missing")
    if hashlib.sha256(content).hexdigest() != told["sha256"]:
        raise UserError(f"{folder / WEIGHTS} is damaged: it is not the file that was written")
    try:
        return told, safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} is damaged: {error}") from None


def load_parcel(folder: Path, device: str = "") -> Parcel:
    """Read a parcel, on the device of its config where that is here; UserError where it is none, or damaged."""
    told, state = read_parcel(folder)
    config = from_tree(told["config"])
    spec = {name: _read(each) for name, each in told["spec"].items()}
    place = torch.device(device) if device else choose_device(config)
    if place.type == "cuda" and not torch.cuda.is_available():
        place = torch.device("cpu")
    algorithm = config.algorithm_class()(config.algorithm, spec).to(place)
    algorithm.noise = GlobalNoise(place)
    _fill(algorithm, state, folder)
    algorithm.eval()
    algorithm.after_publish()
    return Parcel(config, algorithm, spec, told["weights"], dict(told.get("about") or {}))


def _fill(algorithm: Algorithm, state: dict[str, Tensor], folder: Path) -> None:
    try:
        algorithm.load_state_dict(state)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise UserError(f"{folder}: {type(algorithm).__name__} takes other weights by now: {why:.200}") from None


def _written(spec: TensorSpec) -> dict[str, Any]:
    """Return a spec as plain data, without what is as by default."""
    tree: dict[str, Any] = {"shape": list(spec.shape), "dtype": str(spec.dtype).removeprefix("torch.")}
    for name in ("num_values", "low", "high", "labels"):
        value = getattr(spec, name)
        if value not in (None, ()):
            tree[name] = list(value) if isinstance(value, tuple) else value
    return tree | ({"ragged": True} if spec.ragged else {})


def _read(tree: Mapping[str, Any]) -> TensorSpec:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()}
    return TensorSpec(**{**values, "dtype": getattr(torch, str(tree["dtype"]))})
