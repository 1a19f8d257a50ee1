"""The referee of matches between players of Go: our rules, area scoring after two passes.

Every random opening is played twice with colours exchanged. An illegal move, an answer that is none, a crash and a
deadline that passes lose the game at hand, and only that. An engine's own opinion of the score is compared with ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import put, take
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.gtp.board import Move, score_text
from rayloom_agents.alphago.gtp.contestants import Choice, Contestant
from rayloom_agents.alphago.gtp.coordinates import RESIGN, vertex
from rayloom_agents.alphago.gtp.records import Record
from rayloom_agents.alphago.matches import wilson_interval

Colours: TypeAlias = NDArray[np.int8]
Mask: TypeAlias = NDArray[np.bool_]
Whole: TypeAlias = NDArray[np.int64]
_MOST_DRAWS = 100


@dataclass
class PlayedGame:
    """One game."""

    number: int
    black: int
    """Which contestant has Black: 0 or 1."""
    opening: list[int]
    moves: list[Move] = field(default_factory=list)
    win_rates: list[float | None] = field(default_factory=list)
    """Of each ply: Black's chances, as its player sees them."""
    result: str = ""
    """B+3.5, W+R (resigned), B+F (by a fault of White's), 0."""
    outcome: float = 0.0
    """Of contestant 0: 1, 0 or -1."""
    fault: str = ""
    """What a contestant did that lost it the game, in words."""
    faulty: int | None = None
    """Who did that."""
    other_scores: dict[str, float] = field(default_factory=dict)
    """By how much Black has won in the opinion of an engine, by its name."""
    score: float | None = None
    """In ours; None where the game was not counted."""

    def record(self, game: Go, names: Sequence[str]) -> Record:
        """Return it for an SGF file."""
        told = [f"{name} counts {score_text(score)}" for name, score in self.other_scores.items()]
        comment = "; ".join([*([self.fault] if self.fault else []), *told])
        black, white = names[self.black], names[1 - self.black]
        return Record(game.size, game.komi, self.moves, (black, white), self.result, self.win_rates,
                      len(self.opening), comment)  # fmt: skip


@dataclass(frozen=True)
class MatchResult:
    """What a match came to, from contestant 0's side."""

    names: tuple[str, str]
    games: list[PlayedGame]
    seconds_per_move: tuple[float, float]
    restarts: tuple[int, int]

    @property
    def score(self) -> float:
        """A win counts 1, a draw one half."""
        return sum((game.outcome + 1) / 2 for game in self.games) / len(self.games)

    @property
    def interval(self) -> tuple[float, float]:
        """The score's 95 % interval (Wilson 1927)."""
        return wilson_interval(self.score, len(self.games))

    def count(self, outcome: int, black: int | None = None) -> int:
        """Return how many games ended so, of those in which `black` had Black."""
        return sum(game.outcome == outcome and black in (None, game.black) for game in self.games)

    def faults(self, contestant: int) -> int:
        """Return how many games a contestant lost by a fault."""
        return sum(game.faulty == contestant for game in self.games)

    def disagreements(self) -> tuple[int, int]:
        """Return in how many counted games an engine saw another winner than we do, and another score."""
        pairs = [(game.score, other) for game in self.games if game.score is not None
                 for other in game.other_scores.values()]  # fmt: skip
        return (
            sum(np.sign(ours) != np.sign(theirs) for ours, theirs in pairs),
            sum(not math.isclose(ours, theirs, abs_tol=1e-6) for ours, theirs in pairs),
        )

    @property
    def distinct(self) -> int:
        """Return how many games differ from all others with the same colours."""
        return len({(game.black, tuple(game.moves)) for game in self.games})


def draw_openings(game: Go, count: int, plies: int, seed: int) -> list[list[int]]:
    """Return `count` sequences of random legal moves, none of them a pass, different ones while there are any."""
    found: list[list[int]] = []
    for number in range(count):
        generator = np.random.default_rng([seed, 0, number])
        for _ in range(_MOST_DRAWS):
            state, opening = game.start(1), []
            for _ in range(plies):
                points = np.flatnonzero(game.legal(state)[0, :-1])
                opening.append(int(generator.choice(points)) if len(points) else game.num_actions - 1)
                game.play(state, np.array(opening[-1:]))
            if opening not in found:
                break
        found.append(opening)
    return found


