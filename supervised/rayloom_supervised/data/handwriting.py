"""Written characters as offsets of the pen, from KanjiVG's strokes (Ulrich Apel and others, CC BY-SA 3.0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, MinLen
from torch import Tensor

from rayloom.contract import TensorSpec, UserError, component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset
from rayloom_supervised.data.stroke_paths import SIDE, Array, all_characters, strokes_of

PEN = ("down", "up", "end")
"""What the pen does after a point: it goes on writing, is lifted for the next stroke, or the character is done."""


@dataclass(frozen=True, kw_only=True)
class WritingConfig(SizeConfig):
    """How characters are written."""

    step: Annotated[float, Gt(0)] = 6.0
    """Distance between two points along a stroke; a character's square has a side of 109."""
    jitter: Annotated[float, Gt(0)] = 0.6
    """Standard deviation of the trembling of every point. Without it points would lie at exact distances, and a density
    could grow without bound."""
    deformation: Annotated[float, Ge(0)] = 1.0
    """Strength of the random scales, slant, rotation and bends, which differ from copy to copy."""


@dataclass(frozen=True, kw_only=True)
class CharactersConfig(WritingConfig):
    """Copies of chosen characters in many hands: each with its own scales, slant, rotation, bends and trembling."""

    characters: Annotated[str, MinLen(1)] = "abcdefghijklmnopqrstuvwxyz0123456789"
    """Those that are written."""

    def __post_init__(self) -> None:
        """Refuse a character that is named twice."""
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("characters: name each of them once")


@dataclass(frozen=True, kw_only=True)
class UnseenCharactersConfig(WritingConfig):
    """Each of KanjiVG's characters (letters, kana, kanji) once, a little deformed; held-out ones are others."""

    most_points: Annotated[int, Ge(2)] = 80
    """Longer characters are left out."""


def deformed(strokes: Sequence[Array], strength: float, jitter: float, chance: np.random.Generator) -> list[Array]:
    """Return strokes after a random affine map about the square's middle, two random waves, and trembling."""
    angle, slant = strength * chance.normal(0, 0.06), strength * chance.normal(0, 0.1)
    scale = np.exp(strength * chance.normal(0, 0.08, size=2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, slant], [0.0, 1.0]]) @ np.diag(scale)
    waves = chance.uniform(0, 2 * np.pi, size=2)
    height = strength * chance.normal(0, 2, size=2)
    found = []
    for points in strokes:
        centred = (points - SIDE / 2) @ matrix.T
        bent = centred + height * np.sin(2 * np.pi * centred[:, ::-1] / SIDE + waves)
        found.append(bent + jitter * chance.normal(size=bent.shape))
    return found


def offsets(strokes: Sequence[Array]) -> tuple[Tensor, Tensor]:
    """Return the steps [L, 2] from point to point, the first one from the middle, and what the pen does then [L]."""
    points = np.concatenate(list(strokes))
    pen = np.concatenate([[*[0] * (len(stroke) - 1), 1] for stroke in strokes])
    pen[-1] = 2
    steps = np.diff(points, axis=0, prepend=np.zeros((1, 2)))
    return torch.from_numpy(steps).float(), torch.from_numpy(pen)


@component("data set", CharactersConfig)
def characters(config: CharactersConfig, seed: int) -> Dataset:
    """Return `offset` float32 [L, 2] and `pen` int64 [L], ragged, and `label`, the character.

    Needs the extra `handwriting`. Held-out copies are of the same characters in other hands.
    """
    models = [strokes_of(character, config.step) for character in config.characters]
    chance = np.random.default_rng(seed)
    labels = chance.integers(len(models), size=config.total)
    written = [offsets(deformed(models[label], config.deformation, config.jitter, chance)) for label in labels]
    names = tuple(config.characters)
    spec = TensorSpec(shape=(), dtype=torch.int64, num_values=len(names), labels=names)
    return _dataset("characters", config, written, {"label": (torch.from_numpy(labels), spec)})


@component("data set", UnseenCharactersConfig)
def unseen_characters(config: UnseenCharactersConfig, seed: int) -> Dataset:
    """Return `offset` float32 [L, 2] and `pen` int64 [L], ragged; no character is in two splits.

    Needs the extra `handwriting`.
    """
    chance = np.random.default_rng(seed)
    models = [strokes_of(character, config.step) for character in all_characters()]
    short = [strokes for strokes in models if sum(map(len, strokes)) <= config.most_points]
    if len(short) < config.total:
        raise UserError(
            f"source.dataset.train_size: there are {len(short)} characters of at most {config.most_points} points; ask "
            "for fewer in all splits, or raise most_points"
        )
    order = np.random.RandomState(0).permutation(len(short))[: config.total]
    written = [offsets(deformed(short[row], config.deformation, config.jitter, chance)) for row in order]
    return _dataset("unseen-characters", config, written, {})


def _dataset(
    name: str,
    config: WritingConfig,
    written: Sequence[tuple[Tensor, Tensor]],
    columns: dict[str, tuple[Tensor, TensorSpec]],
) -> Dataset:
    rows = {"offset": [steps for steps, _ in written], "pen": [pen for _, pen in written]}
    return ragged_dataset(name, config, rows, {"pen": PEN}, columns)
