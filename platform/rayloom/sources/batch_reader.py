"""Reading batches from a table that does not lie on the learner's device, ahead of the learner if it likes."""

from __future__ import annotations

import queue
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from rayloom.contract import Batch, Table
from rayloom.datasets.tables import lengths_of, pad_to
from rayloom.seeding import torch_generator

_POLL_S = 0.1
_DEADLINE_S = 600.0
_BATCHES_ALIKE = 50


class Place(NamedTuple):
    """Where a batch begins: the epoch and the examples of it that come before."""

    epoch: int
    position: int


class BatchReader:
    """Reads one rank's share of any batch. What it returns depends on the place alone. Used by one thread at a time."""

    def __init__(
        self,
        table: Table,
        batch_size: int,
        length: int,
        seed: int,
        rank: int,
        world_size: int,
        *,
        streams: bool = False,
    ) -> None:
        """Read batches of `batch_size` from the first `length` rows of every epoch's order, or of `stream_order`."""
        self._table = table
        self._lengths = lengths_of(table)
        self._streams = streams
        self._batch_size, self._length, self._seed = batch_size, length, seed
        self._rank, self._world_size = rank, world_size
        self._order: tuple[int, Tensor] | None = None

    def order(self, epoch: int) -> Tensor:
        """Return the order of the rows [N] in an epoch."""
        if self._streams:
            self._order = self._order or (epoch, stream_order(self._length, self._batch_size))
        elif self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self._table), generator=torch_generator(self._seed, "dataset", epoch))
            if self._lengths:
                lengths = next(iter(self._lengths.values()))
                order = alike_in_length(order, lengths, self._batch_size, torch_generator(self._seed, "buckets", epoch))
            self._order = (epoch, order)
        return self._order[1]

    def read(self, place: Place) -> Batch:
        """Return this rank's share of the global batch at a place, padded like the whole batch."""
        chosen = self.order(place.epoch)[place.position : min(place.position + self._batch_size, self._length)]
        count = len(chosen)
        first, last = count * self._rank // self._world_size, count * (self._rank + 1) // self._world_size
        share = chosen[first:last] if last > first else chosen[:1]
        batch = dict(self._table.rows(share))
        for name, lengths in self._lengths.items():
            batch[name] = pad_to(batch[name], int(lengths[chosen].max()))
        return batch if last > first else {name: tensor[:0] for name, tensor in batch.items()}

    def after(self, place: Place) -> Place:
        """Return the place of the next batch."""
        position = place.position + self._batch_size
        return Place(place.epoch, position) if position < self._length else Place(place.epoch + 1, 0)


def stream_order(count: int, streams: int) -> Tensor:
    """Return the order in which `streams` readers walk through `count` rows side by side, a multiple of `streams`.

    Each has a contiguous part of them: row r of every batch goes on where row r of the batch before ended.
    """
    return torch.arange(count).view(streams, -1).T.reshape(-1)


def alike_in_length(order: Tensor, lengths: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Rearrange a random order of rows so that each batch has rows of similar length, and the batches are shuffled.

    Rows are sorted within every 50 batches, so that who meets whom still changes from epoch to epoch. What does not
    fill a batch stays at the end, as random as it was.
    """
    whole = len(order) - len(order) % batch_size
    pieces = [
        piece[lengths[piece].argsort(stable=True)] for piece in torch.split(order[:whole], _BATCHES_ALIKE * batch_size)
    ]
    if not pieces or not whole:
        return order
    batches = torch.cat(pieces).view(-1, batch_size)
    shuffled = batches[torch.randperm(len(batches), generator=generator)]
    return torch.cat((shuffled.flatten(), order[whole:]))


class ReadAhead:
    """A thread that reads the batches after a place, a few ahead of the learner. Used by one thread."""

    def __init__(self, reader: BatchReader, start: Place, depth: int, deadline_s: float = _DEADLINE_S) -> None:
        self._reader = reader
        self._deadline_s = deadline_s
        self._queue: queue.Queue[tuple[Place, Batch | Exception]] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        # A daemon: a process that fails elsewhere must not wait for a slow disk.
        self._thread = threading.Thread(target=self._run, args=(start,), name="rayloom-read-ahead", daemon=True)
        self._thread.start()

    def _run(self, place: Place) -> None:
        while not self._stopped.is_set():
            found: Batch | Exception
            try:
                found = self._reader.read(place)
            except Exception as error:  # noqa: BLE001  it is raised where the batch is asked for
                found = error
            if not self._put((place, found)) or isinstance(found, Exception):
                return
            place = self._reader.after(place)

    def _put(self, item: tuple[Place, Batch | Exception]) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def take(self, place: Place) -> Batch:
        """Return the next batch, which is the one at `place`; raise what reading it raised, with its traceback."""
        try:
            found_at, found = self._queue.get(timeout=self._deadline_s)
        except queue.Empty:
            raise TimeoutError(f"reading a batch of the data set has taken more than {self._deadline_s:g} s") from None
        if isinstance(found, Exception):
            self.close()
            raise found
        assert found_at == place, f"read {found_at} ahead, but {place} is wanted"
        return found

    def close(self) -> None:
        """Let the thread end after the batch at hand. Idempotent."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=self._deadline_s)
