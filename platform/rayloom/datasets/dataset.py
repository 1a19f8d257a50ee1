"""What a data set is: three splits of named tensors and the description of one example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayloom.contract import Spec, TensorSpec
from rayloom.errors import UserError

Split = dict[str, Tensor]
"""Named tensors that share their first dimension [N, ...]: image uint8, label int64, point float32."""


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of the same fields."""

    train: Split
    """Examples to learn from."""
    validation: Split
    """Held-out examples for choices made during development."""
    test: Split
    """Held-out examples for the last word only."""
    spec: Spec
    """Shape, type and range of one example's fields."""
    class_names: tuple[str, ...] = ()
    """Names of the labels, in their order; empty without classes."""

    def __post_init__(self) -> None:
        """Refuse splits that do not fit the spec (UserError: the loader may be the user's own)."""
        for name in ("train", "validation", "test"):
            _check_split(name, getattr(self, name), self.spec)


def _check_split(name: str, split: Split, spec: Spec) -> None:
    if set(split) != set(spec):
        raise UserError(f"the {name} split has the fields {sorted(split)}: return those of the spec, {sorted(spec)}")
    for field, tensor in split.items():
        expected = spec[field]
        if tuple(tensor.shape[1:]) != expected.shape or tensor.dtype != expected.dtype:
            raise UserError(
                f"the field {field!r} of the {name} split is {tensor.dtype} {tuple(tensor.shape[1:])}: "
                f"make it {expected.dtype} {expected.shape} as the spec says"
            )
    lengths = {len(tensor) for tensor in split.values()}
    if len(lengths) != 1:
        raise UserError(f"the fields of the {name} split have different lengths {sorted(lengths)}: make them equal")


def image_spec(shape: tuple[int, int, int], num_classes: int) -> Spec:
    """Describe a labelled image: uint8 [C, H, W] in 0..255 and its class."""
    elements = shape[0] * shape[1] * shape[2]
    return {
        "image": TensorSpec(shape=shape, dtype=torch.uint8, low=(0.0,) * elements, high=(255.0,) * elements),
        "label": TensorSpec(shape=(), dtype=torch.int64, num_values=num_classes),
    }


def hold_out(split: Split, count: int) -> tuple[Split, Split]:
    """Cut `split` by a permutation that never changes into all but `count` examples and the last `count`.

    NumPy freezes the stream of RandomState across versions, so the cut is the same on every machine, for every seed.
    """
    length = len(next(iter(split.values())))
    order = torch.from_numpy(np.random.RandomState(0).permutation(length))
    kept, held = order[: length - count], order[length - count :]
    return (
        {name: tensor[kept] for name, tensor in split.items()},
        {name: tensor[held] for name, tensor in split.items()},
    )
