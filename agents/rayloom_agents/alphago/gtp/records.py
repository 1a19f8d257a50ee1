"""Games as SGF files (`sgfmill`): what GTP loads, and what a match writes, with win rates in the comments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgfmill import sgf  # type: ignore[import-untyped]

from rayloom_agents.alphago.gtp.board import Move
from rayloom_agents.alphago.gtp.protocol import GtpError

_LARGEST_FILE = 10_000_000


@dataclass
class Position:
    """What a file says."""

    black: list[int] = field(default_factory=list)
    """Stones that were there from the beginning."""
    white: list[int] = field(default_factory=list)
    mover: int = 1
    """Who begins."""
    komi: float | None = None
    moves: list[Move] = field(default_factory=list)
    mover_after: int | None = None
    """Whose turn it is at the end, where the file says so."""


def read_position(path: str, size: int, before: int | None) -> Position:
    """Read the main line of a file up to just before move `before` (None: all of it); GtpError for what is none."""
    try:
        content = Path(path).read_bytes()[:_LARGEST_FILE]
        game = sgf.Sgf_game.from_bytes(content)
        return _position(game, size, before)
    except (OSError, ValueError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise GtpError(f"cannot load file: {why}") from None


def _position(game: Any, size: int, before: int | None) -> Position:
    if game.get_size() != size:
        raise ValueError(f"it is on {game.get_size()} lines, and this network was made for {size}")
    root, found = game.get_root(), Position()
    if root.has_setup_stones():
        black, white, _ = root.get_setup_stones()
        found.black, found.white = (sorted(_action(point, size) for point in stones) for stones in (black, white))
        if black and not white:
            found.mover = -1  # a handicap
    if root.has_property("PL"):
        found.mover = _colour(root.get("PL"))
    if root.has_property("KM"):
        found.komi = float(root.get("KM"))
    for node in game.get_main_sequence():
        if node is not root and node.has_setup_stones():
            raise ValueError("stones are put on the board in the middle of the game")
        letter, point = node.get_move()
        if letter is None:
            continue
        if before is not None and len(found.moves) + 1 >= before:
            found.mover_after = _colour(letter)
            break
        found.moves.append(Move(_colour(letter), size * size if point is None else _action(point, size)))
    return found


def _colour(letter: str) -> int:
    return 1 if letter == "b" else -1


def _action(point: tuple[int, int], size: int) -> int:
    """Return the action of sgfmill's (row from the bottom, column)."""
    return (size - 1 - point[0]) * size + point[1]


@dataclass(frozen=True)
class Record:
    """One game that was played."""

    size: int
    komi: float
    moves: Sequence[Move]
    names: tuple[str, str]
    """Black's and White's."""
    result: str
    """As B+3.5, W+R (resignation), B+F (forfeit) or 0."""
    win_rates: Sequence[float | None] = ()
    """Of each ply what its player thought Black's chances to be; None where that is not known."""
    opening_plies: int = 0
    """Plies at the beginning that were drawn at random."""
    comment: str = ""
    """About the game as a whole."""


def write_sgf(record: Record) -> bytes:
    """Return a game as SGF."""
    size = record.size
    game = sgf.Sgf_game(size=size)
    root = game.get_root()
    for key, value in (("KM", record.komi), ("PB", record.names[0]), ("PW", record.names[1]), ("RE", record.result),
                       ("RU", "Tromp-Taylor"), ("AP", ("rayloom", "1")), ("GN", "rayloom match")):  # fmt: skip
        root.set(key, value)
    if record.comment:
        root.set("C", record.comment)
    for ply, move in enumerate(record.moves):
        node = game.extend_main_sequence()
        row, column = divmod(move.action, size)
        point = None if move.action == size * size else (size - 1 - row, column)
        node.set_move("b" if move.colour == 1 else "w", point)
        rate = record.win_rates[ply] if ply < len(record.win_rates) else None
        if ply < record.opening_plies:
            node.set("C", "random opening")
        elif rate is not None:
            node.set("C", f"Black wins {100 * rate:.1f} %")
    return bytes(game.serialise())
