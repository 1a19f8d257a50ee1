"""The one way in which this chapter compiles functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Return the function compiled by numba on its first call; it runs without the interpreter lock.

    The machine code is kept beside the source file. Numba compiles anew when that file changes, not when a file does
    from which it imports compiled functions: a compiled function therefore calls only those of its own module.
    """
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
