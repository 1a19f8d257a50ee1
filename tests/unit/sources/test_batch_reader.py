"""Batches read from tables: those of a split in memory, ahead or not, in buckets; exceptions keep their traceback."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from contexts import Learners, context_of
from rayloom.config.sources import DatasetSourceConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, TensorSpec
from rayloom.datasets import Dataset, RaggedTable, RowTable, TensorTable
from rayloom.errors import UserError
from rayloom.sources.batch_reader import BatchReader, Place, ReadAhead
from rayloom.sources.dataset import DatasetSource

SPEC = {"x": TensorSpec(shape=(2,), dtype=torch.float32)}


class SlowTable(RowTable):
    """A table that pretends to lie on a disk."""

    def __init__(self, column: Tensor, pause_s: float = 0.0, broken_row: int | None = None) -> None:
        self._column, self._pause_s, self._broken_row = column, pause_s, broken_row
        self.readers: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._column)

    def rows(self, indices: Tensor) -> Batch:
        self.readers[threading.current_thread().name] += 1
        time.sleep(self._pause_s)
        if self._broken_row is not None and self._broken_row in indices:
            raise UserError("row 7 is damaged")
        return {"x": self._column[indices]}


def source(table: Any, rank: int = 0, world_size: int = 1, **settings: Any) -> DatasetSource:
    held = {"x": torch.zeros(1, 2)}
    data = Dataset(table, held, held, SPEC, "numbers", "digest")
    config = DatasetSourceConfig(kind="dataset", dataset="numbers", drop_last=False, **settings)
    group = Learners(rank, world_size)
    return DatasetSource(config, context_of(Algorithm(AlgorithmConfig(), SPEC), 7, data=data, seed=3, group=group))


COLUMN = torch.arange(46.0).view(23, 2)


@pytest.mark.parametrize("read_ahead", [0, 1, 3])
def test_batches_are_those_of_a_split_in_memory(read_ahead: int) -> None:
    table = SlowTable(COLUMN)
    resident, read = source(TensorTable({"x": COLUMN})), source(table, resident_mib=0, read_ahead=read_ahead)
    assert resident.resident and not read.resident
    for _ in range(9):  # two epochs and a batch
        assert torch.equal(resident.next()["x"], read.next()["x"])
        assert read.counters() == resident.counters()
        assert read.state_dict() == resident.state_dict()
    assert set(table.readers) - {"MainThread"} == ({"rayloom-read-ahead"} if read_ahead else set())
    read.close()


def test_small_tables_of_any_kind_lie_on_the_device() -> None:
    table = SlowTable(COLUMN)
    small = source(table)
    assert small.resident and torch.equal(small.next()["x"], source(TensorTable({"x": COLUMN})).next()["x"])


def test_shares_and_a_resume_while_batches_are_read_ahead() -> None:
    whole = source(TensorTable({"x": COLUMN}))
    ranks = [source(SlowTable(COLUMN), rank, 3, resident_mib=0) for rank in range(3)]
    for _ in range(6):
        assert torch.equal(whole.next()["x"], torch.cat([rank.next()["x"] for rank in ranks]))
    resumed = source(SlowTable(COLUMN), resident_mib=0)
    for _ in range(2):
        resumed.next()  # it has read on from another place
    resumed.load_state_dict(ranks[0].state_dict())
    for _ in range(5):
        assert torch.equal(whole.next()["x"], resumed.next()["x"])
    for one in (*ranks, resumed):
        one.close()


def test_an_exception_comes_out_where_the_batch_is_asked_for() -> None:
    broken = source(SlowTable(COLUMN, broken_row=5), resident_mib=0, read_ahead=2)
    with pytest.raises(UserError, match="row 7 is damaged") as caught:
        for _ in range(4):
            broken.next()
    assert any(frame.name == "rows" for frame in traceback.extract_tb(caught.value.__traceback__))
    broken.close()


def test_closing_ends_the_thread_that_waits_for_room() -> None:
    before = threading.active_count()
    read = source(SlowTable(COLUMN), resident_mib=0, read_ahead=1)
    read.next()
    assert threading.active_count() == before + 1
    read.close()
    read.close()
    assert threading.active_count() == before


def test_no_wait_without_a_deadline() -> None:
    reader = BatchReader(SlowTable(COLUMN, pause_s=0.5), 7, 23, 0, 0, 1)
    ahead = ReadAhead(reader, Place(0, 0), 1, deadline_s=0.05)
    with pytest.raises(TimeoutError, match=r"has taken more than 0\.05 s"):
        ahead.take(Place(0, 0))
    ahead.close()


def test_other_contents_are_refused() -> None:
    one = source(TensorTable({"x": COLUMN}))
    state = {**one.state_dict(), "digest": "f" * 64}
    with pytest.raises(UserError, match=r"the contents of the data set numbers .*: use the same data and settings"):
        one.load_state_dict(state)


# --- sequences of unequal length -----------------------------------------------------------------------------------


def sequences(count: int = 61) -> RaggedTable:
    lengths = torch.randint(1, 40, (count,), generator=torch.Generator().manual_seed(0))
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))
    return RaggedTable({"token": (torch.arange(int(offsets[-1])) + 1, offsets)}, {"row": torch.arange(count)})


def test_buckets_have_every_row_once_and_little_padding() -> None:
    table = sequences(400)
    reader = BatchReader(table, 8, 400, 0, 0, 1)
    orders = [reader.order(epoch) for epoch in range(2)]
    assert all(torch.equal(order.sort().values, torch.arange(400)) for order in orders)
    assert not torch.equal(*orders)
    lengths = table.lengths["token"]

    def padding(order: Tensor) -> float:
        batches = lengths[order].view(-1, 8)
        return float((batches.amax(dim=1, keepdim=True) - batches).sum() / batches.sum())

    assert padding(orders[0]) < 0.1 < 0.5 < padding(torch.randperm(400))
    firsts = lengths[orders[0]].view(-1, 8)[:, 0]
    assert not torch.equal(firsts, firsts.sort().values)  # the batches are in no order of their length
    again = BatchReader(table, 8, 400, 0, 0, 1)
    assert torch.equal(again.order(1), orders[1])


def test_what_is_left_out_is_not_the_longest() -> None:
    table = sequences(61)
    left = torch.cat([BatchReader(table, 20, 60, seed, 0, 1).order(0)[60:] for seed in range(60)])
    assert len(left.unique()) > 30
    assert float(table.lengths["token"][left].float().mean()) < 26


def test_shares_of_sequences_are_the_whole_batch() -> None:
    table = sequences()
    whole = BatchReader(table, 7, 61, 0, 0, 1)
    shares = [BatchReader(table, 7, 61, 0, rank, 3) for rank in range(3)]
    place = Place(0, 0)
    for _ in range(12):
        expected, found = whole.read(place), [share.read(place) for share in shares]
        for name in expected:
            assert torch.equal(expected[name], torch.cat([part[name] for part in found])), name
        place = whole.after(place)
    assert place.epoch == 1
