"""The rules of Go, compiled, over a batch of games in flat arrays (`rayloom_agents.alphago.go.state`).

No suicide; positional, situational or no superko; a game ends after two passes in a row or `max_plies` plies and is
scored by area (Tromp and Taylor 1995: https://tromp.github.io/go.html): stones, and empty regions that reach one colour
only. Action `row * size + column` puts a stone there, action `size^2` passes.

Every function here takes the whole batch `state` and the index `n` of one game, or no index and does all games.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.compiled import compiled
from rayloom_agents.alphago.go.state import (
    BLACK, BORDER, CAPTURED, EMPTY, KEYS, LARGEST, MAX_PLIES, NO_SUPERKO, PASSES, PLANES, PLY, POSITIONAL, RECENT,
    SITUATIONAL, SIZE, SUPERKO, TO_MOVE, WHITE, WHITE_TO_MOVE, GoState, start,
)  # fmt: skip

__all__ = [
    "BLACK", "BORDER", "CAPTURED", "EMPTY", "LARGEST", "MAX_PLIES", "NO_SUPERKO", "PASSES", "PLANES", "PLY",
    "POSITIONAL", "RECENT", "SITUATIONAL", "SIZE", "SUPERKO", "TO_MOVE", "WHITE", "GoState", "area", "is_over", "legal",
    "observe", "play", "play_at_random", "reach", "start",
]  # fmt: skip


@compiled
def _neighbour(cell: int, width: int, direction: int) -> int:
    if direction == 0:
        return cell - width
    if direction == 1:
        return cell - 1
    if direction == 2:
        return cell + 1
    return cell + width


@compiled
def _cell(action: int, size: int) -> int:
    return (action // size + 1) * (size + 2) + action % size + 1


@compiled
def _remember(state: GoState, n: int, key: int) -> None:
    mask = state.seen.shape[1] - 1
    slot = key & mask
    while state.seen[n, slot] != 0 and state.seen[n, slot] != key:
        slot = (slot + 1) & mask
    state.seen[n, slot] = key


@compiled
def _was_seen(state: GoState, n: int, key: int) -> bool:
    mask = state.seen.shape[1] - 1
    slot = key & mask
    while state.seen[n, slot] != 0:
        if state.seen[n, slot] == key:
            return True
        slot = (slot + 1) & mask
    return False


@compiled
def _key_after(state: GoState, n: int, cell: int) -> int:
    """Return the key of the position with the mover's stone on `cell`; 0: it is not empty, or the move is suicide."""
    colour, head = state.colour[n], state.head[n]
    if colour[cell] != EMPTY:
        return 0
    own, width = state.header[n, TO_MOVE], state.header[n, SIZE] + 2
    key, alive = state.key[n], False
    for direction in range(4):
        beside = _neighbour(cell, width, direction)
        if colour[beside] == EMPTY:
            alive = True
        elif colour[beside] != BORDER:
            chain, contacts, first = head[beside], 0, True
            for other in range(4):
                touched = _neighbour(cell, width, other)
                if (colour[touched] == BLACK or colour[touched] == WHITE) and head[touched] == chain:
                    contacts += 1
                    first = first and other >= direction
            survives = state.liberties[n, chain] > contacts
            if colour[beside] == own:
                alive = alive or survives
            elif not survives:
                alive = True
                if first:
                    key ^= state.chain_key[n, chain]
    return key ^ KEYS[own, cell] if alive else 0


@compiled
def is_over(state: GoState, n: int) -> bool:
    """Return whether game n has ended."""
    return bool(state.header[n, PASSES] >= 2 or state.header[n, PLY] >= state.header[n, MAX_PLIES])


@compiled
def _may_place(state: GoState, n: int, cell: int) -> bool:
    key = _key_after(state, n, cell)
    if key == 0:
        return False
    superko = state.header[n, SUPERKO]
    if superko == NO_SUPERKO or state.header[n, CAPTURED] == 0:
        return True  # without a capture the number of stones has only grown, and no position can come back
    if superko == SITUATIONAL and state.header[n, TO_MOVE] == BLACK:
        key ^= WHITE_TO_MOVE
    return not _was_seen(state, n, key)


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
        _remember(state, n, state.key[n] ^ WHITE_TO_MOVE if situational else state.key[n])
    return True


@compiled
def play(state: GoState, actions: NDArray[np.int64], played: NDArray[np.bool_]) -> None:
    """Play one action in every game [N], in place; `played` [N] says which were legal. Below 0: nothing to play."""
    for n in range(len(actions)):
        played[n] = actions[n] < 0 or _play_one(state, n, actions[n])


