"""The trained model or policy of a run folder, ready to deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rayloom.errors import UserError
from rayloom.runs.folders import load_run_config
from rayloom.runs.learner_role import load_run_dataset, source_spec
from rayloom.runs.session import checkpoint_store


def load_inference(run_dir: Path) -> tuple[nn.Module, np.ndarray[Any, Any], str] | None:
    """Return (module in evaluation mode, example input [2, ...], description) of a run's last weights.

    None for an algorithm that has nothing to deploy. Raises UserError when the run has no checkpoint.
    """
    config = load_run_config(run_dir)
    loaded = checkpoint_store(config, run_dir).load_latest()
    if loaded is None:
        raise UserError(f"the run in {run_dir} has no checkpoint yet")
    spec = source_spec(config, load_run_dataset(config))
    algorithm = config.algorithm_class()(config.algorithm, spec)
    algorithm.load_state_dict(loaded.state["role"]["learner"]["algorithm"])
    algorithm.eval()
    module = algorithm.inference_module()
    if module is None:
        return None
    field = spec[algorithm.inference_input()]
    example = torch.zeros((2, *field.shape), dtype=field.dtype).numpy()
    name = f"{config.algorithm_path} trained by {config.name}, update {loaded.step}"
    return module.eval(), example, name
