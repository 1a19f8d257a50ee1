"""Records of games in SGF (https://www.red-bean.com/sgf/), the format of all Go programs; sgfmill reads and writes it.

a folder of files --read_folder--> GameTable, and why the other games were left out
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sgfmill import sgf, sgf_grammar, sgf_moves  # type: ignore[import-untyped]

from rayloom.contract import UserError
from rayloom_agents.alphago.experts.records import UNCOUNTED, GameTable, make_table
from rayloom_agents.alphago.games.go import Go

_log = logging.getLogger(__name__)
_OPENING = "RO"
"""Private property of a root: how many plies at the beginning were random."""
_SUFFIX = ".sgf"
_NAMED = 5


class RefusedGameError(Exception):
    """Why a game is left out, as a few words."""


@dataclass(frozen=True)
class Reading:
    """What a folder held."""

    table: GameTable
    skipped: Counter[str]
    """How many games were left out, by reason."""


def read_folder(folder: Path, game: Go) -> Reading:
    """Read every .sgf file below a folder, in the order of their paths; a file may hold several games.

    Games that cannot be used (broken, another size, handicap, moves that the rules of `game` forbid, no result) are
    left out and counted; a warning names the first files. UserError where nothing is left.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of SGF files: write its path, or that of a table of games (.npz)")
    found, skipped, named = [], Counter[str](), []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() == _SUFFIX):
        for number, each in enumerate(_games_of(path), start=1):
            try:
                if isinstance(each, RefusedGameError):
                    raise each
                found.append(read_game(each, game))
            except RefusedGameError as error:
                skipped[re.sub(r"\d+", "N", str(error))] += 1
                named.append(f"{path.relative_to(folder)}{f' (game {number})' if number > 1 else ''}: {error}")
    if named:
        more = f"; and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        _log.warning("left out %d of %d games: %s%s", len(named), len(named) + len(found),
                     "; ".join(named[:_NAMED]), more)  # fmt: skip
    if not found:
        reason = f" ({skipped.most_common(1)[0][0]})" if skipped else ""
        raise UserError(f"{folder} has no games of Go on {game.size} lines{reason}: give it .sgf files of such games")
    return Reading(make_table(game.size, found), skipped)


def _games_of(path: Path) -> Iterator[sgf.Sgf_game | RefusedGameError]:
    try:
        trees = sgf_grammar.parse_sgf_collection(path.read_bytes())
    except (OSError, ValueError):
        yield RefusedGameError("it is no SGF")
        return
    for tree in trees:
        try:
            yield sgf.Sgf_game.from_coarse_game_tree(tree)
        except ValueError:
            yield RefusedGameError("its board or its properties are not SGF's")


def read_game(record: sgf.Sgf_game, game: Go) -> tuple[list[int], float, float, int]:
    """Return actions, komi, result and random plies of the main line; RefusedGameError says why not."""
    root = record.get_root()
    try:
        if root.has_property("GM") and root.get("GM") != 1:
            raise RefusedGameError("it is no game of Go")
        if record.get_size() != game.size:
            raise RefusedGameError(f"its board has {record.get_size()} lines")
        if record.get_handicap() or root.has_setup_stones():
            raise RefusedGameError("it begins with handicap or setup stones")
        _, moves = sgf_moves.get_setup_and_moves(record)
        komi = float(record.get_komi())
        opening = int(root.get_raw(_OPENING)) if root.has_property(_OPENING) else 0
    except ValueError as error:
        raise RefusedGameError(f"it cannot be read ({error})") from None
    if not moves:
        raise RefusedGameError("it has no moves")
    actions = [_action(move, game.size) for _, move in moves]
    turns = ["bw"[ply % 2] for ply in range(len(moves))]
    if [colour for colour, _ in moves] != turns:
        raise RefusedGameError("Black and White do not move in turn")
    return actions, komi, _result(root, _end(actions, komi, game)), min(max(0, opening), len(actions))


def _action(move: tuple[int, int] | None, size: int) -> int:
    """Return the action of SGF's (row from the bottom, column)."""
    return size * size if move is None else (size - 1 - move[0]) * size + move[1]


def _end(actions: Sequence[int], komi: float, game: Go) -> float | None:
    """Return Black's margin where both have passed at the end, else None; RefusedGameError names an illegal move."""
    state = game.start(1)
    state.komi[:] = komi
    for ply, action in enumerate(actions):
        try:
            game.play(state, np.array([action]))
        except ValueError:
            raise RefusedGameError(f"its move {ply + 1} is illegal") from None
    return float(game.score(state)[0]) if game.is_over(state)[0] else None


def _result(root: sgf.Tree_node, margin: float | None) -> float:
    """Return the result that a record states, that of its last position where it states none."""
    text = str(root.get("RE")).strip().upper() if root.has_property("RE") else ""
    match = re.fullmatch(r"([BW])\+(\d+(?:[.,]\d+)?|R|RESIGN|T|TIME|F|FORFEIT)?", text)
    if match:
        points = (match[2] or "").replace(",", ".")
        size = float(points) if points[:1].isdigit() else UNCOUNTED
        return size if match[1] == "B" else -size
    if text in ("0", "DRAW", "JIGO"):
        return 0.0
    if margin is None:
        raise RefusedGameError("it states no result")
    return margin


def write_game(
    actions: Sequence[int], size: int, komi: float, margin: float, opening: int, players: tuple[str, str] = ("", "")
) -> bytes:
    """Return a game as SGF; `margin` is Black's, and the first `opening` plies were random."""
    record = sgf.Sgf_game(size=size)
    root = record.get_root()
    root.set("KM", komi)
    root.set("RU", "Chinese")
    root.set("RE", f"{'B' if margin > 0 else 'W'}+{abs(margin):g}" if margin else "0")
    root.set_raw(_OPENING, str(opening).encode())
    for name, player in zip(("PB", "PW"), players, strict=True):
        if player:
            root.set(name, player)
    for ply, action in enumerate(actions):
        move = None if action == size * size else (size - 1 - action // size, action % size)
        record.extend_main_sequence().set_move("bw"[ply % 2], move)
    written: bytes = record.serialise()
    return written
