"""The trained model or policy of a run folder, ready to deploy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rayloom.errors import UserError
from rayloom.runs.folders import load_run_config
from rayloom.runs.weights import TrainedAlgorithm, build_trained
from rayloom.tracking.exporting import export_open_batch, onnx_of

Array = np.ndarray[Any, Any]


def load_inference(run_dir: Path) -> tuple[nn.Module, Array, str] | None:
    """Return (module in evaluation mode, example input [2, ...], description) of a run: its best weights if it kept
    some, else its last.

    None for an algorithm that has nothing to deploy. Raises UserError when the run has no checkpoint.
    """
    built = build_trained(load_run_config(run_dir), run_dir, device="cpu")
    found = _inference(built)
    if found is None:
        return None
    config = built.config
    return *found, f"{config.algorithm_path} trained by {config.name}, {built.weights}"


def save_exported(built: TrainedAlgorithm, destination: Path) -> Path:
    """Write the module to deploy as a .pt2 or .onnx file; UserError where there is none, or it cannot be written.

    The file holds labels.json, too (ONNX: the property `labels`): what the numbers of categories stand for (characters,
    words, classes), by field.
    """
    found = _inference(built)
    if found is None:
        raise UserError(f"{type(built.algorithm).__name__} has no module to deploy (inference_module)")
    labels = json.dumps(_labels(built))
    if destination.suffix == ".onnx":
        payload = onnx_of(*found, labels)
    elif destination.suffix == ".pt2":
        program = export_open_batch(*found, several=True)
    else:
        raise UserError(f"destination: {destination} must end in .pt2 or .onnx")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.suffix == ".onnx":
            destination.write_bytes(payload)
        else:
            torch.export.save(program, destination, extra_files={"labels.json": labels})
    except (OSError, RuntimeError) as error:
        raise UserError(f"the model {destination} cannot be written ({error}); choose another file") from None
    return destination


def _labels(built: TrainedAlgorithm) -> dict[str, tuple[str, ...]]:
    """Return the names of the categories of each field that has some."""
    return {name: field.labels for name, field in built.spec.items() if field.labels}


def _inference(built: TrainedAlgorithm) -> tuple[nn.Module, Array] | None:
    """Return the module to deploy and an example of its input."""
    module = built.algorithm.inference_module()
    if module is None:
        return None
    field = built.spec[built.algorithm.inference_input()]
    return module.eval(), torch.zeros((2, *field.shape), dtype=field.dtype).numpy()
