"""Figures as files: what the process that trains writes, for others to draw."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rayloom.contract import Figure

Array = np.ndarray[Any, Any]


def figure_parts(figure: Figure) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what is plain about a figure, and its tensors as arrays (pictures as bytes)."""
    about = {
        "kind": figure.kind,
        "labels": list(figure.labels),
        "column_labels": list(figure.column_labels),
        "columns": figure.columns,
        "axes": list(figure.axes),
        "text": figure.text,
        "frames_per_second": figure.frames_per_second,
        "animate": figure.animate,
    }
    arrays = {}
    for name in ("data", "reference", "x"):
        tensor = getattr(figure, name)
        if tensor is not None:
            arrays[name] = tensor.detach().float().cpu().numpy()
    if figure.groups is not None:
        arrays["groups"] = figure.groups.detach().cpu().numpy()
    if figure.kind in ("images", "animation"):
        arrays["data"] = (np.nan_to_num(arrays["data"], nan=0.0).clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    return about, arrays


def store_figure(target: Path, figure: Figure) -> None:
    """Write a figure's data in one step, for `rayloom.tracking.pictures`."""
    about, arrays = figure_parts(figure)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".new.npz")
    content: dict[str, Any] = {"about": np.array(json.dumps(about)), **arrays}
    np.savez(aside, **content)
    os.replace(aside, target)
