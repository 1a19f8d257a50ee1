"""One game of Go as GTP sees it: any colour may move at any time, moves are taken back, komi changes in between."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import copy
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.go import rules
from rayloom_agents.alphago.gtp.coordinates import LETTERS

Stones = NDArray[np.int8]


class Move(NamedTuple):
    """One ply."""

    colour: int
    """1 Black, -1 White."""
    action: int


class Board:
    """A game of one network's kind, with its past."""

    def __init__(self, game: Go) -> None:
        """Begin on an empty board. `game` says size, komi and superko; it may be as long as its settings allow."""
        self.game, self.komi = game, game.komi
        self.clear()

    @property
    def size(self) -> int:
        """Lines of the board."""
        return self.game.size

    @property
    def mover(self) -> int:
        """Whose turn it is: 1 Black's, -1 White's."""
        return int(self.game.mover(self.state)[0])

    def clear(self) -> None:
        """Take all stones off the board and forget the past; komi stays."""
        self.state = self.game.start(1)
        self.state.komi[:] = self.komi
        self.moves: list[Move] = []
        self._past: list[rules.GoState] = []

    def set_komi(self, komi: float) -> None:
        """Give White `komi` points from now on, in positions that are taken back to as well."""
        self.komi = komi
        for state in (self.state, *self._past):
            state.komi[:] = komi

    def turn_to(self, colour: int) -> None:
        """Make it this colour's turn. A pair of passes no longer ends the game."""
        header = self.state.header[0]
        header[rules.TO_MOVE] = rules.BLACK if colour == 1 else rules.WHITE
        if header[rules.PASSES] >= 2:
            header[rules.PASSES] = 0

    def is_over(self) -> bool:
        """Return whether both have passed in a row, or no ply is left."""
        return bool(self.game.is_over(self.state)[0])

    def is_legal(self, action: int) -> bool:
        """Return whether whose turn it is may play `action`."""
        return bool(self.game.legal(self.state)[0, action])

    def play(self, colour: int, action: int) -> bool:
        """Play a move or a pass of either colour, and return whether it was legal; nothing changes where it was not."""
        before = copy(self.state)
        self.turn_to(colour)
        if not self.is_legal(action):
            self.state = before
            return False
        self.game.play(self.state, np.array([action]))
        self.moves.append(Move(colour, action))
        self._past.append(before)
        return True

    def set_up(self, black: list[int], white: list[int], mover: int) -> bool:
        """Put stones on an empty board as if they had always been there; return whether that is a position."""
        self.clear()
        for colour, actions in ((1, black), (-1, white)):
            for action in actions:
                if not self.play(colour, action):
                    self.clear()
                    return False
        placed = int((self.stones() != 0).sum()) == len({*black, *white}) == len(black) + len(white)
        if not placed:
            self.clear()
            return False
        self.state.recent[:] = 0
        self.moves, self._past = [], []
        self.turn_to(mover)
        return True

    def become(self, other: Board) -> None:
        """Take over another board's position, past and komi; the other one must not be used any more."""
        self.game, self.komi, self.state = other.game, other.komi, other.state
        self.moves, self._past = other.moves, other._past

    def undo(self) -> bool:
        """Take the last ply back; return whether there was one."""
        if not self.moves:
            return False
        self.state = self._past.pop()
        self.moves.pop()
        return True

    def stones(self) -> Stones:
        """Return the stones [size, size]: 1 Black, -1 White, 0 none."""
        stones: Stones = self.game.board(self.state)[0]
        return stones

    def score(self) -> float:
        """Return by how much Black's area is larger than White's with komi, all stones alive."""
        return float(self.game.score(self.state)[0])

    def chains(self) -> list[list[int]]:
        """Return the actions of the points of every chain of stones."""
        stones, seen, found = self.stones().reshape(-1), set[int](), []
        for first in np.flatnonzero(stones).tolist():
            if first in seen:
                continue
            chain, stack = [], [first]
            seen.add(first)
            while stack:
                point = stack.pop()
                chain.append(point)
                for beside in _neighbours(point, self.size):
                    if beside not in seen and stones[beside] == stones[first]:
                        seen.add(beside)
                        stack.append(beside)
            found.append(sorted(chain))
        return found

    def __str__(self) -> str:
        """Draw the board with letters and numbers, X for Black and O for White."""
        letters = "   " + " ".join(LETTERS[: self.size])
        rows = [
            f"{self.size - row:2d} " + " ".join(".XO"[stone] for stone in line) + f" {self.size - row}"
            for row, line in enumerate(self.stones().tolist())
        ]
        return "\n".join([letters, *rows, letters])


def _neighbours(point: int, size: int) -> list[int]:
    row, column = divmod(point, size)
    around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    return [size * r + c for r, c in around if 0 <= r < size and 0 <= c < size]


def score_text(score: float) -> str:
    """Return a score as GTP and SGF write it: B+3.5, W+0.5 or 0."""
    return "0" if score == 0 else f"{'B' if score > 0 else 'W'}+{abs(score):g}"
