"""What commands write: for people on one stream, one JSON line for programs on the other."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rayloom.redaction import redacted_tree


def tolerate_any_sign(stream: TextIO) -> None:
    """Write what the terminal's encoding lacks as an escape: no name or metric may end a run."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def human_stream(options: argparse.Namespace) -> TextIO:
    return sys.stderr if options.json else sys.stdout


def own_stdout(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Keep standard output for the JSON line where one was asked for: Ray, too, prints there now and then."""
    return contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()


def print_json(data: Mapping[str, Any]) -> None:
    print(json.dumps(_finite(redacted_tree(data)), ensure_ascii=False), flush=True)


def print_failure(options: argparse.Namespace, status: str, error: str, run_id: str | None = None) -> None:
    """Keep the promise of one JSON line when a command fails."""
    if options.json:
        run_id = run_id or options.of_run or getattr(options, "run_id", None)
        print_json({"run_id": run_id, "status": status, "error": error})


def _finite(value: Any) -> Any:
    """Return the value with NaN and infinity as null, since JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flush(stream: TextIO) -> None:
    """Flush, and keep the interpreter from failing once more at its exit when the reader has gone."""
    try:
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