class Referee:
    """Plays one match."""

    def __init__(
        self,
        game: Go,
        players: tuple[Contestant, Contestant],
        tables: int,
        told: Callable[[PlayedGame], None] = lambda game: None,
    ) -> None:
        """`tables`: games at once; `told` hears of every game that ends."""
        self.game, self.players, self.told = game, players, told
        self._state = game.start(tables)
        self._at: list[PlayedGame | None] = [None] * tables
        self._spent, self._chosen = [0.0, 0.0], [0, 0]

    def play(self, games: int, opening_plies: int, seed: int, earlier: Sequence[PlayedGame] = ()) -> MatchResult:
        """Play an even number of games; those that an `earlier` part of the same match has played count, too."""
        openings = draw_openings(self.game, games // 2, opening_plies, seed)
        numbers = range(2 * (games // 2))
        done = [game for game in earlier if game.number in numbers]
        left = sorted(set(numbers) - {game.number for game in done}, reverse=True)
        waiting = [PlayedGame(number, number % 2, openings[number // 2]) for number in left]
        while len(done) < len(numbers):
            self._begin(waiting)
            done += self._tick()
        rates = [spent / max(1, count) for spent, count in zip(self._spent, self._chosen, strict=True)]
        names = (self.players[0].name, self.players[1].name)
        restarts = (self.players[0].restarts, self.players[1].restarts)
        return MatchResult(names, sorted(done, key=lambda game: game.number), (rates[0], rates[1]), restarts)

    def _begin(self, waiting: list[PlayedGame]) -> None:
        """Put waiting games on free tables."""
        free = [table for table, game in enumerate(self._at) if game is None][: len(waiting)]
        if not free:
            return
        put(self._state, np.array(free), self.game.start(len(free)))
        for table in free:
            self._at[table] = waiting.pop()
        for player in self.players:
            player.begin(free)

    def _tick(self) -> list[PlayedGame]:
        """Play one ply at every table, and return the games that have ended."""
        colours = self.game.mover(self._state)
        actions = np.full(len(self._at), -1, np.int64)
        turn = np.zeros(len(self._at), np.int64)
        by_rule = np.zeros(len(self._at), np.bool_)
        ended: list[PlayedGame] = []
        asked: tuple[list[int], list[int]] = ([], [])
        for table, played in enumerate(self._at):
            if played is None:
                continue
            turn[table] = played.black if colours[table] == 1 else 1 - played.black
            if len(played.moves) < len(played.opening):
                actions[table], by_rule[table] = played.opening[len(played.moves)], True
                self._note(played, int(colours[table]), int(actions[table]), None)
            else:
                asked[turn[table]].append(table)
        legal = self.game.legal(self._state)
        for side, tables in enumerate(asked):
            for table, choice in zip(tables, self._ask(side, tables, colours), strict=True):
                played = self._at[table]
                assert played is not None
                why = self._judge(choice, legal[table])
                if why is None:
                    actions[table] = choice.action
                    rate = choice.win_rate
                    black = rate if rate is None or colours[table] == 1 else 1 - rate
                    self._note(played, int(colours[table]), choice.action, black)
                else:
                    ended.append(self._lose(table, side, why))
        self._play(actions, colours, turn, by_rule, ended)
        return ended

    def _ask(self, side: int, tables: list[int], colours: Colours) -> list[Choice]:
        if not tables:
            return []
        began = time.perf_counter()
        choices = self.players[side].choose(self._state, tables, colours)
        self._spent[side] += time.perf_counter() - began
        self._chosen[side] += len(tables)
        return choices

    def _judge(self, choice: Choice, legal: Mask) -> str | None:
        """Return why a choice loses the game: an empty word for a resignation; None where the game goes on."""
        if choice.fault:
            return choice.fault
        if choice.action == RESIGN:
            return ""
        if not legal[choice.action]:
            return f"played {vertex(choice.action, self.game.size)}, which is illegal"
        return None

    def _note(self, played: PlayedGame, colour: int, action: int, black: float | None) -> None:
        played.moves.append(Move(colour, action))
        played.win_rates.append(black)

    def _play(
        self, actions: Whole, colours: Colours,
        turn: Whole, by_rule: Mask,
        ended: list[PlayedGame],
    ) -> None:  # fmt: skip
        """Play the legal moves, tell both sides, and count the games that they end."""
        self.game.play(self._state, actions)
        for side, player in enumerate(self.players):
            # Moves of an opening are nobody's own: both sides are told.
            for table, why in player.played(actions, colours, (turn == side) & ~by_rule).items():
                if self._at[table] is not None:
                    ended.append(self._lose(table, side, why))
        for table in np.flatnonzero(self.game.is_over(self._state)).tolist():
            if self._at[table] is not None:
                ended.append(self._count(table))

    def _lose(self, table: int, side: int, why: str) -> PlayedGame:
        """End a game that a contestant has lost: by resigning, or by a fault."""
        played = self._at[table]
        assert played is not None
        played.result = f"{'W' if played.black == side else 'B'}+{'F' if why else 'R'}"
        played.outcome = -1.0 if side == 0 else 1.0
        if why:
            played.faulty, played.fault = (
                side,
                why if self.players[side].name in why else f"{self.players[side].name} {why}",
            )
        return self._end(table)

    def _count(self, table: int) -> PlayedGame:
        """End a game after two passes, or where no ply is left."""
        played = self._at[table]
        assert played is not None
        played.score = float(self.game.score(take(self._state, np.array([table])))[0])
        played.result = score_text(played.score)
        played.outcome = float(np.sign(played.score)) * (1 if played.black == 0 else -1)
        for player in self.players:
            theirs = player.final_score(table)
            if theirs is not None:
                played.other_scores[player.name] = theirs
        return self._end(table)

    def _end(self, table: int) -> PlayedGame:
        played = self._at[table]
        assert played is not None
        self._at[table] = None
        put(self._state, np.array([table]), self.game.start(1))
        self.told(played)
        return played
