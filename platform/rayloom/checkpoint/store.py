"""Atomic checkpoints and exact restore of everything stateful.

A checkpoint is a folder `step_000000001234` with `tensors.safetensors` (torch), `arrays.safetensors` (NumPy) and
`manifest.json`: the tree that holds them, all other leaves, step, metric and SHA-256 of both files; its first line is
the SHA-256 of the rest. It is written aside as `.tmp-...`, flushed to the disk and renamed, so that a folder with the
right name is complete. Nothing in the files can execute.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from rayloom.checkpoint.tree import _decode, _Flattened
from rayloom.errors import UserError
from rayloom.files import DamagedFileError, flush_folder, is_there

FORMAT = 1
"""Version of the layout on disk."""

_MANIFEST, _TENSORS, _ARRAYS = "manifest.json", "tensors.safetensors", "arrays.safetensors"
_NAME = re.compile(r"step_(\d{12,})(?:_(\d+))?")


class _DamagedError(Exception):
    """The checkpoint cannot be read; the message is the reason."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was read back; tensors are on the CPU, each in storage of its own."""

    step: int
    state: dict[Any, Any]
    metadata: dict[Any, Any]
    path: Path
    notes: list[str] = field(default_factory=list)
    """What is to be said with it: a sentence for each damaged checkpoint that was passed over."""


class _Saved(NamedTuple):
    step: int
    attempt: int
    path: Path


