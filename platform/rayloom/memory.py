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
from torch.overrides import TorchFunctionMode

from rayloom.errors import UserError

_GROUP = Path("/sys/fs/cgroup")
_LITTLE = 64 * 2**20
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_TOO_LARGE = (
    *("array is too big", "Maximum allowed dimension exceeded", "Storage size calculation overflowed"),
    *("numel: integer multiplication overflow", "cannot fit 'int'", "too large to convert", "out of bounds for int"),
)
"""What torch and NumPy say of sizes that no memory has."""
_NEW = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.empty_strided)


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


class _Sizes(TorchFunctionMode):
    """Adds up what is asked for. (A TorchDispatchMode would see more, and import torch's compiler: two seconds.)"""

    def __init__(self, key: str, what: str) -> None:
        super().__init__()
        self._key, self._what, self._taken = key, what, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _NEW and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            self._taken += _count(args, kwargs) * dtype.itemsize
            check_fits(self._taken, self._key, self._what)
        return func(*args, **kwargs)


def _count(args: Any, kwargs: Any) -> int:
    """Return the elements of a new tensor: its size is the first argument, or all of them (`torch.zeros(2, 3)`)."""
    size = kwargs.get("size", args)
    if size and isinstance(size[0], list | tuple):
        size = size[0]
    return math.prod(int(length) for length in size if hasattr(length, "__index__"))


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an exception says that there is not as much memory as was asked for, or that no size is so large."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, ValueError | OverflowError):
        return any(said in str(error) for said in _TOO_LARGE)
    return isinstance(error, RuntimeError) and any(said in str(error) for said in (*_NO_MEMORY, *_TOO_LARGE))


@contextlib.contextmanager
def bounded(key: str, what: str, limit: bool = True) -> Iterator[None]:
    """Refuse (UserError, which names the config's `key`) what meanwhile needs more memory than there is.

    What is made of plain arrays and objects cannot be asked for its size before it is there: for that time the system
    gives this process no more than is free, where it can be told so. Without `limit` only its refusals are explained:
    a process that is started meanwhile would keep the limit.
    """
    try:
        with _no_more_than_free() if limit else contextlib.nullcontext():
            yield
    except UserError:
        raise
    except Exception as error:
        if not lacks_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        told = f" ({said})" if said else ""
        raise UserError(f"{key}: {what} need more memory than there is{told}; lower their sizes") from error


@contextlib.contextmanager
def _no_more_than_free() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    now = psutil.Process().memory_info()
    most = int(getattr(now, "data", now.vms)) + max(0, available_memory()) + _LITTLE
    if before[0] != resource.RLIM_INFINITY:
        most = min(most, before[0])
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    except (OSError, ValueError):  # a system without such limits, or one that is above its own already
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def checked_tensors(key: str, what: str) -> Iterator[None]:
    """Refuse (UserError) to make tensors meanwhile that together need more memory than there is."""
    with _Sizes(key, what):
        yield
