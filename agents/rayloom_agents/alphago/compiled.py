"""The one way in which this chapter compiles functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Return the function compiled by numba on its first call; it runs without the interpreter lock.

    The machine code is kept beside the source file. Numba compiles anew when that file changes, not when a file does
    from which it imports compiled functions: a compiled function therefore calls only those of its own module, or is
    made by `compiled_upon`.
    """
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_upon(*modules: ModuleType) -> Callable[[Function], Function]:
    """Return the same for functions that call compiled ones of `modules`, or take constants from there.

    Their machine code is kept under a name that holds the hash of those modules' sources: where one changes, they are
    compiled anew.
    """
    sources = [Path(module.__file__ or "").read_bytes() for module in modules]
    stamp = hashlib.sha256(b"".join(sources)).hexdigest()[:12]

    def compile_(function: Function) -> Function:
        function.__qualname__ = f"{function.__qualname__}-{stamp}"
        return compiled(function)

    return compile_
