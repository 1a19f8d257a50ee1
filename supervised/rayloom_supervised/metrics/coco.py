"""The COCO metric of masks, by its own implementation (`pycocotools`)."""

from __future__ import annotations

import contextlib
import io
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rayloom.contract import UserError


class AveragePrecision(NamedTuple):
    """Means over classes and, but for the single ones, over thresholds of intersection over union from 0.5 to 0.95."""

    all: float
    at_50: float
    at_75: float


def mask_average_precision(
    masks: Tensor, scores: Tensor, labels: Tensor, true_masks: Tensor, true_labels: Tensor
) -> AveragePrecision:
    """Return the average precision of masks [B, D, H, W] (0 or 1) with scores and labels [B, D], against true ones
    [B, M, H, W] with labels [B, M]; a label of 0 is nothing. 0 where nothing was found; UserError without pycocotools.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError(
            "the COCO metric of masks needs the package pycocotools: run `pip install 'rayloom[detection]'`"
        ) from None
    truth = [
        {**each, "id": number, "iscrowd": 0, "area": float(area)}
        for number, (each, area) in enumerate(_listed(true_masks, true_labels), 1)
    ]
    found = [
        {**each, "score": score}
        for (each, _), score in zip(_listed(masks, labels), scores[labels > 0].tolist(), strict=True)
    ]
    if not found:
        return AveragePrecision(0.0, 0.0, 0.0)
    height, width = true_masks.shape[2:]
    with contextlib.redirect_stdout(io.StringIO()):  # it tells everything that it does
        given: Any = COCO()
        given.dataset = {
            "info": {},
            "images": [{"id": row, "height": height, "width": width} for row in range(len(true_masks))],
            "categories": [{"id": label} for label in sorted(set(true_labels[true_labels > 0].tolist()))],
            "annotations": truth,
        }
        given.createIndex()
        judge: Any = COCOeval(given, given.loadRes(found), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return AveragePrecision(*(max(0.0, float(value)) for value in judge.stats[:3]))


def _listed(masks: Tensor, labels: Tensor) -> list[tuple[dict[str, Any], int]]:
    """Return what COCO calls an annotation of each object, with its number of pixels."""
    from pycocotools import mask as runs

    listed = []
    for row, place in (labels > 0).nonzero().tolist():
        pixels = masks[row, place].to(torch.uint8).cpu().numpy()
        encoded = runs.encode(np.asfortranarray(pixels))
        listed.append(
            ({"image_id": row, "category_id": int(labels[row, place]), "segmentation": encoded}, int(pixels.sum()))
        )
    return listed
