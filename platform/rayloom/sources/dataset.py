"""Batches from a data set, reshuffled every epoch, or of texts that are read from their start to their end.

A training split that is small enough lies on the learner's device as a whole; a larger one, or one of sequences of
unequal length, is read batch by batch. The order of the rows is the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rayloom.config.sources import DatasetSourceConfig
from rayloom.contract import Batch, ReshardContext, Source, SourceContext, Spec, Table
from rayloom.datasets import Dataset
from rayloom.datasets import load as load_dataset
from rayloom.datasets.tables import RowTable, TensorTable, in_memory, lengths_of
from rayloom.errors import UserError
from rayloom.sources.augmentation import augment
from rayloom.sources.batch_reader import BatchReader, Place, ReadAhead


class DatasetSource(Source):
    """Walks through the training split in an order that depends on (seed, epoch) alone, or in that of streams.

    So the state is the epoch and the position in it. All ranks draw the same global batches and take contiguous
    shares of them; another number of ranks continues with the same batches.
    """

    Config = DatasetSourceConfig
    kind = "dataset"
    equal_shares = False

    @classmethod
    def load_data(cls, config: DatasetSourceConfig, seed: int) -> Dataset:
        """Load the data set."""
        return load_dataset(config.dataset, seed)

    @classmethod
    def describe(cls, config: DatasetSourceConfig) -> Spec:
        """Return the data set's spec, which no seed changes."""
        return cls.load_data(config, 0).spec

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Return everybody the same: the position in the data set is that of all learners together."""
        return [states[0]] * count

    def __init__(self, config: DatasetSourceConfig, context: SourceContext) -> None:
        """Move the training split to the device, if it has the room.

        UserError when the split is smaller than a batch of all ranks, when there are more ranks than examples in a
        batch, or when there is no image to augment.
        """
        dataset: Dataset = context.data
        batch_size, device = context.global_batch_size, context.device
        rank, world_size = context.group.rank, context.group.world_size
        assert 0 <= rank < world_size
        self._name, self._digest = dataset.name or "the data set", dataset.digest
        self._size = len(dataset.train)
        if self._size < batch_size:
            raise UserError(
                f"learner.batch_size: {batch_size} is more than the {self._size} training examples of "
                f"{self._name}: set it to {self._size} or less"
            )
        if batch_size < world_size:
            raise UserError(f"learner.batch_size: {batch_size} is too small for {world_size} learners: raise it")
        self._images = [name for name, spec in dataset.spec.items() if len(spec.shape) == 3]
        self._augmentations = config.augment
        if self._augmentations and not self._images:
            raise UserError(f"source.augment: {self._name} has no images to change; leave it out")
        self._algorithm = context.algorithm
        self._batch_size = batch_size
        self._seed = context.seed
        self._device = device
        self._rank, self._world_size = rank, world_size
        # The examples of one epoch: whole batches only with drop_last.
        self._length = self._size - self._size % batch_size if config.drop_last else self._size
        self._epoch = 0
        self._position = 0
        self._order: Tensor | None = None
        self._cut = (0, batch_size)
        self._fields = _resident(dataset.train, dataset.spec, config.resident_mib, device)
        """The training split on the device; None where it is read batch by batch."""
        self._streams = config.order == "streams"
        if self._streams:
            _check_streams(dataset.train, self._name, config)
        self._reader = BatchReader(
            dataset.train, batch_size, self._length, context.seed, rank, world_size, streams=self._streams
        )
        self._read_ahead = 0 if in_memory(dataset.train) else config.read_ahead
        self._ahead: ReadAhead | None = None

    @torch.no_grad()
    def next(self) -> Batch:
        """Return this rank's share of the next global batch, prepared.

        Shares differ by one example at most; that of an epoch's last, smaller batch may be empty without drop_last.
        """
        start = self._position
        count = min(self._batch_size, self._length - start)
        first, last = count * self._rank // self._world_size, count * (self._rank + 1) // self._world_size
        self._cut = (first, count)
        if self._fields is None:
            batch = self._read()
        else:
            if self._order is None:
                self._order = self._reader.order(self._epoch).to(self._device)
            rows = self._order[start + first : start + last]
            batch = {name: tensor.index_select(0, rows) for name, tensor in self._fields}
        if self._augmentations:
            self._augment(batch, count, first, last)
        if self._streams:
            batch["stream"] = torch.arange(first, last, device=self._device)
            batch["first"] = torch.full((last - first,), start == 0, device=self._device)
        self._position += count
        if self._position == self._length:
            self._epoch, self._position, self._order = self._epoch + 1, 0, None
        return self._algorithm.prepare(batch)

    def _read(self) -> Batch:
        """Return this rank's share of the next batch from the table."""
        started = time.perf_counter()
        place = Place(self._epoch, self._position)
        if not self._read_ahead:
            batch = self._reader.read(place)
        else:
            if self._ahead is None:
                self._ahead = ReadAhead(self._reader, place, self._read_ahead)
            batch = self._ahead.take(place)
        moved = {name: tensor.to(self._device) for name, tensor in batch.items()}
        self.wait_s += time.perf_counter() - started
        return moved

    def _augment(self, batch: Batch, count: int, first: int, last: int) -> None:
        """Change each image; every rank draws for the whole batch and keeps what is for its own share."""
        for number, name in enumerate(self._images):
            address = (self._seed, self._epoch, self._position, *((number,) if number else ()))
            batch[name] = augment(self._augmentations, batch[name], address, first, last, count)

    def drawn(self, ago: int) -> Tensor | None:
        """Return which rows [B] of the training split this rank's share of an earlier batch had; 1: the last one."""
        self.close()  # the thread that reads ahead uses the reader, too
        epoch, position = self._epoch, self._position
        for _ in range(ago):
            if not position:
                epoch, position = epoch - 1, self._length
            position = (position - 1) // self._batch_size * self._batch_size
        if epoch < 0:
            return None
        count = min(self._batch_size, self._length - position)
        first, last = count * self._rank // self._world_size, count * (self._rank + 1) // self._world_size
        return self._reader.order(epoch)[position + first : position + last]

    def cut(self) -> tuple[int, int]:
        """Return the place of this rank's share in the present global batch, and its size."""
        return self._cut

    @property
    def resident(self) -> bool:
        """Whether the training split lies on the device."""
        return self._fields is not None

    def counters(self) -> dict[str, int]:
        """Return the examples of all ranks so far and the completed epochs."""
        return {"samples": self._epoch * self._length + self._position, "epochs": self._epoch}

    def samples_per_epoch(self) -> int:
        """Return the examples of one epoch."""
        return self._length

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the position in it (examples of all ranks) and what identifies the data."""
        return {"epoch": self._epoch, "position": self._position, "size": self._size, "digest": self._digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved position; UserError when the data set has changed."""
        if state["size"] != self._size:
            raise UserError(
                f"the data set has {self._size} training examples, but had {state['size']} when the checkpoint was "
                "written: use the same data set and options to resume"
            )
        if state["digest"] != self._digest:
            raise UserError(
                f"the contents of the data set {self._name} (SHA-256 {self._digest[:12]}) are not those with which the "
                f"checkpoint was written ({state['digest'][:12]}): use the same data and settings to resume"
            )
        self.close()
        self._epoch, self._position, self._order = int(state["epoch"]), int(state["position"]), None

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


def _check_streams(table: Table, name: str, config: DatasetSourceConfig) -> None:
    """Refuse what is no text in consecutive pieces, and a last batch that lacks some of the streams."""
    if not isinstance(table, RowTable) or not table.consecutive:
        raise UserError(
            f"source.order: streams need a text in windows that follow each other, which {name} is not; leave out its "
            "stride, or choose documents or python-source"
        )
    if not config.drop_last:
        raise UserError("source.drop_last: of streams every batch has all; leave it at true")


def _resident(table: Table, spec: Spec, most_mib: float, device: torch.device) -> list[tuple[str, Tensor]] | None:
    """Return the columns of a table on the device; None where they are too large or of unequal length."""
    if isinstance(table, TensorTable) and device.type == "cpu":
        columns = table.columns
    else:
        size = len(table) * sum(math.prod(part.shape) * part.dtype.itemsize for part in spec.values())
        if lengths_of(table) or size > most_mib * 2**20:
            return None
        columns = table.columns if isinstance(table, TensorTable) else dict(table.rows(torch.arange(len(table))))
    return [(name, tensor.to(device).contiguous()) for name, tensor in columns.items()]
