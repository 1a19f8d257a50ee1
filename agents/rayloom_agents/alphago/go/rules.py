"""The rules of Go, compiled, over a batch of games in flat arrays (`rayloom_agents.alphago.go.state`).

No suicide; positional, situational or no superko; a game ends after two passes in a row or `max_plies` plies and is
scored by area (Tromp and Taylor 1995: https://tromp.github.io/go.html): stones, and empty regions that reach one colour
only. Action `row * size + column` puts a stone there, action `size^2` passes. Every function here takes the whole batch
`state` and the index `n` of one game, or no index and does all games.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.compiled import compiled

# isort: off
from rayloom_agents.alphago.go.state import (
    BLACK, BORDER, CAPTURED, EMPTY, KEYS, LARGEST, MAX_PLIES, NO_SUPERKO, PASSES, PLANES, PLY, POSITIONAL, RECENT,
    SITUATIONAL, SIZE, SUPERKO, TO_MOVE, WHITE, WHITE_TO_MOVE, GoState, start
)  # fmt: skip
# isort: on

__all__ = [
    "BLACK", "BORDER", "CAPTURED", "EMPTY", "LARGEST", "MAX_PLIES", "NO_SUPERKO", "PASSES", "PLANES", "PLY",
    "POSITIONAL", "RECENT", "SITUATIONAL", "SIZE", "SUPERKO", "TO_MOVE", "WHITE", "GoState", "area", "is_over", "legal",
    "observe", "play", "reach", "start",
]  # fmt: skip


@compiled
def _neighbour(cell: int, width: int, direction: int) -> int:
    if direction < 2:
        return cell - width if direction == 0 else cell - 1
    return cell + 1 if direction == 2 else cell + width


@compiled
def _cell(action: int, size: int) -> int:
    return (action // size + 1) * (size + 2) + action % size + 1


@compiled
def _slot(seen: NDArray[np.int64], key: int) -> int:
    """Return where a key lies in a game's hash table, or where there is room for it."""
    mask = len(seen) - 1
    slot = key & mask
    while seen[slot] != 0 and seen[slot] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def _key_after(
    colour: NDArray[np.int8],
    head: NDArray[np.int16],
    liberties: NDArray[np.int16],
    chain_key: NDArray[np.int64],
    own: int,
    key: int,
    width: int,
    cell: int,
) -> int:
    """Return the key of the position with the mover's stone on an empty cell; 0: the move is suicide."""
    alive = False
    for direction in range(4):
        beside = _neighbour(cell, width, direction)
        stone = colour[beside]
        if stone == EMPTY:
            alive = True
        elif stone != BORDER:
            chain, contacts, first = head[beside], 1, True
            if liberties[chain] <= 4:  # else it has some elsewhere
                for other in range(4):
                    touched = _neighbour(cell, width, other)
                    if other != direction and colour[touched] == stone and head[touched] == chain:
                        contacts += 1
                        first = first and other > direction
            survives = liberties[chain] > contacts
            if stone == own:
                alive = alive or survives
            elif not survives:
                alive = True
                if first:
                    key ^= chain_key[chain]
    return key ^ KEYS[own, cell] if alive else 0


@compiled
def is_over(state: GoState, n: int) -> bool:
    """Return whether game n has ended."""
    return bool(state.header[n, PASSES] >= 2 or state.header[n, PLY] >= state.header[n, MAX_PLIES])


@compiled
def _mark_legal(state: GoState, n: int, first: int, end: int, out: NDArray[np.bool_]) -> None:
    """Write for the actions from `first` to `end` whether the mover may put a stone there."""
    colour, head, liberties, chain_key = state.colour[n], state.head[n], state.liberties[n], state.chain_key[n]
    seen, key, size, own = state.seen[n], state.key[n], state.header[n, SIZE], state.header[n, TO_MOVE]
    # Without a capture the number of stones has only grown, and no position can come back.
    repeats = state.header[n, SUPERKO] != NO_SUPERKO and state.header[n, CAPTURED] > 0
    turn = WHITE_TO_MOVE if state.header[n, SUPERKO] == SITUATIONAL and own == BLACK else 0
    cell, column, width = _cell(first, size), first % size, size + 2
    for index in range(end - first):
        may = colour[cell] == EMPTY
        if may and (repeats or not _beside_empty(colour, width, cell)):
            after = _key_after(colour, head, liberties, chain_key, own, key, width, cell)
            may = after != 0 and not (repeats and seen[_slot(seen, after ^ turn)] != 0)
        out[index] = may
        cell, column = cell + 1, column + 1
        if column == size:
            cell, column = cell + 2, 0


