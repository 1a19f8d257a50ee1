"""What the linear rollout policy sees of a move: its 3x3 neighbourhood, the last two moves, chains beside it, the edge.

A move's score is the sum of one weight for each of its features, so that a policy is one vector. The table of features:

    pattern    what lies on the eight points around (empty, own, the opponent's, outside), turned and mirrored alike
    near, next distance to the last move, and to the one before: dx + dy + max(dx, dy); 0 after a pass
    line       points between it and the edge
    chains     liberties (1, 2, 3 or more; 0 for none) of the own chains beside it, the weakest and the best one, and of
               the opponent's weakest: saving, capturing, self-atari
    pass       the pass, and the pass that answers one
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import square_symmetries

OWN, OPPONENT, OUTSIDE = 1, 2, 3
"""What a neighbour of a point may be, besides 0 for empty."""
RING = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Rows and columns from a point to its neighbours; neighbour i is worth 4^i in a code."""
BESIDE = (1, 3, 4, 6)
"""Those that share an edge with it."""
CODES = 4 ** len(RING)
FARTHEST, MOST_LINES, MOST_LIBERTIES = 10, 4, 3
"""Classes of distances, of lines and of liberties end here: what is more counts as this."""


def _digits() -> NDArray[np.int64]:
    """Return what lies around for each code [CODES, 8]."""
    return np.arange(CODES)[:, None] // 4 ** np.arange(len(RING)) % 4


def _pattern_classes() -> NDArray[np.int64]:
    """Return a number for each code [CODES], the same for codes that are turned or mirrored."""
    ring = np.array([3 * (row + 1) + column + 1 for row, column in RING])
    place = {point: number for number, point in enumerate(ring.tolist())}
    digits, powers = _digits(), 4 ** np.arange(len(RING))
    turned = [
        digits[:, [place[point] for point in symmetry[ring].tolist()]] @ powers for symmetry in square_symmetries(3)
    ]
    return np.unique(np.min(turned, axis=0), return_inverse=True)[1].astype(np.int64)


def _eyes() -> NDArray[np.bool_]:
    """Return which codes are own eyes [CODES]: nothing but own stones beside, and on the diagonals at most one of the
    opponent's, none at the edge."""
    digits = _digits()
    beside = digits[:, BESIDE]
    diagonal = np.delete(digits, BESIDE, axis=1)
    theirs, at_edge = (diagonal == OPPONENT).sum(axis=1), (diagonal == OUTSIDE).any(axis=1)
    closed = ((beside == OWN) | (beside == OUTSIDE)).all(axis=1) & (beside == OWN).any(axis=1)
    eyes: NDArray[np.bool_] = closed & (theirs < np.where(at_edge, 1, 2))
    return eyes


PATTERN_CLASS = _pattern_classes()
EYE = _eyes()
PATTERN = 0
NEAR = PATTERN + int(PATTERN_CLASS.max()) + 1
NEXT = NEAR + FARTHEST + 1
LINE = NEXT + FARTHEST + 1
CHAINS = LINE + MOST_LINES + 1
PASS = CHAINS + (MOST_LIBERTIES + 1) ** 3
FEATURES = PASS + 2
"""Where each kind of feature begins in the vector of weights, and how many there are."""


class Factors(NamedTuple):
    """The weights' exponentials, as a playout multiplies them."""

    pattern: NDArray[np.float64]
    """[CODES]; 0 for own eyes, which nobody fills."""
    near: NDArray[np.float64]
    next: NDArray[np.float64]
    line: NDArray[np.float64]
    chains: NDArray[np.float64]


def factors(weights: NDArray[np.floating]) -> Factors:
    """Return the factors of a weight vector [FEATURES]."""
    raised = np.exp(np.asarray(weights, np.float64))
    pattern = np.where(EYE, 0.0, raised[PATTERN_CLASS])
    return Factors(pattern, raised[NEAR:NEXT], raised[NEXT:LINE], raised[LINE:CHAINS], raised[CHAINS:PASS])


def no_preference() -> Factors:
    """Return the factors of uniformly random play."""
    return factors(np.zeros(FEATURES))
