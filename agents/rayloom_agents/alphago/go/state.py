"""What a batch of games of Go consists of: boards in flat arrays, and the beginning of games.

A board of `size` lines lies in an array of (size + 2)^2 cells with a border, so that a neighbour needs no bounds check.
Chains are circular lists. Their liberties are counted with multiplicity (an empty point beside two stones of a chain
counts twice), which adding and removing stones keeps up to date, and which is zero exactly where the liberties are. A
position's key is the exclusive or of one random number for each stone (Zobrist 1970); the keys of past positions lie
in a hash table in the state. Who changes a constant here must delete numba's caches beside `rules.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EMPTY, BLACK, WHITE, BORDER = 0, 1, 2, 3
NO_SUPERKO, POSITIONAL, SITUATIONAL = 0, 1, 2
SIZE, TO_MOVE, PASSES, PLY, MAX_PLIES, SUPERKO, CAPTURED = range(7)
"""Columns of `GoState.header`."""
LARGEST = 19
RECENT = 5
"""Moves that are remembered for the planes."""
PLANES = 18
_CELLS = (LARGEST + 2) ** 2
KEYS = np.random.default_rng(1995).integers(1, 2**62, (3, _CELLS))
EMPTY_BOARD = 0x1B873593A7C15F39
WHITE_TO_MOVE = 0x2545F4914F6CDD1D


class GoState(NamedTuple):
    """N games."""

    header: NDArray[np.int32]
    """[N, 7]: see the columns above."""
    komi: NDArray[np.float32]
    """[N]: points that White gets."""
    colour: NDArray[np.int8]
    """[N, cells]: what lies there."""
    head: NDArray[np.int16]
    """[N, cells]: the cell that names a stone's chain."""
    link: NDArray[np.int16]
    """[N, cells]: the next stone of the chain."""
    liberties: NDArray[np.int16]
    """[N, cells]: at a chain's head, its empty neighbours with multiplicity."""
    chain_key: NDArray[np.int64]
    """[N, cells]: at a chain's head, the exclusive or of its stones' keys."""
    key: NDArray[np.int64]
    """[N]: the position's key."""
    seen: NDArray[np.int64]
    """[N, 2^k]: hash table of the keys of positions, with whose turn it was where superko is situational; 0: free.
    Not kept without superko."""
    recent: NDArray[np.int16]
    """[N, 5]: cells of the last moves, the newest first; 0 for a pass or none."""


def start(count: int, size: int, komi: float, superko: int, max_plies: int) -> GoState:
    """Return `count` games on empty boards."""
    cells = (size + 2) ** 2
    colour = np.full((size + 2, size + 2), BORDER, np.int8)
    colour[1:-1, 1:-1] = EMPTY
    slots = 1 if superko == NO_SUPERKO else 1 << (2 * max_plies + 1).bit_length()
    state = GoState(
        header=np.tile(np.array([size, BLACK, 0, 0, max_plies, superko, 0], np.int32), (count, 1)),
        komi=np.full(count, komi, np.float32),
        colour=np.tile(colour.reshape(-1), (count, 1)),
        head=np.zeros((count, cells), np.int16),
        link=np.zeros((count, cells), np.int16),
        liberties=np.zeros((count, cells), np.int16),
        chain_key=np.zeros((count, cells), np.int64),
        key=np.full(count, EMPTY_BOARD, np.int64),
        seen=np.zeros((count, slots), np.int64),
        recent=np.zeros((count, RECENT), np.int16),
    )
    state.seen[:, EMPTY_BOARD & (slots - 1)] = EMPTY_BOARD  # Black's turn adds nothing to a key
    return state