@compiled
def _beside_empty(colour: NDArray[np.int8], width: int, cell: int) -> bool:
    """Return whether a stone on a cell would have a liberty of its own."""
    near = colour[cell - width] == EMPTY or colour[cell - 1] == EMPTY
    return bool(near or colour[cell + 1] == EMPTY or colour[cell + width] == EMPTY)


@compiled
def _may_place(state: GoState, n: int, cell: int) -> bool:
    """Return whether the mover may put a stone on a cell."""
    header = state.header[n]
    if state.colour[n, cell] != EMPTY:
        return False
    superko, width, own = header[SUPERKO], header[SIZE] + 2, header[TO_MOVE]
    repeats = superko != NO_SUPERKO and header[CAPTURED] > 0
    if not repeats and _beside_empty(state.colour[n], width, cell):
        return True
    after = _key_after(
        state.colour[n], state.head[n], state.liberties[n], state.chain_key[n], own, state.key[n], width, cell
    )
    turn = WHITE_TO_MOVE if superko == SITUATIONAL and own == BLACK else 0
    return after != 0 and not (repeats and state.seen[n, _slot(state.seen[n], after ^ turn)] != 0)


@compiled
def _remove_chain(state: GoState, n: int, chain: int) -> int:
    """Take a chain off the board and return how many stones it had."""
    colour, head, width = state.colour[n], state.head[n], state.header[n, SIZE] + 2
    state.key[n] ^= state.chain_key[n, chain]
    stones, cell = 0, chain
    while True:
        colour[cell] = EMPTY
        stones += 1
        for direction in range(4):
            beside = _neighbour(cell, width, direction)
            if colour[beside] == BLACK or colour[beside] == WHITE:
                state.liberties[n, head[beside]] += 1
        cell = state.link[n, cell]
        if cell == chain:
            return stones


@compiled
def _join(state: GoState, n: int, chain: int, other: int) -> None:
    """Make the stones of the chain `other` part of `chain`."""
    cell = other
    while True:
        state.head[n, cell] = chain
        cell = state.link[n, cell]
        if cell == other:
            break
    state.liberties[n, chain] += state.liberties[n, other]
    state.chain_key[n, chain] ^= state.chain_key[n, other]
    state.link[n, chain], state.link[n, other] = state.link[n, other], state.link[n, chain]


@compiled
def _place(state: GoState, n: int, cell: int) -> None:
    colour, head, width = state.colour[n], state.head[n], state.header[n, SIZE] + 2
    own = state.header[n, TO_MOVE]
    colour[cell], head[cell], state.link[n, cell] = own, cell, cell
    state.chain_key[n, cell], state.liberties[n, cell] = KEYS[own, cell], 0
    state.key[n] ^= KEYS[own, cell]
    for direction in range(4):
        beside = _neighbour(cell, width, direction)
        if colour[beside] == EMPTY:
            state.liberties[n, cell] += 1
        elif colour[beside] != BORDER:
            state.liberties[n, head[beside]] -= 1
    for direction in range(4):
        beside = _neighbour(cell, width, direction)
        if colour[beside] == own and head[beside] != head[cell]:
            _join(state, n, head[beside], head[cell])
    for direction in range(4):
        beside = _neighbour(cell, width, direction)
        if colour[beside] == 3 - own and state.liberties[n, head[beside]] == 0:
            state.header[n, CAPTURED] += _remove_chain(state, n, head[beside])


