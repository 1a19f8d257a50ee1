"""Who can take part in a match: networks, search without knowledge, chance, and engines that speak GTP.

A contestant plays in all games at once that lie on the tables of a match, one game to a table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayloom.contract import UserError
from rayloom_agents.alphago.games.game import State
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.gtp.client import Engine, EngineError, EngineLost, EngineRefused
from rayloom_agents.alphago.gtp.coordinates import action_of, vertex
from rayloom_agents.alphago.matches import no_knowledge, random_actions
from rayloom_agents.alphago.search import Infer, Search, SearchSettings


@dataclass(frozen=True)
class Choice:
    """What a contestant answers when it is its turn."""

    action: int = -1
    """A move, a pass or RESIGN."""
    win_rate: float | None = None
    """What it thinks its own chances to be."""
    fault: str = ""
    """Why it has lost the game without a move."""


class Contestant(ABC):
    """One side of a match."""

    name: str

    @abstractmethod
    def begin(self, tables: Sequence[int]) -> None:
        """Begin a new game at each of these tables."""

    @abstractmethod
    def choose(self, state: State, tables: Sequence[int], colours: NDArray[np.int8]) -> list[Choice]:
        """Return a choice for each of the tables named, where it is its turn; `colours` [T]: of whose turn it is."""

    def played(self, actions: NDArray[np.int64], colours: NDArray[np.int8], own: NDArray[np.bool_]) -> dict[int, str]:
        """See what was played at all tables [T] (below 0: nothing), by which colour, and whether by itself.

        Returns tables at which it cannot go on, and why: it has lost there.
        """
        return {}

    def final_score(self, table: int) -> float | None:
        """Return by how much Black has won in its opinion; None where it has none."""
        return None

    @property
    def restarts(self) -> int:
        """How often it had to be started anew."""
        return 0

    def close(self) -> None:  # noqa: B027  optional
        """Release what it holds. Idempotent."""


class Chance(Contestant):
    """Any legal move, a pass included."""

    name = "random"

    def __init__(self, game: Go, seed: int) -> None:
        self._game, self._generator = game, np.random.default_rng([seed, 2])

    def begin(self, tables: Sequence[int]) -> None:
        """Nothing is kept."""

    def choose(self, state: State, tables: Sequence[int], colours: NDArray[np.int8]) -> list[Choice]:
        """Draw."""
        actions = random_actions(self._game, state, self._generator)
        return [Choice(int(actions[table])) for table in tables]


class Searcher(Contestant):
    """A network with tree search, or its likeliest move where there is no search; trees are kept between moves."""

    def __init__(self, name: str, game: Go, tables: int, infer: Infer, settings: SearchSettings | None) -> None:
        self.name, self._game, self.infer = name, game, infer
        self._search = None if settings is None else Search(game, tables, settings)
        self._generator = np.random.default_rng(0)  # nothing is drawn without noise
        self._tables = tables

    def begin(self, tables: Sequence[int]) -> None:
        """Begin with new trees."""
        if self._search is not None:
            self._search.forget(np.array(tables, np.int64))

    def choose(self, state: State, tables: Sequence[int], colours: NDArray[np.int8]) -> list[Choice]:
        """Search in the games named; the likeliest or most visited move."""
        if self._search is None:
            logits, values = self.infer(self._game.observe(state))
            best = np.where(self._game.legal(state), logits, -np.inf).argmax(axis=1)
            return [Choice(int(best[table]), (float(values[table]) + 1) / 2) for table in tables]
        simulations = np.zeros(self._tables, np.int64)
        simulations[list(tables)] = self._search.settings.simulations
        found = self._search.run(self.infer, state, self._generator, simulations=simulations)
        return [Choice(int(found.action[table]), (float(found.value[table]) + 1) / 2) for table in tables]

    def played(self, actions: NDArray[np.int64], colours: NDArray[np.int8], own: NDArray[np.bool_]) -> dict[int, str]:
        """Follow."""
        if self._search is not None:
            self._search.follow(actions)
        return {}


def without_knowledge(game: Go, tables: int, simulations: int) -> Searcher:
    """Return a search with equal priors and the value of ended games alone."""
    settings = SearchSettings(simulations=simulations, leaves=min(8, max(1, simulations // 16)))
    return Searcher(f"search:{simulations}", game, tables, no_knowledge(game.num_actions), settings)


class GtpContestant(Contestant):
    """An external engine, one process for each table; one that dies or hangs is started anew for its next game."""

    def __init__(self, name: str, commands: Sequence[Sequence[str]], game: Go, deadline_s: float) -> None:
        """`commands`: one for each table. UserError where the engine cannot be started."""
        self.name, self._game = name, game
        self._engines: list[Engine] = []
        self._lost: set[int] = set()
        self._restarts = [0] * len(commands)
        self._threads = ThreadPoolExecutor(len(commands), thread_name_prefix="gtp-engine")
        try:
            for command in commands:
                self._engines.append(Engine(command, deadline_s=deadline_s, name=name))
        except UserError:
            self.close()
            raise

    @property
    def restarts(self) -> int:
        """How often an engine was started anew."""
        return sum(self._restarts)

    def begin(self, tables: Sequence[int]) -> None:
        """Clear the boards; UserError for an engine that does not begin, twice in a row, or on another board."""
        list(self._threads.map(self._begin_one, tables))

    def _begin_one(self, table: int) -> None:
        engine = self._engines[table]
        for attempt in range(2):
            try:
                if table in self._lost:
                    self._lost.discard(table)
                    self._restarts[table] += 1
                    engine.restart()
                for command in (f"boardsize {self._game.size}", "clear_board", f"komi {self._game.komi:g}"):
                    engine.ask(command)
                return
            except EngineLost:
                self._lost.add(table)
                if attempt:
                    raise

    def choose(self, state: State, tables: Sequence[int], colours: NDArray[np.int8]) -> list[Choice]:
        """Ask all engines at once."""
        return list(self._threads.map(lambda table: self._choose_one(table, int(colours[table])), tables))

    def _choose_one(self, table: int, colour: int) -> Choice:
        try:
            word = self._engines[table].ask(f"genmove {'b' if colour == 1 else 'w'}")
            return Choice(action_of(word, self._game.size))
        except EngineError as error:
            return Choice(fault=self._told(table, error))
        except ValueError as error:
            return Choice(fault=f"answered a move with what is none: {error}")

    def _told(self, table: int, error: EngineError) -> str:
        if not isinstance(error, EngineRefused):
            self._lost.add(table)
        return str(error)

    def played(self, actions: NDArray[np.int64], colours: NDArray[np.int8], own: NDArray[np.bool_]) -> dict[int, str]:
        """Tell the engines what the other side has played."""
        tables = np.flatnonzero((actions >= 0) & ~own).tolist()

        def tell(table: int) -> str:
            colour, point = "b" if colours[table] == 1 else "w", vertex(int(actions[table]), self._game.size)
            try:
                self._engines[table].ask(f"play {colour} {point}")
            except EngineError as error:
                return self._told(table, error)
            return ""

        told = zip(tables, self._threads.map(tell, tables), strict=True)
        return {table: fault for table, fault in told if fault}

    def final_score(self, table: int) -> float | None:
        """Ask the engine; None where it does not know."""
        try:
            return read_score(self._engines[table].ask("final_score"))
        except EngineError as error:
            self._told(table, error)
            return None

    def close(self) -> None:
        """End the engines."""
        for engine in self._engines:
            engine.close()
        self._threads.shutdown(wait=True)


def read_score(text: str) -> float | None:
    """Read B+3.5, W+0.5 or 0 as Black's lead; None for anything else."""
    word = text.strip().upper()
    if word in ("0", "DRAW", "JIGO"):
        return 0.0
    try:
        return {"B": 1, "W": -1}[word[:1]] * float(word.partition("+")[2])
    except (KeyError, ValueError):
        return None
