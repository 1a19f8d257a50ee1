"""Expert games as a source of the engine: batches of positions, cut into learners' shares like those of any data set.

Splits are made BY GAME, so that no position of a held-out game was learnt from. With `one_position_per_game` an epoch
holds a single position of every game, drawn anew each epoch: positions of one game share their outcome, and a value
network that sees them all remembers the game instead of judging the position (Silver et al. 2016, "Training pipeline").
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from rayloom.contract import Batch, ReshardContext, Source, SourceConfig, SourceContext, Spec, UserError
from rayloom.datasets import Dataset
from rayloom.datasets.digests import combined_digest
from rayloom.datasets.splits import complete_splits
from rayloom_agents.alphago.experts.positions import PositionTable, Replay, one_ply_each, position_spec
from rayloom_agents.alphago.experts.records import GameTable, load_table
from rayloom_agents.alphago.experts.sgf import read_folder
from rayloom_agents.alphago.games.go import Go

_SHIPPED = Path(__file__).parent / "tables"


@dataclass(frozen=True, kw_only=True)
class ExpertGamesConfig(SourceConfig):
    """Games of Go by experts."""

    path: str | None = None
    """Folder of SGF files, or a table of games (.npz); null: games of GNU Go that are shipped, on 5 or 9 lines."""
    size: Annotated[int, Ge(2), Le(19)] = 9
    """Lines of the board; games on other boards are left out."""
    superko: Literal["none", "positional", "situational"] = "positional"
    """Which repetitions are forbidden; games that break this rule are left out."""
    one_position_per_game: bool = False
    """Whether an epoch holds one position of each game, another one in every epoch, instead of all of them."""
    validation: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the games that is held out for development."""
    test: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the games that is held out for the last word."""
    split_seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Chooses the games; the run's seed does not."""


def load_games(config: ExpertGamesConfig, game: Go) -> GameTable:
    """Return the games that the settings name; UserError where there are none on such a board."""
    if config.path is None:
        shipped = _SHIPPED / f"gnugo_{config.size}x{config.size}.npz"
        if not shipped.exists():
            raise UserError(
                f"source.path: no games on {config.size} lines are shipped; make some with "
                "python -m rayloom_agents.alphago.experts.generate and write their folder"
            )
        return load_table(shipped)
    path = Path(config.path)
    if path.suffix != ".npz":
        return read_folder(path, game).table
    table = load_table(path)
    if table.size != config.size:
        raise UserError(f"source.size: the games of {path} are on {table.size} lines, not on {config.size}")
    return table


def load_positions(config: ExpertGamesConfig) -> Dataset:
    """Return the positions of all games, split by game."""
    game = Go(config.size, superko=config.superko)
    games = load_games(config, game)
    if len(games) < 3:
        raise UserError(f"source.path: {len(games)} games cannot be split into three parts; give more")
    replay = Replay(games, game)
    rows = complete_splits({"train": np.arange(len(games))}, config)
    tables = {name: PositionTable(replay, chosen) for name, chosen in rows.items()}
    if config.one_position_per_game:
        # What is drawn anew in each epoch is the source's; this one tells how many there are, and their form.
        halves = np.full(len(rows["train"]), 0.5)
        tables["train"] = PositionTable(replay, rows["train"], one_ply_each(games, rows["train"], halves))
    digest = hashlib.sha256()
    for value in asdict(games).values():
        digest.update(np.ascontiguousarray(value).tobytes())
    settings = (config.size, config.superko, config.one_position_per_game, config.validation, config.test,
                config.split_seed)  # fmt: skip
    name = Path(config.path).stem if config.path else f"gnugo-{config.size}x{config.size}"
    return Dataset(
        tables["train"], tables["validation"], tables["test"], position_spec(game), name,
        combined_digest(digest.hexdigest(), *settings),
    )  # fmt: skip