@compiled
def _play_one(state: GoState, n: int, action: int) -> bool:
    """Play a move or a pass if it is legal, and return whether it was."""
    header, size = state.header[n], state.header[n, SIZE]
    if is_over(state, n) or action > size * size:
        return False
    cell = 0
    if action < size * size:
        cell = _cell(action, size)
        if not _may_place(state, n, cell):
            return False
        _place(state, n, cell)
        header[PASSES] = 0
    else:
        header[PASSES] += 1
    header[TO_MOVE] = 3 - header[TO_MOVE]
    header[PLY] += 1
    for index in range(RECENT - 1, 0, -1):
        state.recent[n, index] = state.recent[n, index - 1]
    state.recent[n, 0] = cell
    if header[SUPERKO] != NO_SUPERKO:
        situational = header[SUPERKO] == SITUATIONAL and header[TO_MOVE] == WHITE
        key = state.key[n] ^ WHITE_TO_MOVE if situational else state.key[n]
        state.seen[n, _slot(state.seen[n], key)] = key
    return True


@compiled
def play(state: GoState, actions: NDArray[np.int64], played: NDArray[np.bool_]) -> None:
    """Play one action in every game [N], in place; `played` [N] says which were legal. Below 0: nothing to play."""
    for n in range(len(actions)):
        played[n] = actions[n] < 0 or _play_one(state, n, actions[n])


@compiled
def _legal_one(state: GoState, n: int, out: NDArray[np.bool_]) -> None:
    out[:] = not is_over(state, n)
    if out[0]:
        _mark_legal(state, n, 0, len(out) - 1, out)


@compiled
def legal(state: GoState, out: NDArray[np.bool_]) -> None:
    """Write which actions are legal [N, size^2 + 1]; none is in a game that has ended."""
    for n in range(len(out)):
        _legal_one(state, n, out[n])


@compiled
def _owners(state: GoState, n: int, owner: NDArray[np.int8], stack: NDArray[np.int16]) -> None:
    """Write the owner of every cell: BLACK, WHITE or, where an empty region reaches both or none, EMPTY."""
    colour, width = state.colour[n], state.header[n, SIZE] + 2
    for cell in range(len(colour)):
        owner[cell] = -1 if colour[cell] == EMPTY else colour[cell]
    for first in range(len(colour)):
        if owner[first] != -1:
            continue
        owner[first], stack[0], count, reached, done = EMPTY, first, 1, 0, 0
        while done < count:
            for direction in range(4):
                beside = _neighbour(stack[done], width, direction)
                if owner[beside] == -1:
                    owner[beside], stack[count] = EMPTY, beside
                    count += 1
                elif colour[beside] == BLACK or colour[beside] == WHITE:
                    reached |= colour[beside]
            done += 1
        if reached in (BLACK, WHITE):
            for index in range(count):
                owner[stack[index]] = reached


@compiled
def area(state: GoState, out: NDArray[np.int8]) -> None:
    """Write the owner of every point [N, size^2]: 1 Black, -1 White, 0 nobody."""
    owner = np.empty(state.colour.shape[1], np.int8)
    stack = np.empty(state.colour.shape[1], np.int16)
    for n in range(len(out)):
        _owners(state, n, owner, stack)
        for point in range(out.shape[1]):
            found = owner[_cell(point, state.header[n, SIZE])]
            out[n, point] = (found == BLACK) - np.int8(found == WHITE)


@compiled
def _count_liberties(state: GoState, n: int, count: NDArray[np.int16]) -> None:
    """Write at the head of every chain how many different liberties it has."""
    colour, head, size = state.colour[n], state.head[n], state.header[n, SIZE]
    count[:] = 0
    for cell in range(size + 3, (size + 1) * (size + 2) - 1):
        if colour[cell] != EMPTY:
            continue
        # The chains beside it; 0, a cell of the border, stands for none and is counted in vain.
        above = head[cell - size - 2] if colour[cell - size - 2] in (BLACK, WHITE) else 0
        left = head[cell - 1] if colour[cell - 1] in (BLACK, WHITE) else 0
        right = head[cell + 1] if colour[cell + 1] in (BLACK, WHITE) else 0
        below = head[cell + size + 2] if colour[cell + size + 2] in (BLACK, WHITE) else 0
        count[above] += 1
        count[left] += left != above
        count[right] += right not in (above, left)
        count[below] += below not in (above, left, right)


