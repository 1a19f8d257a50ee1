"""A compact table of games of Go: actions, lengths, komi, results and which plies are no targets.

What is not here follows from the rules: positions are played again when they are asked for, so that a million of them
take two bytes each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom.contract import UserError

_VERSION = 1


@dataclass(frozen=True)
class GameTable:
    """G games of at most P plies on boards of one size; Black begins each of them on an empty board."""

    size: int
    """Lines of the board."""
    actions: NDArray[np.int16]
    """[G, P]: `row * size + column` with row 0 at the top, `size^2` for a pass; -1 after a game's end."""
    lengths: NDArray[np.int32]
    """[G]: plies."""
    komi: NDArray[np.float32]
    """[G]: points that White got."""
    result: NDArray[np.float32]
    """[G]: by how much Black has won, as the record says it: below 0 where White has, 0 for a draw; plus or minus
    `UNCOUNTED` where it names no points (resignation, time)."""
    opening: NDArray[np.int32]
    """[G]: plies at the beginning that were random; no expert chose them, so they are no targets."""

    def __len__(self) -> int:
        """Return the number of games."""
        return len(self.lengths)

    def take(self, rows: NDArray[Any]) -> GameTable:
        """Return some of the games, by number or mask."""
        chosen = {each.name: getattr(self, each.name)[rows] for each in dataclasses.fields(self) if each.name != "size"}
        return GameTable(size=self.size, **chosen)

    @property
    def outcome(self) -> NDArray[np.float32]:
        """Return 1 where Black has won, -1 where White has, 0 for a draw [G]."""
        return np.sign(self.result).astype(np.float32)


UNCOUNTED = 1000.0
"""Size of a result that names a winner without points."""


def make_table(size: int, games: Sequence[tuple[Sequence[int], float, float, int]]) -> GameTable:
    """Return a table of games (actions, komi, result, random plies at the beginning)."""
    lengths = np.array([len(actions) for actions, *_ in games], np.int32)
    table = np.full((len(games), int(lengths.max(initial=0))), -1, np.int16)
    for number, (actions, *_) in enumerate(games):
        table[number, : len(actions)] = actions
    return GameTable(
        size=size,
        actions=table,
        lengths=lengths,
        komi=np.array([komi for _, komi, _, _ in games], np.float32),
        result=np.array([result for _, _, result, _ in games], np.float32),
        opening=np.array([opening for *_, opening in games], np.int32),
    )


def save_table(table: GameTable, path: Path) -> None:
    """Write the table as a compressed .npz, without pickled objects."""
    with path.open("wb") as file:
        np.savez_compressed(file, version=np.int32(_VERSION), **dataclasses.asdict(table))


def load_table(path: Path) -> GameTable:
    """Read what `save_table` has written; UserError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no table of games ({type(error).__name__}): give a folder of SGF files") from None
    names = {each.name for each in dataclasses.fields(GameTable)}
    if found.keys() != names | {"version"} or int(found.pop("version")) != _VERSION:
        raise UserError(f"{path} is no table of games of this version: make it again from the SGF files")
    size = int(found.pop("size"))
    table = GameTable(size=size, **found)
    if not (table.lengths <= table.actions.shape[1]).all() or table.actions.max(initial=0) > size * size:
        raise UserError(f"{path} is damaged: its games do not fit a board of {size} lines")
    return table