@compiled
def _legal_one(state: GoState, n: int, out: NDArray[np.bool_]) -> None:
    size, running = state.header[n, SIZE], not is_over(state, n)
    for action in range(size * size):
        out[action] = running and _may_place(state, n, _cell(action, size))
    out[size * size] = running


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
    for action in range(size * size):
        cell = _cell(action, size)
        if colour[cell] == EMPTY:
            for direction in range(4):
                beside = _neighbour(cell, size + 2, direction)
                new = colour[beside] == BLACK or colour[beside] == WHITE
                for earlier in range(direction):
                    other = _neighbour(cell, size + 2, earlier)
                    occupied = colour[other] == BLACK or colour[other] == WHITE
                    new = new and not (occupied and head[other] == head[beside])
                if new:
                    count[head[beside]] += 1


@compiled
def _observe_one(
    state: GoState, n: int, unit: float, count: NDArray[np.int16], legal: NDArray[np.bool_], out: NDArray[np.float32]
) -> None:
    """Write the planes [18, size, size] of game n; see `observe`."""
    size, own, recent = state.header[n, SIZE], state.header[n, TO_MOVE], state.recent[n]
    _count_liberties(state, n, count)
    out[:] = 0
    for action in range(size * size):
        row, column, cell = action // size, action % size, _cell(action, size)
        stone = state.colour[n, cell]
        if stone != EMPTY:
            plane = 0 if stone == own else 1
            out[plane, row, column] = 1
            liberties = min(3, count[state.head[n, cell]])
            out[1 + 3 * plane + liberties, row, column] = 1
        if not legal[action]:
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
    """Write the planes [N, 18, size, size] as the mover sees them; see `rayloom_agents.alphago.games.go`.

    `unit`: 1, or into how many parts a point is divided where komi is to be a whole number and not in board lengths.
    """
    count = np.empty(state.colour.shape[1], np.int16)
    may = np.empty(out.shape[2] * out.shape[3] + 1, np.bool_)
    for n in range(len(out)):
        _legal_one(state, n, may)
        if is_over(state, n):
            for action in range(len(may) - 1):
                may[action] = _may_place(state, n, _cell(action, state.header[n, SIZE]))
        _observe_one(state, n, unit, count, may, out[n])


@compiled
def _copy_game(state: GoState, n: int, other: GoState) -> None:
    """Make the only game of `other` the same as game n."""
    other.header[0], other.komi[0], other.key[0] = state.header[n], state.komi[n], state.key[n]
    other.colour[0], other.head[0], other.link[0] = state.colour[n], state.head[n], state.link[n]
    other.liberties[0], other.chain_key[0] = state.liberties[n], state.chain_key[n]
    other.seen[0], other.recent[0] = state.seen[n], state.recent[n]


@compiled
def reach(
    state: GoState,
    games: NDArray[np.int64],
    paths: NDArray[np.int64],
    lengths: NDArray[np.int64],
    other: GoState,
    unit: float,
    planes: NDArray[np.float32],
    may: NDArray[np.bool_],
    over: NDArray[np.bool_],
    movers: NDArray[np.int8],
    scores: NDArray[np.float32],
) -> int:
    """Play the first `lengths` [B] actions of each path [B, D] from game `games` [B] on, in `other`, which holds one.

    Writes which actions may be played [B, A], where the game is over, whose turn it is and, where it is over, Black's
    lead [B], and one after the other the planes of the others; returns how many these are, or -1 - b for the first path
    with an illegal action.
    """
    count = np.empty(state.colour.shape[1], np.int16)
    owner, stack = np.empty(state.colour.shape[1], np.int8), np.empty(state.colour.shape[1], np.int16)
    running = 0
    for b in range(len(games)):
        _copy_game(state, games[b], other)
        for step in range(lengths[b]):
            if not _play_one(other, 0, paths[b, step]):
                return -1 - b
        over[b] = is_over(other, 0)
        movers[b] = 1 if other.header[0, TO_MOVE] == BLACK else -1
        scores[b] = 0
        _legal_one(other, 0, may[b])
        if over[b]:
            _owners(other, 0, owner, stack)
            scores[b] = -other.komi[0]
            for cell in range(len(owner)):
                scores[b] += (owner[cell] == BLACK) - np.int8(owner[cell] == WHITE)
        else:
            _observe_one(other, 0, unit, count, may[b], planes[running])
            running += 1
    return running


@compiled
def play_at_random(state: GoState, seed: int, most: int) -> int:
    """Play at random until every game has ended, at most `most` plies each; return the plies over all games.

    A move is the first one from a random point on that is legal and fills no own eye; a pass where there is none.
    """
    np.random.seed(seed)
    total = 0
    for n in range(len(state.komi)):
        size = state.header[n, SIZE]
        for _ in range(most):
            if is_over(state, n):
                break
            action, first = size * size, np.random.randint(size * size)
            for step in range(size * size):
                candidate = (first + step) % (size * size)
                cell, eye = _cell(candidate, size), True
                if state.colour[n, cell] != EMPTY:
                    continue
                for direction in range(4):
                    beside = state.colour[n, _neighbour(cell, size + 2, direction)]
                    eye = eye and (beside == BORDER or beside == state.header[n, TO_MOVE])
                if not eye and _may_place(state, n, cell):
                    action = candidate
                    break
            _play_one(state, n, action)
            total += 1
    return total