@compiled
def _observe_one(
    state: GoState, n: int, unit: float, count: NDArray[np.int16], legal: NDArray[np.bool_], out: NDArray[Any]
) -> None:
    size, own, recent = state.header[n, SIZE], state.header[n, TO_MOVE], state.recent[n]
    _count_liberties(state, n, count)
    out[:] = 0
    colour, head = state.colour[n], state.head[n]
    for row in range(size):
        for column in range(size):
            cell = (row + 1) * (size + 2) + column + 1
            stone = colour[cell]
            if stone != EMPTY:
                plane = 0 if stone == own else 1
                out[plane, row, column] = 1
                liberties = min(3, count[head[cell]])
                out[1 + 3 * plane + liberties, row, column] = 1
            if not legal[row * size + column]:
                out[13, row, column] = 1
    for age in range(RECENT):
        if recent[age] > 0:
            out[8 + age, recent[age] // (size + 2) - 1, recent[age] % (size + 2) - 1] = 1
    out[14] = state.header[n, PASSES] > 0
    out[15] = own == BLACK
    out[16] = min(127.0, max(-127.0, np.rint(state.komi[n] * unit))) if unit > 1 else state.komi[n] / size
    if own == BLACK:
        out[16] = -out[16]
    out[17] = 1


@compiled
def observe(state: GoState, unit: float, out: NDArray[np.float32]) -> None:
    """Write the planes [N, 18, size, size] as the mover sees them (`rayloom_agents.alphago.games.go`), komi in board
    lengths where `unit` is 1, else as a whole number of the parts into which `unit` divides a point.
    """
    count = np.empty(state.colour.shape[1], np.int16)
    may = np.empty(out.shape[2] * out.shape[3], np.bool_)
    for n in range(len(out)):
        _mark_legal(state, n, 0, len(may), may)
        _observe_one(state, n, unit, count, may, out[n])


@compiled
def _copy_row(rows: NDArray[Any], n: int, out: NDArray[Any]) -> None:
    for index in range(rows.shape[1]):
        out[0, index] = rows[n, index]


@compiled
def _copy_game(state: GoState, n: int, other: GoState) -> None:
    """Make the only game of `other` the same as game n."""
    other.komi[0], other.key[0] = state.komi[n], state.key[n]
    _copy_row(state.header, n, other.header)
    _copy_row(state.colour, n, other.colour)
    _copy_row(state.head, n, other.head)
    _copy_row(state.link, n, other.link)
    _copy_row(state.liberties, n, other.liberties)
    _copy_row(state.chain_key, n, other.chain_key)
    _copy_row(state.seen, n, other.seen)
    _copy_row(state.recent, n, other.recent)


@compiled
def reach(
    state: GoState,
    games: NDArray[np.int64],
    paths: NDArray[np.int64],
    lengths: NDArray[np.int64],
    other: GoState,
    unit: float,
    claims: bool,
    planes: NDArray[Any],
    may: NDArray[np.bool_],
    over: NDArray[np.bool_],
    movers: NDArray[np.int8],
    scores: NDArray[np.float32],
) -> int:
    """Play the first `lengths` [B] actions of each path [B, D] from game `games` [B] on, in `other`, which holds one.

    Writes which actions may be played [B, A], where the game is over, whose turn it is and, where it is over, Black's
    lead [B], and one after the other the planes of the others; returns how many these are, or -1 - b for the first path
    with an illegal action. With `claims` a game also counts as over where a second pass would win it for the mover.
    """
    cells, running = state.colour.shape[1], 0
    count, owner, stack = np.empty(cells, np.int16), np.empty(cells, np.int8), np.empty(cells, np.int16)
    for b in range(len(games)):
        _copy_game(state, games[b], other)
        for step in range(lengths[b]):
            if not _play_one(other, 0, paths[b, step]):
                return -1 - b
        over[b] = is_over(other, 0)
        movers[b], scores[b] = 1 if other.header[0, TO_MOVE] == BLACK else -1, 0
        _legal_one(other, 0, may[b])
        if over[b] or (claims and other.header[0, PASSES] == 1):
            _owners(other, 0, owner, stack)
            lead = np.sum(owner == BLACK) - np.sum(owner == WHITE) - other.komi[0]
            over[b] = over[b] or lead * movers[b] > 0
            may[b] &= not over[b]
            scores[b] = lead * over[b]
        if not over[b]:
            _observe_one(other, 0, unit, count, may[b], planes[running])
            running += 1
    return running
