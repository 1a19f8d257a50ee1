"""Words that name players: `gnugo:10`, `search:1600`, `random`, `gtp:COMMAND`, `raw:RUN`, `RUN`, `RUN:800`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace

from rayloom.contract import UserError
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.gtp.contestants import Chance, Contestant, GtpContestant, Searcher, without_knowledge
from rayloom_agents.alphago.gtp.gnugo import gnugo_command
from rayloom_agents.alphago.players import TrainedPlayer

CHOICES = "random, search:SIMULATIONS, gnugo:LEVEL, gtp:COMMAND, raw:RUN or RUN[:SIMULATIONS]"
_MOST = 1_000_000


@dataclass(frozen=True)
class Tables:
    """What a contestant is made for."""

    game: Go
    count: int
    """Games at once."""
    seed: int
    deadline_s: float
    """How long an engine may take for one answer."""


def whole_number(text: str, word: str, most: int = _MOST) -> int:
    """Read what stands behind a colon; UserError for what is none."""
    if not text.isdecimal() or not 1 <= int(text[:10]) <= most:
        raise UserError(f"player {word!r}: write a whole number from 1 to {most} behind the colon, not {text!r}")
    return int(text)


def is_external(word: str) -> bool:
    """Return whether a word names an engine that runs in processes of its own."""
    return word.partition(":")[0] in ("gnugo", "gtp")


def make_contestant(
    word: str, tables: Tables, load: Callable[[str, int | None], TrainedPlayer] | None = None
) -> Contestant:
    """Return the contestant that a word names; UserError where there is none.

    `load(name, simulations)` finds a trained player; without it only others can be named.
    """
    kind, _, rest = word.partition(":")
    if word == "random":
        return Chance(tables.game, tables.seed)
    if kind == "search":
        return without_knowledge(tables.game, tables.count, whole_number(rest, word))
    if kind == "gnugo":
        level = whole_number(rest, word, 10) if rest else 10
        commands = [
            gnugo_command(tables.game.size, level, tables.game.komi, 1 + 1000 * tables.seed + table)
            for table in range(tables.count)
        ]
        return GtpContestant(f"gnugo:{level}", commands, tables.game, tables.deadline_s)
    if kind == "gtp":
        return _external(rest, word, tables)
    if load is None:
        raise UserError(f"player {word!r}: write {CHOICES.partition(', raw')[0]}")
    return _trained(word, tables, load)


def _external(text: str, word: str, tables: Tables) -> Contestant:
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise UserError(f"player {word!r}: {error}") from None
    if not command:
        raise UserError(f"player {word!r}: write the engine's command behind gtp:")
    return GtpContestant(os.path.basename(command[0]), [command] * tables.count, tables.game, tables.deadline_s)


def _trained(word: str, tables: Tables, load: Callable[[str, int | None], TrainedPlayer]) -> Contestant:
    raw = word.startswith("raw:")
    name, _, count = (word.removeprefix("raw:"), "", "") if raw else word.partition(":")
    player = load(name, whole_number(count, word) if count else None)
    game = player.game
    if not isinstance(game, Go) or game.size != tables.game.size:
        told = f"Go on {game.size} lines" if isinstance(game, Go) else type(game).__name__
        raise UserError(f"player {word!r} plays {told}, and the match is on {tables.game.size} lines of Go")
    settings = None if raw else replace(player.search, noise_share=0.0)
    title = f"raw:{player.name}" if raw else f"{player.name}:{player.search.simulations}"
    return Searcher(title, tables.game, tables.count, player.infer, settings)


def file_name(word: str) -> str:
    """Return a word as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-.")[:60] or "player"
