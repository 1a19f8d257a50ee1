"""The worst mistakes of a classifier of images: those of which it was surest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rayloom.contract import Figure

SHOWN = 24
_COLUMNS = 6
_PREFIX = "_mistake_"


def worst_mistakes(images: Tensor, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Return the `SHOWN` mistakes of a batch with the largest probability of the wrong class, for `picture`.

    `images` [B, 1 or 3, H, W] in 0..1, `logits` [B, K], `label` int64 [B]. The tensors have a row for each mistake, not
    for each example, so that no more images are kept than can be shown.
    """
    probability, prediction = logits.float().softmax(dim=1).max(dim=1)
    sureness = torch.where(prediction == label, -1.0, probability)
    count = min(SHOWN, int((sureness >= 0).sum()))
    worst = sureness.topk(count).indices
    rows = {"image": images, "label": label, "prediction": prediction, "probability": probability}
    return {_PREFIX + name: rows[name][worst] for name in rows}


def picture(outputs: dict[str, Tensor], names: Sequence[str]) -> dict[str, Figure]:
    """Return the figure `worst_mistakes` of what the batches' `worst_mistakes` have found; none without a mistake."""
    probability = outputs.get(_PREFIX + "probability")
    if probability is None or not len(probability):
        return {}
    worst = probability.topk(min(SHOWN, len(probability))).indices
    told = [outputs[_PREFIX + name][worst].tolist() for name in ("label", "prediction", "probability")]
    captions = tuple(
        f"is {names[label]}\ntaken for {names[wrong]}, {sure:.0%}" for label, wrong, sure in zip(*told, strict=True)
    )
    images = outputs[_PREFIX + "image"][worst].float()
    return {"worst_mistakes": Figure("images", images, labels=captions, columns=_COLUMNS)}
