"""Go on boards of 2 to 19 lines behind the interface of games."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rayloom.contract import UserError
from rayloom_agents.alphago.games.game import Game, Leaves, refuse, square_symmetries
from rayloom_agents.alphago.go import rules
from rayloom_agents.alphago.go.rules import GoState

_PARTS = 2.0
"""Of a point, in which komi is told in bytes: up to 63.5 points."""
SUPERKO = {"none": rules.NO_SUPERKO, "positional": rules.POSITIONAL, "situational": rules.SITUATIONAL}


class Go(Game):
    """Area scoring, no suicide; the last action passes.

    Planes: 0-1 own and the opponent's stones; 2-4 own chains with 1, 2, 3 or more liberties, 5-7 the opponent's; 8-12
    the last five moves, the newest first; 13 points where the mover may not play; 14 whether the opponent has just
    passed; 15 whether the mover is Black; 16 komi as the mover gets it, in units of the board's length; 17 ones.
    """

    num_planes = rules.PLANES
    has_owners = True

    def __init__(
        self,
        size: int = 9,
        komi: float = 7.5,
        superko: Literal["none", "positional", "situational"] = "positional",
        max_plies: int | None = None,
    ) -> None:
        """`max_plies`: where a game ends at the latest, 3 * size^2 if it is None. UserError for impossible boards."""
        if not 2 <= size <= rules.LARGEST:
            raise UserError(f"game.size: a board of Go has 2 to {rules.LARGEST} lines, not {size}")
        if superko not in SUPERKO:
            raise UserError(f"game.superko: input should be one of {', '.join(SUPERKO)}, not {superko!r}")
        self.rows = self.columns = self.size = size
        self.num_actions = size * size + 1
        self.komi, self.superko = komi, superko
        self.max_plies = 3 * size * size if max_plies is None else max_plies
        self.plane_scale = np.ones(self.num_planes, np.float32)
        self.plane_scale[16] = 1 / (_PARTS * size)

    def start(self, count: int) -> GoState:
        """Return `count` games on empty boards; komi may be changed in the state."""
        return rules.start(count, self.size, self.komi, SUPERKO[self.superko], self.max_plies)

    def mover(self, state: GoState) -> NDArray[np.int8]:
        """Return 1 for Black and -1 for White."""
        return np.where(state.header[:, rules.TO_MOVE] == rules.BLACK, 1, -1).astype(np.int8)

    def is_over(self, state: GoState) -> NDArray[np.bool_]:
        """Return where both have passed in a row, or no ply is left."""
        plies_left = state.header[:, rules.PLY] < state.header[:, rules.MAX_PLIES]
        ended: NDArray[np.bool_] = (state.header[:, rules.PASSES] >= 2) | ~plies_left
        return ended

    def legal(self, state: GoState) -> NDArray[np.bool_]:
        """Return the legal moves, and the pass."""
        out = np.empty((len(state.komi), self.num_actions), np.bool_)
        rules.legal(state, out)
        return out

    def play(self, state: GoState, actions: NDArray[Any]) -> None:
        """Play moves and passes."""
        over = self.is_over(state)
        played = np.empty(len(state.komi), np.bool_)
        rules.play(state, np.ascontiguousarray(actions, np.int64), played)
        refuse(over, actions, played)

    def owners(self, state: GoState) -> NDArray[np.int8]:
        """Return whose area every point is [N, size^2]: 1 Black's, -1 White's, 0 nobody's."""
        out = np.empty((len(state.komi), self.size * self.size), np.int8)
        rules.area(state, out)
        return out

    def score(self, state: GoState) -> NDArray[np.float32]:
        """Return Black's area minus White's minus komi."""
        points: NDArray[np.float32] = self.owners(state).sum(axis=1, dtype=np.float32) - state.komi
        return points

    def wins_by_ending(self, state: GoState) -> NDArray[np.bool_]:
        """Return where the opponent has just passed and the mover leads as the board stands."""
        passed = (state.header[:, rules.PASSES] == 1) & ~self.is_over(state)
        won: NDArray[np.bool_] = passed & (self.outcome(state) * self.mover(state) > 0)
        return won

    def observe(self, state: GoState) -> NDArray[np.float32]:
        """Return the planes."""
        out = np.empty((len(state.komi), self.num_planes, self.size, self.size), np.float32)
        rules.observe(state, 1.0, out)
        return out

    def komi_of(self, state: GoState) -> NDArray[np.float32]:
        """Return White's points."""
        return state.komi

    def set_komi(self, state: GoState, komi: NDArray[np.float32]) -> None:
        """Change White's points."""
        state.komi[:] = komi

    def leaves(
        self,
        state: GoState,
        games: NDArray[Any],
        paths: NDArray[np.int64],
        lengths: NDArray[np.int64],
        spare: GoState,
        claims: bool = False,
    ) -> Leaves:
        """Return where paths lead, in one compiled loop."""
        count = len(games)
        planes = np.empty((count, self.num_planes, self.size, self.size), np.int8)
        legal, over = np.empty((count, self.num_actions), np.bool_), np.empty(count, np.bool_)
        movers, scores = np.empty(count, np.int8), np.empty(count, np.float32)
        running = rules.reach(
            state, games, paths, lengths, spare, _PARTS, claims, planes, legal, over, movers, scores
        )  # fmt: skip
        if running < 0:
            raise ValueError(f"path {-1 - running} is illegal in game {int(games[-1 - running])}")
        return Leaves(planes[:running], legal, over, movers, np.sign(scores))

    def board(self, state: GoState) -> NDArray[np.int8]:
        """Return the stones [N, size, size]: 1 Black, -1 White, 0 none."""
        inner = state.colour.reshape(-1, self.size + 2, self.size + 2)[:, 1:-1, 1:-1]
        stones: NDArray[np.int8] = (inner == rules.BLACK).astype(np.int8) - (inner == rules.WHITE).astype(np.int8)
        return stones

    def point_symmetries(self) -> NDArray[np.int64]:
        """Return turns and reflections."""
        return square_symmetries(self.size)
