"""Playouts of Go: from positions that a network sees to the end of the game, compiled.

    planes --place stones--> state --moves in proportion to their factors--> end --area--> who has won

Legal moves that fill no own eye are drawn; without one the mover passes. Equal positions and seeds give equal playouts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.compiled import compiled_upon
from rayloom_agents.alphago.go import patterns, rules
from rayloom_agents.alphago.go import state as state_arrays
from rayloom_agents.alphago.go.patterns import Factors
from rayloom_agents.alphago.go.rules import GoState

_FARTHEST, _MOST_LINES, _MOST_LIBERTIES = patterns.FARTHEST, patterns.MOST_LINES, patterns.MOST_LIBERTIES
_MULTIPLIER, _INCREMENT = 6364136223846793005, 1442695040888963407  # Knuth's linear congruential generator
_FRACTION = 1.0 / (1 << 53)
compiled = compiled_upon(rules, state_arrays, patterns)


def state_of(planes: NDArray[np.float32], max_plies: int) -> GoState:
    """Return games that stand as the planes [N, 18, S, S] show, with `max_plies` plies to come.

    Komi, whose turn it is, a pass before, the last five moves and repetitions from here on are as they were; what was
    repeated before is not known.
    """
    size = planes.shape[-1]
    state = rules.start(len(planes), size, 0.0, rules.POSITIONAL, max_plies)
    _set_up(state, np.ascontiguousarray(planes, np.float32))
    return state


@compiled
def _set_up(state: GoState, planes: NDArray[np.float32]) -> None:
    for n in range(len(planes)):
        header, size = state.header[n], state.header[n, rules.SIZE]
        own = rules.BLACK if planes[n, 15, 0, 0] > 0.5 else rules.WHITE
        for action in range(size * size):
            row, column, cell = action // size, action % size, rules._cell(action, size)
            for plane in range(2):  # a chain on the board has liberties, also without the stones yet to be placed
                if planes[n, plane, row, column] > 0.5:
                    header[rules.TO_MOVE] = own if plane == 0 else 3 - own
                    rules._place(state, n, cell)
            for age in range(rules.RECENT):
                if planes[n, 8 + age, row, column] > 0.5:
                    state.recent[n, age] = cell
        header[rules.TO_MOVE] = own
        header[rules.PASSES] = 1 if planes[n, 14, 0, 0] > 0.5 else 0
        komi = planes[n, 16, 0, 0] * size * (1 if own == rules.WHITE else -1)
        state.komi[n] = np.round(2 * komi) / 2
        state.seen[n, rules._slot(state.seen[n], state.key[n])] = state.key[n]


@compiled
def _distance(cell: int, other: int, width: int) -> int:
    """Return the class of the distance of two cells; 0 where `other` is none."""
    if other == 0:
        return 0
    rows, columns = abs(cell // width - other // width), abs(cell % width - other % width)
    return max(1, min(_FARTHEST, rows + columns + max(rows, columns)))


@compiled
def _weigh(state: GoState, n: int, f: Factors, count: NDArray[np.int16], out: NDArray[np.float64]) -> float:
    """Write the factor of every point [size^2], 0 where a stone lies or an eye, and return their sum."""
    colour, head, size = state.colour[n], state.head[n], state.header[n, rules.SIZE]
    own, width, total = state.header[n, rules.TO_MOVE], size + 2, 0.0
    rules._count_liberties(state, n, count)
    for action in range(size * size):
        cell = rules._cell(action, size)
        out[action] = 0.0
        if colour[cell] != rules.EMPTY:
            continue
        code, power, weakest, best, theirs = 0, 1, 0, 0, 0
        for place in range(9):
            if place == 4:
                continue
            beside = cell + (place // 3 - 1) * width + place % 3 - 1
            stone = colour[beside]
            if stone == rules.BORDER:
                code += 3 * power
            elif stone != rules.EMPTY:
                code += power if stone == own else 2 * power
                if place % 2 == 1:
                    liberties = min(_MOST_LIBERTIES, count[head[beside]])
                    if stone != own:
                        theirs = liberties if theirs == 0 else min(theirs, liberties)
                    else:
                        best = max(best, liberties)
                        weakest = liberties if weakest == 0 else min(weakest, liberties)
            power *= 4
        row, column = action // size, action % size
        line = min(_MOST_LINES, row, column, size - 1 - row, size - 1 - column)
        out[action] = (
            f.pattern[code]
            * f.near[_distance(cell, state.recent[n, 0], width)]
            * f.next[_distance(cell, state.recent[n, 1], width)]
            * f.line[line]
            * f.chains[16 * weakest + 4 * best + theirs]
        )
        total += out[action]
    return total


@compiled
def weigh(state: GoState, f: Factors, out: NDArray[np.float64]) -> None:
    """Write the factors of all points [N, size^2], of illegal ones too."""
    count = np.empty(state.colour.shape[1], np.int16)
    for n in range(len(out)):
        _weigh(state, n, f, count, out[n])


@compiled
def _draw(weights: NDArray[np.float64], total: float, uniform: float) -> int:
    """Return a point in proportion to the weights; the last one with a weight where rounding leads too far."""
    left, found = uniform * total, -1
    for action in range(len(weights)):
        if weights[action] > 0:
            found = action
            left -= weights[action]
            if left < 0:
                break
    return found


@compiled
def play_out(
    state: GoState,
    f: Factors,
    forbidden: NDArray[np.bool_],
    seeds: NDArray[np.int64],
    owner: NDArray[np.int8],
) -> int:
    """Play all games to their ends, in place, and return the plies over all of them.

    `forbidden` [N, size^2]: where the first move may not be; `seeds` [N]: their chance; `owner` [N, size^2]: whose area
    the points are in the end, 1 Black's, -1 White's.
    """
    points, plies = forbidden.shape[1], 0
    count, weights = np.empty(state.colour.shape[1], np.int16), np.empty(points, np.float64)
    for n in range(len(seeds)):
        chance, first = seeds[n], True
        while not rules.is_over(state, n):
            total, action = _weigh(state, n, f, count, weights), points
            while True:
                chance = chance * _MULTIPLIER + _INCREMENT
                drawn = _draw(weights, total, ((chance >> 11) & ((1 << 53) - 1)) * _FRACTION)
                if drawn < 0:
                    break
                if not (first and forbidden[n, drawn]) and rules._play_one(state, n, drawn):
                    action = -1
                    break
                total -= weights[drawn]
                weights[drawn] = 0.0
            if action == points:
                rules._play_one(state, n, points)
            first, plies = False, plies + 1
    rules.area(state, owner)
    return plies


def mean_outcomes(
    planes: NDArray[np.float32], f: Factors, rollouts: int, forbidden: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the mean outcome of playouts from positions [N, 18, S, S], 1 or -1 for whose turn it is.

    `forbidden` [N, S, S]: where the first move may not be. Their chance follows from the position.
    """
    count, size = len(planes), planes.shape[-1]
    owner = np.empty((count, size * size), np.int8)
    first_move = np.ascontiguousarray(forbidden.reshape(count, -1))
    total = np.zeros(count, np.float32)
    for number in range(rollouts):
        state = state_of(planes, 2 * size * size)
        mover = np.where(state.header[:, rules.TO_MOVE] == rules.BLACK, 1, -1)
        play_out(state, f, first_move, state.key ^ (number * _MULTIPLIER & (2**63 - 1)), owner)
        total += np.sign(owner.sum(axis=1, dtype=np.float32) - state.komi) * mover
    return (total / rollouts).astype(np.float32)


@compiled
def play_at_random(state: GoState, seed: int, most: int) -> int:
    """Play at random until every game has ended, at most `most` plies each; return the plies over all games.

    A move is the first one from a random point on that is legal and fills no own eye; a pass where there is none.
    """
    np.random.seed(seed)
    total = 0
    for n in range(len(state.komi)):
        size = state.header[n, rules.SIZE]
        for _ in range(most):
            if rules.is_over(state, n):
                break
            action, first = size * size, np.random.randint(size * size)
            for step in range(size * size):
                candidate = (first + step) % (size * size)
                cell, eye = rules._cell(candidate, size), True
                if state.colour[n, cell] != rules.EMPTY:
                    continue
                for direction in range(4):
                    beside = state.colour[n, rules._neighbour(cell, size + 2, direction)]
                    eye = eye and (beside == rules.BORDER or beside == state.header[n, rules.TO_MOVE])
                if not eye and rules._may_place(state, n, cell):
                    action = candidate
                    break
            rules._play_one(state, n, action)
            total += 1
    return total
