"""What tells two data sets apart: SHA-256 of contents, never of a file's date."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from rayloom.contract import Table

_BATCH = 4096
_WHOLE_FILE = 64 * 2**20
_BLOCKS, _BLOCK = 64, 2**20


def tables_digest(tables: Iterable[Table]) -> str:
    """Return the hash of all rows of some tables, in order."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(f"table {len(table)}".encode())
        for batch in table.batches(_BATCH):
            for name, tensor in batch.items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def files_digest(paths: Iterable[tuple[str, Path]]) -> str:
    """Return the hash of (name, size, contents) of some files.

    Of a file above 64 MiB 64 blocks of 1 MiB stand for its contents, evenly spaced from the first to the last.
    """
    digest = hashlib.sha256()
    for name, path in paths:
        size = path.stat().st_size
        digest.update(f"{name} {size}".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
                continue
            for block in range(_BLOCKS):
                file.seek((size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def combined_digest(*parts: object) -> str:
    """Return one hash of several parts, by their text."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
