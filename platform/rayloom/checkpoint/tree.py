"""A state's tree as JSON with its tensors and arrays beside it, and back; nothing in it can run code."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = re.compile(r"bool|u?int(8|16|32|64)|b?float16|float(32|64)|complex64")
"""Types that are stored as they are; all others as bytes."""


class _Flattened:
    """Splits a tree into JSON and two flat dicts of tensors and arrays.

    JSON stands for itself where it is unambiguous; all else is an object whose first key is its tag: dict, list,
    tuple, tensor, array, scalar, float (the bits of nan and infinities).
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}

    def encode(self, value: Any, path: str) -> Any:
        """Return the JSON of one node; `path` names it in errors and in the files."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if isinstance(value, Mapping):
            return {"dict": [[_checked_key(k, path), self.encode(v, _join(path, k))] for k, v in value.items()]}
        if type(value) in (list, tuple):
            return {type(value).__name__: [self.encode(v, _join(path, i)) for i, v in enumerate(value)]}
        if type(value) in (Tensor, nn.Parameter):
            return self._tensor(value, path)
        if type(value) is np.ndarray:
            return {"array": self._array(value, path)}
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), path)}
        raise TypeError(f"a checkpoint cannot hold the {type(value).__name__} at {path}")

    def _tensor(self, tensor: Tensor, path: str) -> dict[str, Any]:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise TypeError(f"a checkpoint cannot hold the sparse, quantised or meta tensor at {path}")
        name = _unused(path, self.tensors)
        # safetensors refuses shared storage; a clone also carries out conjugate and negative views
        plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        dtype = str(tensor.dtype).removeprefix("torch.")
        if _PLAIN.fullmatch(dtype):
            self.tensors[name] = plain
            return {"tensor": name}
        self.tensors[name] = plain.reshape(-1).view(torch.uint8)
        return {"tensor": name, "raw": [dtype, list(tensor.shape)]}

    def _array(self, array: np.ndarray[Any, Any], path: str) -> dict[str, Any]:
        if array.dtype.hasobject or array.dtype.isbuiltin == 2:
            raise TypeError(f"a checkpoint cannot hold the array of {array.dtype} at {path}")
        name = _unused(path, self.arrays)
        dense = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray gives 0-d arrays a dimension
        if array.dtype.isnative and _PLAIN.fullmatch(array.dtype.name):
            self.arrays[name] = dense
            return {"name": name}
        self.arrays[name] = np.frombuffer(dense.tobytes(), np.uint8)
        return {"name": name, "raw": self.encode([np.lib.format.dtype_to_descr(array.dtype), array.shape], path)}


def _checked_key(key: Any, path: str) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"a checkpoint cannot hold the key {key!r} ({type(key).__name__}) at {path}: use str or int")
    return cast(str | int, key)


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _unused(path: str, taken: Mapping[str, Any]) -> str:
    """Return a name for the files: {"a/b": x, "a": {"b": y}} and the keys 1 and "1" would collide."""
    name = path.encode("utf-8", "backslashreplace").decode()
    suffix = 2
    while name in taken:
        name, suffix = f"{name}#{suffix}", suffix + 1
    return name


def _decode(node: Any, tensors: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    if not isinstance(node, dict):
        return node
    tag, value = next(iter(node.items()))
    match tag:
        case "dict":
            return {key: _decode(item, tensors, arrays) for key, item in value}
        case "list":
            return [_decode(item, tensors, arrays) for item in value]
        case "tuple":
            return tuple(_decode(item, tensors, arrays) for item in value)
        case "float":
            return struct.unpack(">d", bytes.fromhex(value))[0]
        case "tensor":
            dtype, shape = node.get("raw", (None, None))
            tensor = tensors[value].clone()  # out of the mapped file
            return tensor if dtype is None else tensor.view(getattr(torch, dtype)).reshape(shape)
        case "array" | "scalar":
            array = arrays[value["name"]].copy()
            if "raw" in value:
                descr, shape = _decode(value["raw"], tensors, arrays)
                array = np.frombuffer(array.tobytes(), np.lib.format.descr_to_dtype(descr)).reshape(shape).copy()
            return array[()] if tag == "scalar" else array
    raise ValueError(f"unknown tag {tag!r}")
