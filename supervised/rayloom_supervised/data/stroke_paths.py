"""Strokes of KanjiVG: from the paths of its SVG files to points at equal distances."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rayloom.contract import UserError

Array = npt.NDArray[np.float64]
SIDE = 109.0
"""Side of the square in which every character is written, in KanjiVG's units; y runs downwards."""
_PATH = re.compile(r'<path[^>]*\sd="([^"]*)"')
_PIECE = re.compile(r"[A-Za-z]|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_COUNT = {"M": 2, "C": 6, "S": 4, "L": 2}


@functools.cache
def folder() -> Path:
    """Return where the files of the package `kanjivg` lie; UserError where it is not installed."""
    try:
        files = importlib.metadata.files("kanjivg") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = next((file for file in files if file.suffix == ".svg"), None)
    if found is None:
        raise UserError("the strokes come with KanjiVG: run `pip install 'rayloom[handwriting]'`")
    return Path(str(found.locate())).parent


def all_characters() -> list[str]:
    """Return every character that has strokes, in the order of their code points; further forms are left out."""
    return sorted(chr(int(file.stem, 16)) for file in folder().glob("*.svg") if "-" not in file.stem)


def strokes_of(character: str, step: float) -> list[Array]:
    """Return the strokes of a character, each as points [L, 2] that are about `step` apart along it.

    UserError where KanjiVG has no such character.
    """
    file = folder() / f"{ord(character):05x}.svg"
    if not file.is_file():
        raise UserError(f"source.dataset.characters: KanjiVG has no strokes of {character!r}")
    return [even(curve(path), step) for path in _PATH.findall(file.read_text(encoding="utf-8"))]


def _commands(path: str) -> Iterator[tuple[str, Array]]:
    """Yield the commands of a path with their points [n, 2]; repeated ones without a letter of their own, too."""
    pieces = _PIECE.findall(path)
    place, letter = 0, ""
    while place < len(pieces):
        if pieces[place].isalpha():
            letter, place = pieces[place], place + 1
        count = _COUNT.get(letter.upper())
        if count is None or place + count > len(pieces):
            raise UserError(
                f"a stroke's path has the command {letter!r}, which is not read, or too few numbers: {path}"
            )
        yield letter, np.array(pieces[place : place + count], float).reshape(-1, 2)
        place += count
        letter = {"M": "L", "m": "l"}.get(letter, letter)


def curve(path: str, pieces: int = 24) -> Array:
    """Return points [n, 2] along an SVG path of moves, lines and cubic curves (M, L, C, S and their relative forms)."""
    at, handle = np.zeros(2), np.zeros(2)
    found: list[Array] = []
    share = np.linspace(0, 1, pieces + 1)[1:, None]
    for letter, points in _commands(path):
        points = points + at if letter.islower() else points
        kind = letter.upper()
        if kind == "M":
            found.append(points)
        elif kind == "L":
            found.append(at + share * (points[0] - at))
        else:
            # A smooth curve continues the last one: its first handle is the reflection of the last handle.
            one, two, end = (2 * at - handle, *points) if kind == "S" else points
            rest = 1 - share
            found.append(rest**3 * at + 3 * rest**2 * share * one + 3 * rest * share**2 * two + share**3 * end)
        at = points[-1]
        handle = points[-2] if kind in ("C", "S") else at
    return np.concatenate(found)


def even(points: Array, step: float) -> Array:
    """Return both ends of a polyline [n, 2] and points between them at equal distances of about `step` along it."""
    along = np.concatenate(([0.0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()))
    places = np.linspace(0, along[-1], max(1, round(along[-1] / step)) + 1)
    return np.stack([np.interp(places, along, points[:, axis]) for axis in range(2)], axis=1)
