"""Starts the process that logs a trained model (`model`), for the writer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rayloom.files import INTERNAL, read_record, write_json
from rayloom.redaction import redacted_url
from rayloom.tracking.journal import WRITER_LOG, Record
from rayloom.tracking.writer.errors import UnreachableError
from rayloom.tracking.writer.log import say
from rayloom.tracking.writer.mlflow_store import Store

_DEADLINE_S = 300.0
_ATTEMPTS = 2

MODEL_STATE = f"{INTERNAL}/model.json"
"""How far the export of the model is."""


def log_model(run_dir: Path, store: Store, record: Record, end: int) -> None:
    """Log the model of the record that ends at byte `end`, in a child process and twice at most.

    A failure becomes a tag; UnreachableError when the server does not answer.
    """
    path = run_dir / MODEL_STATE
    state = read_record(path, {}) or {}
    if state.get("end") != end:
        state = {"end": end, "attempts": 0}
    if state["attempts"] >= _ATTEMPTS:
        store.set_tags({"rayloom.model": f"failed: the writer died twice during the export: see {WRITER_LOG}"})
        return
    write_json(path, {**state, "attempts": state["attempts"] + 1})
    code, errors = _export(run_dir, store, record["loader"])
    if code == os.EX_TEMPFAIL:
        write_json(path, {**(read_record(path, {}) or {}), "attempts": state["attempts"]})
        raise UnreachableError(errors[-1])
    if code == 0:
        store.set_tags({"rayloom.model": (read_record(path, {}) or {}).get("model_id") or "none"})
        return
    reason = errors[-1] if code > 0 and errors else f"the exporting process ended with code {code}"
    say(f"the model is not logged: {reason}")
    store.set_tags({"rayloom.model": f"failed: {reason}"})


def _export(run_dir: Path, store: Store, loader: str) -> tuple[int, list[str]]:
    """Run the child process; return its exit code and the lines of its standard error."""
    arguments = [str(run_dir), redacted_url(store.uri), store.run_id, store.experiment_id, loader]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "rayloom.tracking.writer.model", *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_DEADLINE_S,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, [f"the export took longer than {_DEADLINE_S:g} s"]
    errors = done.stderr.decode(errors="replace").strip()
    print(errors, file=sys.stderr, flush=True)
    return done.returncode, errors.splitlines()
