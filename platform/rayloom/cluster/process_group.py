"""Data-parallel learners over torch.distributed: gloo between CPUs, NCCL between GPUs.

    rank 0: open_rendezvous() -> host, port        every rank: connect(host, port), then the same collectives in order

Rank 0 chooses address and port inside its own process, where they are known to be free.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from rayloom.errors import LearnersLostError


class MissingLearnersError(LearnersLostError):
    """Some learners did not come to the rendezvous in time."""


@contextlib.contextmanager
def _naming_the_loss() -> Iterator[None]:
    """Tell the end of a connection, which torch reports as a RuntimeError, from the errors of this learner."""
    try:
        yield
    except RuntimeError as error:
        raise LearnersLostError(f"the learners lost each other: {error}") from error


def _choose_interface(address: str) -> None:
    """Let gloo and NCCL use the network interface with this address, unless the user has chosen one.

    gloo would take the one that the host's name resolves to: on many systems loopback, where no other host arrives.
    """
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


class ProcessGroup:
    """One learner's place among the learners. Used by one thread; one group for each process."""

    def __init__(self, rank: int, world_size: int, device: torch.device, deadline_s: float) -> None:
        """Prepare; `connect` makes the connections. A collective that takes longer than `deadline_s` raises."""
        self.rank = rank
        self.world_size = world_size
        self._backend = "nccl" if device.type == "cuda" else "gloo"
        self._timeout = datetime.timedelta(seconds=deadline_s)
        self._store: Any = None
        self._counting: dist.ProcessGroup | None = None

    def open_rendezvous(self, host: str) -> int:
        """Listen on `host` (rank 0 only) and return the port."""
        assert self.rank == 0
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            host, 0, self.world_size, is_master=True, wait_for_workers=False
        )
        return int(self._store.port)

    def connect(self, host: str, port: int, deadline_s: float, address: str | None = None) -> None:
        """Meet the other learners; MissingLearnersError names those that have not come within `deadline_s` seconds.

        `address`: by which the others reach this host.
        """
        if address is not None:
            _choose_interface(address)
        wait = datetime.timedelta(seconds=deadline_s)
        if self._store is None:
            self._store = dist.TCPStore(  # type: ignore[attr-defined]
                host, port, self.world_size, is_master=False, timeout=wait
            )
        self._store.set(f"learner {self.rank}", "here")
        names = [f"learner {rank}" for rank in range(self.world_size)]
        try:
            self._store.wait(names, wait)
        except dist.DistStoreError:
            missing = [name for name in names if not self._store.check([name])]
            raise MissingLearnersError(
                f"{', '.join(missing)} did not come to the rendezvous at {host}:{port} within {deadline_s:g} s"
            ) from None
        dist.init_process_group(
            self._backend, store=self._store, rank=self.rank, world_size=self.world_size, timeout=self._timeout
        )
        # Counts are decided on by the host: they must not pass through a GPU.
        self._counting = dist.new_group(backend="gloo", timeout=self._timeout) if self._backend == "nccl" else None

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum the tensor over all learners, in place; LearnersLostError when one of them is gone or late."""
        with _naming_the_loss():
            dist.all_reduce(tensor)

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of whole numbers over all learners; LearnersLostError as in `all_reduce`."""
        table = torch.tensor(list(counts), dtype=torch.int64)
        with _naming_the_loss():
            dist.all_reduce(table, group=self._counting)
        return [int(count) for count in table]

    def close(self) -> None:
        """Leave the group. Idempotent."""
        if dist.is_initialized():
            dist.destroy_process_group()
