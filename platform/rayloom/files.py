"""Small files of ours: replaced in one step and on the disk, and read only where they are what they should be.

Whoever reads a folder that may be damaged gets the content, None where there is no file, or `DamagedFileError`: never a
wait for a pipe, an endless device or a traceback.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.errors import UserError

INTERNAL = "internal"
"""Folder in that of a run or study for what rayloom alone reads."""
_LARGEST = 64 * 2**20
"""No small file of ours is larger (bytes)."""
Fields = Mapping[str, type | tuple[type, ...]]
"""Names and types of the values that a record must have."""
NUMBER = (int, float)


class DamagedFileError(UserError):
    """A file that cannot be what we wrote, in one sentence."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged ({reason}): bring back a good copy, or remove it")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[DamagedFileError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


def replace_file(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Replace a file in one step and wait until it is on the disk: a reader sees the old or the new content.

    OSError leaves the old one.
    """
    # By chance, not by process: another container with these files may have processes of the same numbers.
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_there(path: Path, largest: int = _LARGEST) -> bool:
    """Tell whether there is a file to read; DamagedFileError for what is no file, or a larger one than it could be."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise DamagedFileError(path, "a link to nothing") from None
        return False
    except OSError as error:
        raise DamagedFileError(path, error.strerror or "unreadable") from None
    if not stat.S_ISREG(status.st_mode):
        raise DamagedFileError(path, "a folder" if stat.S_ISDIR(status.st_mode) else "no file")
    if status.st_size > largest:
        raise DamagedFileError(path, f"{status.st_size:,} bytes")
    return True


def read_text(path: Path) -> str | None:
    """Return what a text file says, None where there is none; DamagedFileError where it is no text."""
    if not is_there(path):
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DamagedFileError(path, "no text") from None
    except OSError as error:
        raise DamagedFileError(path, error.strerror or "unreadable") from None


def write_json(path: Path, content: Any) -> None:
    """Replace a file by JSON."""
    replace_file(path, json.dumps(content))


def read_record(path: Path, fields: Fields) -> dict[str, Any] | None:
    """Return a JSON object with these fields, and maybe more; None where there is none, DamagedFileError otherwise."""
    text = read_text(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise DamagedFileError(path, "no JSON") from None
    if not isinstance(content, dict):
        raise DamagedFileError(path, "no JSON object")
    for name, kind in fields.items():
        value = content.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DamagedFileError(path, f"{name} is missing or wrong")
    return content


def make_internal(folder: Path) -> None:
    """Make the folder for what rayloom alone reads in a run's folder, which is there."""
    try:
        (folder / INTERNAL).mkdir(exist_ok=True)
    except FileExistsError:
        raise DamagedFileError(folder / INTERNAL, "a file where a folder belongs") from None
