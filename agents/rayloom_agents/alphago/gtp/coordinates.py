"""Points of the board as GTP names them, and as our games number them.

Action `size * row + column` is a point, with row 0 at the top; `size * size` is a pass. GTP counts rows from the bottom
and leaves the letter I out.
"""

from __future__ import annotations

import re

LETTERS = "ABCDEFGHJKLMNOPQRST"
RESIGN = -2
"""What stands for a resignation, which is no action of a game."""
_VERTEX = re.compile(r"([A-HJ-T])([1-9][0-9]?)")


def vertex(action: int, size: int) -> str:
    """Return GTP's name of an action: "D4", "pass" or "resign". ValueError for what is none."""
    if action == RESIGN:
        return "resign"
    if action == size * size:
        return "pass"
    if not 0 <= action < size * size or not 1 <= size <= len(LETTERS):
        raise ValueError(f"{action} is no action on a board of {size} lines")
    row, column = divmod(action, size)
    return f"{LETTERS[column]}{size - row}"


def action_of(name: str, size: int) -> int:
    """Return the action of a vertex, in capital letters or not; RESIGN for "resign". ValueError for what is none."""
    word = name.strip().upper()
    if word == "RESIGN":
        return RESIGN
    if word == "PASS":
        return size * size
    found = _VERTEX.fullmatch(word)
    if found is None or (column := LETTERS.index(found[1])) >= size or int(found[2]) > size:
        raise ValueError(f"{name!r} is no point of a board of {size} lines")
    return (size - int(found[2])) * size + column


def colour_of(name: str) -> int:
    """Return 1 for Black and -1 for White. ValueError for another word."""
    word = name.strip().lower()
    if word in ("b", "black"):
        return 1
    if word in ("w", "white"):
        return -1
    raise ValueError(f"{name!r} is no colour")
