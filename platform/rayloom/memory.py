"""Memory that is asked for is compared with what there is before it is taken: a system that runs out of it kills."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rayloom.errors import UserError

_GROUP = Path("/sys/fs/cgroup")
_LITTLE = 64 * 2**20
_NEW = ("aten::empty", "aten::zeros", "aten::ones", "aten::full", "aten::rand", "aten::randn", "aten::empty_strided")


def available_memory() -> int:
    """Return the bytes that can still be taken: of the machine, and of what its container or user is limited to."""
    free = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - psutil.Process().memory_info().vms)
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limit = int((_GROUP / "memory.max").read_text())
        free = min(free, limit - int((_GROUP / "memory.current").read_text()))
    return free


def check_fits(size: int, key: str, what: str) -> None:
    """Refuse (UserError, which names the config's `key`) to take `size` bytes where there are fewer.

    Little is not asked about: every rollout comes here, and the system answers in the time of an environment's step.
    """
    if size <= _LITTLE:
        return
    free = available_memory()
    if size > free:
        gib = 2**30
        raise UserError(f"{key}: {what} need {size / gib:,.1f} GiB and {free / gib:,.1f} GiB are free here; lower it")


class _Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, key: str, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._key, self._what, self._taken = key, what, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in _NEW and args and isinstance(args[0], list | tuple | torch.Size):
            if torch.device(kwargs.get("device") or "cpu").type != "cpu":
                return func(*args, **kwargs)
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            self._taken += math.prod(int(length) for length in args[0]) * dtype.itemsize
            check_fits(self._taken, self._key, self._what)
        return func(*args, **kwargs)


@contextlib.contextmanager
def checked_tensors(key: str, what: str) -> Iterator[None]:
    """Refuse (UserError) to make tensors meanwhile that together need more memory than there is."""
    with _Sizes(key, what):
        yield
