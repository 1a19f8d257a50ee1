"""Logs the trained model to MLflow, in a process of its own: an export may crash, hang or take the memory it wants.

`python -m rayloom.tracking.writer.model RUN_DIR URI RUN_ID EXPERIMENT_ID LOADER` ends with 0 (logged, or nothing to
log), with os.EX_TEMPFAIL when the server does not answer, and with a traceback otherwise.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import Schema, TensorSpec
from torch import nn

from rayloom.files import read_record, write_json
from rayloom.redaction import redacted_output
from rayloom.tracking.exporting import export_open_batch
from rayloom.tracking.journal import read_metrics
from rayloom.tracking.location import known_uri
from rayloom.tracking.writer.errors import UnreachableError
from rayloom.tracking.writer.mlflow_store import translated
from rayloom.tracking.writer.model_export import MODEL_STATE

Array = np.ndarray[Any, Any]
Inference = tuple[nn.Module, Array, Any]


def load_and_log(run_dir: Path, uri: str, run_id: str, experiment_id: str, loader: str) -> str | None:
    """Log the module that `loader(run_dir)` returns, with its signature; return MLflow's model id.

    The format is torch.export's pt2, which cannot execute code when it is loaded, with an open batch dimension.
    A repeated call, after a crash, completes the same LoggedModel. None when the loader has nothing to deploy.
    """
    module_name, _, name = loader.partition(":")
    load: Callable[[Path], Inference | None] = getattr(importlib.import_module(module_name), name)
    loaded = load(run_dir)
    if loaded is None:
        return None
    module, example, description = loaded
    module = module.eval().cpu()
    export_open_batch(module, example)  # fails here for what MLflow would log and nobody could use
    mlflow.set_tracking_uri(uri)
    with translated():
        return _log(run_dir, MlflowClient(uri), run_id, experiment_id, module, example, str(description))


def signature_of(module: nn.Module, example: Array) -> ModelSignature:
    """Return the tensor signature with an open batch dimension."""
    with torch.no_grad():
        output = module(torch.from_numpy(np.ascontiguousarray(example))).numpy()
    return ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(output.dtype, (-1, *output.shape[1:]))]),
    )


def _log(
    run_dir: Path,
    client: MlflowClient,
    run_id: str,
    experiment_id: str,
    module: nn.Module,
    example: Array,
    description: str,
) -> str:
    state = read_record(run_dir / MODEL_STATE, {}) or {}
    model_id: str | None = state.get("model_id")
    if model_id is None:
        created = client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
        model_id = str(created.model_id)
        write_json(run_dir / MODEL_STATE, {**state, "model_id": model_id})
    elif client.get_logged_model(model_id).status == "READY":
        return model_id
    Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.pytorch,
        run_id=run_id,
        model_id=model_id,
        step=max((step for step, _, _ in read_metrics(run_dir)), default=0),
        metadata={"description": description},
        pytorch_model=module,
        signature=signature_of(module, example),
        input_example=example,
        serialization_format="pt2",
        pip_requirements=[f"mlflow=={mlflow.__version__}", f"torch=={torch.__version__}", f"numpy=={np.__version__}"],
    )
    return model_id


def main(arguments: list[str]) -> int:
    """Run `load_and_log` with the arguments of the command line."""
    run_dir, uri, run_id, experiment_id, loader = arguments
    torch.set_num_threads(1)
    try:
        model_id = load_and_log(Path(run_dir), known_uri(uri), run_id, experiment_id, loader)
    except UnreachableError as error:
        print(error, file=sys.stderr)
        return os.EX_TEMPFAIL
    print("nothing to deploy" if model_id is None else f"logged model {model_id}")
    return 0


if __name__ == "__main__":
    with redacted_output():
        sys.exit(main(sys.argv[1:]))
