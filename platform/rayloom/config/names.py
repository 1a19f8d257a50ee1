"""Words of a config that become files and folders: what they may be."""

from __future__ import annotations

import os
from pathlib import Path

from rayloom.errors import UserError

LONGEST_NAME = 200
"""Bytes of a name in UTF-8: its folder has the time and a random part besides, and may have 255."""

_LONGEST_PART, _LONGEST_PATH = 255, 3000
"""Bytes that Linux takes; of the 4,096 of a path some are left for what lies in the folder."""


def check_name(name: str, key: str) -> None:
    """Raise UserError for a name that is none of a file; `key` is where it stands."""
    wrong = (
        not name.isprintable()  # line ends, NUL and halves of characters too
        or name.strip(". ") != name
        or not name
        or name.startswith("-")
        or any(sign in name for sign in "/\\")
        or len(name.encode()) > LONGEST_NAME
    )
    if wrong:
        shown = repr(name) if len(name) <= 60 else f"{name[:40]!r}... ({len(name)} letters)"
        raise UserError(
            f"{key}: {shown} cannot name a folder; write letters, digits, spaces and signs but / and \\, at most "
            f"{LONGEST_NAME} bytes, with no dash at its beginning and no dot or space at either end"
        )


def derived_name(name: str, suffix: str) -> str:
    """Return a name with something at its end, shortened before it where it would be too long."""
    kept = name.encode()[: LONGEST_NAME - len(suffix.encode())].decode(errors="ignore")
    return kept + suffix


def output_folder(folder: str) -> Path:
    """Return the absolute path of an output folder; UserError for what no file system or terminal takes."""
    control = any(ord(sign) < 32 or ord(sign) == 127 or 0xD800 <= ord(sign) < 0xE000 for sign in folder)
    if not folder or control:
        raise UserError(
            f"output: {folder!r} is no folder; write a path of letters, without line ends and other control characters"
        )
    path = Path(folder).absolute()
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > _LONGEST_PART or len(os.fsencode(path)) > _LONGEST_PATH:
        raise UserError(
            f"output: a path of {len(folder):,} letters is too long; write at most {_LONGEST_PATH:,} bytes, and "
            f"{_LONGEST_PART} between slashes"
        )
    return path