class ExpertGames(Source):
    """Walks through the training games' positions in an order that depends on (seed, epoch) alone.

    So the state is the epoch and the position in it. All ranks draw the same global batches and take contiguous
    shares of them; the next batch is played again while the learner works on this one.
    """

    Config = ExpertGamesConfig
    equal_shares = False

    def __init__(self, config: ExpertGamesConfig, context: SourceContext) -> None:
        """UserError when there are fewer positions than a batch needs, or more learners than it has examples."""
        dataset: Dataset = context.data
        self._table: PositionTable = dataset.train
        self._config, self._context = config, context
        self._digest, self._size = dataset.digest, len(dataset.train)
        if self._size < context.global_batch_size:
            raise UserError(
                f"learner.batch_size: {context.global_batch_size} is more than the {self._size} training positions of "
                f"{dataset.name}: set it to {self._size} or less"
            )
        if context.global_batch_size < context.group.world_size:
            raise UserError(
                f"learner.batch_size: {context.global_batch_size} is too small for {context.group.world_size} "
                "learners: raise it"
            )
        self._length = self._size - self._size % context.global_batch_size
        self._place = (0, 0)
        self._cut = (0, context.global_batch_size)
        self._order: tuple[int, PositionTable, Tensor] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[tuple[int, int], Future[Batch]] | None = None

    @classmethod
    def load_data(cls, config: ExpertGamesConfig, seed: int) -> Dataset:
        """Return the positions."""
        return load_positions(config)

    @classmethod
    def describe(cls, config: ExpertGamesConfig) -> Spec:
        """Return what a position is."""
        return position_spec(Go(config.size))

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Return everybody the same: the place in the games is that of all learners together."""
        return [states[0]] * count

    def next(self) -> Batch:
        """Return this learner's share of the next batch, prepared."""
        started = time.perf_counter()
        place, after = self._place, self._after(self._place)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "rayloom-expert-games")
        if self._ahead is None or self._ahead[0] != place:
            self._ahead = (place, self._pool.submit(self._read, place))
        batch = self._ahead[1].result()
        self._ahead = (after, self._pool.submit(self._read, after))
        self.wait_s += time.perf_counter() - started
        self._place = after
        self._cut = (self._share()[0], self._context.global_batch_size)
        moved = {name: tensor.to(self._context.device) for name, tensor in batch.items()}
        return self._context.algorithm.prepare(moved)

    def _after(self, place: tuple[int, int]) -> tuple[int, int]:
        epoch, position = place
        position += self._context.global_batch_size
        return (epoch, position) if position < self._length else (epoch + 1, 0)

    def _share(self) -> tuple[int, int]:
        count, group = self._context.global_batch_size, self._context.group
        return count * group.rank // group.world_size, count * (group.rank + 1) // group.world_size

    def _read(self, place: tuple[int, int]) -> Batch:
        """Return this learner's share of the batch at a place; in the thread that reads ahead."""
        epoch, position = place
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self._context.derive_seed("epoch", epoch))
            order = torch.randperm(self._size, generator=generator)
            table = self._table
            if self._config.one_position_per_game:
                draws = torch.rand(self._size, generator=generator, dtype=torch.float64).numpy()
                plies = one_ply_each(table.replay.games, table.chosen, draws)
                table = PositionTable(table.replay, table.chosen, plies)
            self._order = (epoch, table, order)
        _, table, order = self._order
        first, last = self._share()
        return table.rows(order[position + first : position + last])

    def cut(self) -> tuple[int, int]:
        """Return the place of this learner's share in the present global batch, and its size."""
        return self._cut

    def counters(self) -> dict[str, int]:
        """Return the examples of all learners so far and the completed epochs."""
        epoch, position = self._place
        return {"samples": epoch * self._length + position, "epochs": epoch}

    def samples_per_epoch(self) -> int:
        """Return the examples of one epoch; what does not fill a batch is left out, another part in each."""
        return self._length

    def state_dict(self) -> dict[str, Any]:
        """Return the place and what identifies the games."""
        return {"epoch": self._place[0], "position": self._place[1], "digest": self._digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved place; UserError when the games or their split have changed."""
        if state["digest"] != self._digest:
            raise UserError(
                "source.path: the games, or how they are split, are not those with which the checkpoint was written; "
                "use the same to resume"
            )
        self.close()
        self._place = (int(state["epoch"]), int(state["position"]))

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._ahead = None
