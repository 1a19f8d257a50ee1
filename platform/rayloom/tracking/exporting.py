"""A module as a program of torch.export that takes batches of every size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

Array = np.ndarray[Any, Any]


def export_open_batch(module: nn.Module, example: Array) -> ExportedProgram:
    """Return the program of a module in evaluation mode on the CPU; `example` is a batch of two.

    Fails unless the program takes a batch of another size and computes what the module computes.
    """
    assert len(example) == 2, f"the example has batch size {len(example)}; a batch of 1 would freeze the dimension"
    tensor = torch.from_numpy(np.ascontiguousarray(example))
    exported = torch.export.export(module, (tensor,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    three = torch.cat([tensor, tensor[:1]])
    with torch.no_grad():
        expected, found = module(three), exported.module()(three)
    if not isinstance(expected, Tensor):
        raise TypeError(f"{type(module).__name__} returns {type(expected).__name__}; MLflow deploys one output tensor")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    return exported