class CheckpointStore:
    """Checkpoints of one run in one folder; one writer at a time."""

    def __init__(self, folder: Path, keep: int, mode: Literal["max", "min"]) -> None:
        """Keep the newest `keep` checkpoints and the best one, whose metric is the `mode` of all."""
        assert keep >= 1, keep
        self.folder = Path(folder)
        self.keep = keep
        self.mode = mode

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        *,
        metric: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a checkpoint, then delete those no longer wanted; return its folder.

        `state` and `metadata` are trees of dicts (keys str or int), lists and tuples; leaves are torch tensors, NumPy
        arrays and scalars, int, float, str, bool and None. Raises TypeError, which names the place, for anything else;
        UserError when the disk refuses, and then the earlier checkpoints are as they were. Saving step s supersedes
        checkpoints of step s and later: they belong to a past that was rewound.
        """
        flat = _Flattened()
        tree = flat.encode({"state": state, "metadata": metadata or {}}, "")
        usable = None if metric is None or math.isnan(metric) else float(metric)
        content = {"format": FORMAT, "step": step, "metric": flat.encode(usable, "metric"), "tree": tree}
        temporary = self.folder / f".tmp-{step:012d}-{os.getpid()}"
        try:
            for leftover in self.folder.glob(".tmp-*"):  # of a save that was killed
                shutil.rmtree(leftover)
            temporary.mkdir(parents=True)
            _write(temporary, content, flat)
            target = self._target(step)
            temporary.rename(target)
            flush_folder(self.folder)
        except (OSError, safetensors.SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)  # if this fails too, the next save removes the leftovers
            raise self._refused(f"cannot write the checkpoint of step {step}", error) from error
        self._prune(step, target)
        return target

    def load_latest(self) -> Loaded | None:
        """Return the newest intact checkpoint; None when there is none.

        Damaged ones are passed over and named in `notes`. Raises UserError when all are damaged.
        """
        return self._first_intact([entry.path for entry in reversed(self._entries())])

    def load_best(self) -> Loaded | None:
        """Return the intact checkpoint with the best metric (the earliest among equals); None when none has a metric.

        Raises UserError when all with a metric are damaged.
        """
        return self._first_intact([entry.path for entry in self._ranked(self._entries())])

    def steps(self) -> list[int]:
        """Return the steps of which there is a checkpoint, in order."""
        return sorted({entry.step for entry in self._entries()})

    def load_step(self, step: int) -> Loaded:
        """Return the newest checkpoint of a step that `steps` names; raise UserError when it is damaged."""
        return self.load([entry.path for entry in self._entries() if entry.step == step][-1])

    def load(self, path: Path) -> Loaded:
        """Return one checkpoint; raise UserError when it is missing or damaged."""
        try:
            return _read(Path(path))
        except _DamagedError as error:
            raise UserError(f"the checkpoint {path} is damaged ({error}): choose another one") from error

    def _first_intact(self, paths: list[Path]) -> Loaded | None:
        notes: list[str] = []
        for path in paths:
            try:
                loaded = _read(path)
            except _DamagedError as error:
                notes.append(f"The checkpoint {path} is damaged ({error}) and was passed over.")
                continue
            loaded.notes.extend(notes)
            return loaded
        if notes:
            raise UserError(
                f"restore {self.folder} from a copy, or start anew: every checkpoint is damaged ({notes[0]})"
            )
        return None

    def _entries(self) -> list[_Saved]:
        """Return the checkpoints in the order in which they were made."""
        if not self.folder.is_dir():
            return []
        matches = [(path, _NAME.fullmatch(path.name)) for path in self.folder.iterdir()]
        return sorted(_Saved(int(match[1]), int(match[2] or 0), path) for path, match in matches if match)

    def _target(self, step: int) -> Path:
        """Return a free name: replacing a folder is not atomic, so a step that is saved again gets a suffix."""
        attempts = [entry.attempt for entry in self._entries() if entry.step == step]
        return self.folder / (f"step_{step:012d}_{max(attempts) + 1}" if attempts else f"step_{step:012d}")

    def _ranked(self, entries: Iterable[_Saved]) -> list[_Saved]:
        """Return the entries with a readable metric, best first, earlier first among equals."""
        rated = [(metric, entry) for entry in entries if (metric := _metric(entry.path)) is not None]
        sign = -1.0 if self.mode == "max" else 1.0
        return [entry for _, entry in sorted(rated, key=lambda pair: (sign * pair[0], pair[1]))]

    def _prune(self, step: int, newest: Path) -> None:
        """Delete all but the newest `keep` and the best; a deletion that is interrupted leaves `.tmp-...` only."""
        try:
            entries = self._entries()
            past = [entry for entry in entries if entry.step < step or entry.path == newest]
            wanted = {entry.path for entry in past[-self.keep :]}
            wanted.update(entry.path for entry in self._ranked(past)[:1])
            for entry in entries:
                if entry.path not in wanted:
                    aside = entry.path.with_name(f".tmp-old-{entry.path.name}")
                    entry.path.rename(aside)
                    shutil.rmtree(aside)
        except OSError as error:
            raise self._refused(f"{newest} is saved, but old checkpoints cannot be deleted", error) from error

    def _refused(self, what: str, error: Exception) -> UserError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return UserError(
            f"{what} in {self.folder} ({reason}): free space there or set `output` to a writable folder, then resume"
        )


# --- files ---------------------------------------------------------------------------------------------------------


def _write(folder: Path, content: dict[str, Any], flat: _Flattened) -> None:
    safetensors.torch.save_file(flat.tensors, folder / _TENSORS)
    safetensors.numpy.save_file(flat.arrays, folder / _ARRAYS)
    content["files"] = {name: _sha256(folder / name, flush=True) for name in (_TENSORS, _ARRAYS)}
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    with open(folder / _MANIFEST, "wb") as file:
        file.write(b'{"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'","content":\n' + body + b"\n}\n")
        file.flush()
        os.fsync(file.fileno())
    flush_folder(folder)


def _sha256(path: Path, flush: bool = False) -> str:
    """Return the hash of a file, and wait until the file is on the disk if `flush`."""
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        if not is_there(path / _MANIFEST):
            raise _DamagedError(f"{_MANIFEST} is missing")
        head, _, rest = (path / _MANIFEST).read_bytes().partition(b"\n")
    except DamagedFileError as error:
        raise _DamagedError(f"{_MANIFEST}: {error.reason}") from error
    except OSError as error:
        raise _DamagedError(f"{_MANIFEST}: {error.strerror}") from error
    body = rest.removesuffix(b"\n}\n")
    if head != b'{"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'","content":':
        raise _DamagedError(f"{_MANIFEST} has changed since it was written")
    try:
        content: dict[str, Any] = json.loads(body)
        known = content["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _DamagedError(f"{_MANIFEST} is no manifest") from None
    if known != FORMAT:
        raise UserError(
            f"the checkpoint {path} has format {content['format']} and this rayloom reads {FORMAT}: "
            "use the version that wrote it"
        )
    return content


def _metric(path: Path) -> float | None:
    """Return the metric of a checkpoint, None where it has none or its manifest is damaged."""
    try:
        return cast(float | None, _decode(_read_manifest(path)["metric"], {}, {}))
    except (_DamagedError, LookupError, TypeError, ValueError):
        return None


def _read(path: Path) -> Loaded:
    if not path.is_dir():
        raise UserError(f"there is no checkpoint {path}: check the path")
    content = _read_manifest(path)
    files = content.get("files")
    if not isinstance(files, dict) or set(files) != {_TENSORS, _ARRAYS}:
        raise _DamagedError(f"{_MANIFEST} does not name the files {_TENSORS} and {_ARRAYS}")
    for name, expected in files.items():
        try:
            is_there(path / name, sys.maxsize)
            actual = _sha256(path / name)
        except DamagedFileError as error:
            raise _DamagedError(f"{name}: {error.reason}") from error
        except OSError as error:
            raise _DamagedError(f"{name}: {error.strerror}") from error
        if actual != expected:
            raise _DamagedError(f"{name} has changed since it was written")
    try:
        tensors = safetensors.torch.load_file(path / _TENSORS)
        arrays = safetensors.numpy.load_file(path / _ARRAYS)
        tree = _decode(content["tree"], tensors, arrays)
        return Loaded(int(content["step"]), dict(tree["state"]), dict(tree["metadata"]), path)
    except (safetensors.SafetensorError, struct.error, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _DamagedError(f"it holds no state of ours: {type(error).__name__}: {error}") from error


# --- trees ---------------------------------------------------------------------------------------------------------


# --- random states and hashes --------------------------------------------------------------------------------------


def tensors_sha256(named: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over the tensors in the order of their names: name, type, shape and raw bytes of each."""
    digest = hashlib.sha256()
    for name in sorted(named):
        tensor = named[name].detach().resolve_conj().resolve_neg().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
