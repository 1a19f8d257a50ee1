"""What a game is to the search, to self-play and to matches: arrays over N games at once.

A state is a named tuple of arrays whose first dimension is the games, so that rows of any game can be taken, repeated
and copied alike. Two players move in turn; the score is the first one's, and what one wins the other loses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

State = Any
"""A named tuple of arrays [N, ...], of a class that each game has for itself."""
Rows = NDArray[Any]
S = TypeVar("S", bound=tuple[NDArray[Any], ...])


def take(state: S, rows: Rows) -> S:
    """Return the games `rows` (indices, or a mask [N]), which change independently of `state`."""
    return type(state)(*(array[rows] for array in state))


def view(state: S, where: slice) -> S:
    """Return the games of a slice, which are those of `state`: what is played in one is played in the other."""
    return type(state)(*(array[where] for array in state))


def repeat(state: S, times: int) -> S:
    """Return every game `times` times, one after the other."""
    return type(state)(*(np.repeat(array, times, axis=0) for array in state))


def copy(state: S) -> S:
    """Return games that change independently of `state`."""
    return type(state)(*(array.copy() for array in state))


def put(state: S, rows: Rows, values: S) -> None:
    """Replace the games `rows` by those of `values`, in place."""
    for array, new in zip(state, values, strict=True):
        array[rows] = new


class Leaves(NamedTuple):
    """Where B paths lead."""

    planes: NDArray[Any]
    """[R, C, rows, columns]: what the network sees of those that have not ended, one after the other, in units of
    `Game.plane_scale`."""
    legal: NDArray[np.bool_]
    """[B, A]"""
    over: NDArray[np.bool_]
    """[B]"""
    movers: NDArray[np.int8]
    """[B]"""
    outcomes: NDArray[np.float32]
    """[B]: 1 where the first player has won, -1 where the second has, 0 elsewhere."""


class Game(ABC):
    """A board game for two."""

    rows: int
    columns: int
    num_actions: int
    """Actions are 0 ... num_actions - 1 in every position, legal or not."""
    num_planes: int
    max_plies: int
    """No game is longer."""
    plane_scale: NDArray[np.float32] | None = None
    """[C]: what one unit of each plane of `leaves` stands for, where these are bytes; None: they are as `observe`'s."""
    has_owners: bool = False
    """Whether points belong to somebody at the end (`owners`)."""

    @abstractmethod
    def start(self, count: int) -> State:
        """Return `count` games at their beginning."""

    @abstractmethod
    def mover(self, state: State) -> NDArray[np.int8]:
        """Return whose turn it is [N]: 1 the first player's, -1 the second's."""

    @abstractmethod
    def is_over(self, state: State) -> NDArray[np.bool_]:
        """Return which games have ended [N]."""

    @abstractmethod
    def legal(self, state: State) -> NDArray[np.bool_]:
        """Return which actions may be played [N, num_actions]: none where the game has ended, else at least one."""

    @abstractmethod
    def play(self, state: State, actions: NDArray[Any]) -> None:
        """Play one action in every game [N], in place; where it is below 0, nothing is played.

        ValueError where one is illegal; the state may not be used afterwards.
        """

    @abstractmethod
    def score(self, state: State) -> NDArray[np.float32]:
        """Return by how much the first player has won [N], below 0 where the second has.

        Games that have not ended are scored as they stand.
        """

    @abstractmethod
    def observe(self, state: State) -> NDArray[np.float32]:
        """Return what the network sees [N, num_planes, rows, columns], from the mover's side."""

    @abstractmethod
    def point_symmetries(self) -> NDArray[np.int64]:
        """Return the symmetries of the board [K, rows * columns], the identity first.

        In symmetry k, point i of the new board is what lay on point `[k, i]` of the old one.
        """

    def symmetries(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the symmetries of points [K, rows * columns] and of actions [K, num_actions].

        `planes.reshape(N, C, -1)[:, :, points[k]]` and `policy[:, actions[k]]` are one position after symmetry k.
        Here actions are points, and whatever comes after them stays what it is (a pass).
        """
        points = self.point_symmetries()
        rest = np.arange(self.rows * self.columns, self.num_actions)
        return points, np.concatenate([points, np.tile(rest, (len(points), 1))], axis=1)

    def owners(self, state: State) -> NDArray[np.int8]:
        """Return whose every point is [N, rows * columns]: 1 the first player's, -1 the second's, 0 nobody's."""
        raise NotImplementedError(f"points of {type(self).__name__} belong to nobody")

    def komi_of(self, state: State) -> NDArray[np.float32]:
        """Return how many points the second player gets in each game [N]; 0 in games without points."""
        return np.zeros(len(self.mover(state)), np.float32)

    def set_komi(self, state: State, komi: NDArray[np.float32]) -> None:  # noqa: B027  most games have none
        """Change the points that the second player gets [N], in place."""

    def wins_by_ending(self, state: State) -> NDArray[np.bool_]:
        """Return where the mover can end the game by the last action, a pass, and has won then [N]."""
        return np.zeros(len(self.mover(state)), np.bool_)

    def forced(self, state: State) -> NDArray[np.bool_]:
        """Return the actions among which a search chooses at its roots [N, num_actions]: all legal ones, or fewer.

        A game may leave out those to which wins one or two plies ahead are the answer, and shows by `leaves` with
        `claims` the same below the roots.
        """
        ending = np.arange(self.num_actions) == self.num_actions - 1
        found: NDArray[np.bool_] = self.legal(state) & (ending | ~self.wins_by_ending(state)[:, None])
        return found

    def leaves(
        self,
        state: State,
        games: Rows,
        paths: NDArray[np.int64],
        lengths: NDArray[np.int64],
        spare: State,
        claims: bool = False,
    ) -> Leaves:
        """Return where the first `lengths` [B] actions of each path [B, D] lead from game `games` [B] of `state`.

        `state` does not change. `spare` holds one game, which is overwritten. With `claims` a game counts as over, and
        won, where `wins_by_ending` says so. ValueError where an action is illegal.
        """
        reached = take(state, games)
        self.advance(reached, paths, lengths)
        movers, legal, outcomes = self.mover(reached), self.legal(reached), self.outcome(reached)
        over = self.is_over(reached) | (claims & self.wins_by_ending(reached))
        running = np.flatnonzero(~over)
        outcomes = np.where(over, outcomes, 0).astype(np.float32)
        return Leaves(self.observe(take(reached, running)), legal & ~over[:, None], over, movers, outcomes)

    def advance(self, state: State, paths: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Play the first `lengths` [N] actions of each path [N, D], in place."""
        for ply in range(int(lengths.max(initial=0))):
            self.play(state, np.where(ply < lengths, paths[:, ply], -1))

    def outcome(self, state: State) -> NDArray[np.float32]:
        """Return who has won [N]: 1 the first player, -1 the second, 0 nobody."""
        return np.sign(self.score(state)).astype(np.float32)


def refuse(state_over: NDArray[np.bool_], actions: NDArray[Any], played: NDArray[np.bool_]) -> None:
    """ValueError that names the first game whose action was not `played`."""
    if not played.all():
        game = int(np.flatnonzero(~played)[0])
        why = "the game has ended" if state_over[game] else "it is not legal there"
        raise ValueError(f"action {int(actions[game])} was not played in game {game}: {why}")


def square_symmetries(size: int) -> NDArray[np.int64]:
    """Return the 8 symmetries of a square board [8, size^2], the identity first."""
    board = np.arange(size * size).reshape(size, size)
    turned = [np.rot90(side, quarter) for side in (board, board.T) for quarter in range(4)]
    return np.stack([side.reshape(-1) for side in turned])


def half_turn(rows: int, columns: int) -> NDArray[np.int64]:
    """Return the identity and the half turn of a board [2, rows * columns]."""
    points = np.arange(rows * columns)
    return np.stack([points, points[::-1]])
