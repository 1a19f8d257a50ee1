"""A module as a program of torch.export, or as an ONNX model, that takes batches of every size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from rayloom.errors import UserError

Array = np.ndarray[Any, Any]
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


def export_open_batch(module: nn.Module, example: Array, several: bool = False) -> ExportedProgram:
    """Return the program of a module in evaluation mode on the CPU; `example` is a batch of two.

    Fails unless the program takes a batch of another size and computes what the module computes, and where it has
    several outputs, unless those are welcome.
    """
    assert len(example) == 2, f"the example has batch size {len(example)}; a batch of 1 would freeze the dimension"
    tensor = torch.from_numpy(np.ascontiguousarray(example))
    exported = torch.export.export(module, (tensor,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    three = three_rows(example)
    with torch.no_grad():
        expected, found = module(three), exported.module()(three)
    if not isinstance(expected, Tensor) and not several:
        raise TypeError(f"{type(module).__name__} returns {type(expected).__name__}; MLflow deploys one output tensor")
    torch.testing.assert_close(found, expected, rtol=_RELATIVE, atol=_ABSOLUTE)
    return exported


def three_rows(example: Array) -> Tensor:
    """Return inputs [3, ...] like the example [2, ...] that differ from row to row: bytes and reals at random."""
    shape, generator = (3, *example.shape[1:]), torch.Generator().manual_seed(0)
    tensor = torch.from_numpy(np.ascontiguousarray(example))
    if tensor.dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if tensor.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(tensor.dtype)
    return torch.cat([tensor, tensor[:1]])


def onnx_of(module: nn.Module, example: Array, labels: str) -> bytes:
    """Return the module as an ONNX model with an open batch dimension; `labels` (JSON) goes into its properties.

    Fails unless ONNX Runtime computes from other inputs, a batch of another size, what the module computes. UserError
    where the packages are missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"an ONNX model needs {error.name}: pip install 'rayloom[onnx]'") from None
    tensor = torch.from_numpy(np.ascontiguousarray(example))
    open_batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(
        module, (tensor,), dynamo=True, dynamic_shapes=open_batch, input_names=["input"], verbose=False
    )
    assert program is not None
    model = program.model_proto
    model.metadata_props.add(key="labels", value=labels)
    payload: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"])
    three = three_rows(example)
    with torch.no_grad():
        expected = module(three)
    found = session.run(None, {"input": three.numpy()})
    for mine, theirs in zip([expected] if isinstance(expected, Tensor) else expected, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), mine, rtol=_RELATIVE, atol=_ABSOLUTE)
    return payload
