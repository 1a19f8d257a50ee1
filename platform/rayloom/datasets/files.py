"""Finding data files on the machine, else downloading them; contents are always verified by their SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from rayloom.errors import UserError

_log = logging.getLogger(__name__)
_DOWNLOAD_TIMEOUT_S = 30.0


def search_folders(dataset: str, folder: str | None, system_folders: Sequence[str] = ()) -> list[Path]:
    """Return where the files of a data set may lie, in order: the option, RAYLOOM_DATA, the system, the cache."""
    folders = [Path(folder)] if folder else []
    root = os.environ.get("RAYLOOM_DATA")
    if root:
        folders += [Path(root) / dataset, Path(root)]
    folders += [Path(name) for name in system_folders]
    return [*folders, cache_folder(dataset)]


def cache_folder(dataset: str) -> Path:
    """Return the folder for downloads: under RAYLOOM_DATA where that is set, else the user's cache."""
    root = os.environ.get("RAYLOOM_DATA")
    if root:
        return Path(root) / dataset
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "rayloom" / dataset


def find_file(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """Return the first folder's first file with one of the names."""
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def download(url: str, folder: Path, advice: str) -> Path:
    """Fetch `url` into `folder` and return the file; `advice` ends the UserError when it cannot be had."""
    import pooch  # slow to import, and needed only where the files are not on the machine

    pooch.get_logger().setLevel(logging.WARNING)
    _log.warning("downloading %s to %s", url, folder)
    name = url.rsplit("/", 1)[-1]
    downloader = pooch.HTTPDownloader(timeout=_DOWNLOAD_TIMEOUT_S)
    try:
        return Path(pooch.retrieve(url, known_hash=None, fname=name, path=folder, downloader=downloader))
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise UserError(f"{url} cannot be downloaded ({reason}): {advice}") from error


def read_verified(path: Path, sha256: str, decode: Callable[[Path], bytes], remedy: str) -> bytes:
    """Return the decoded contents of `path` after checking their SHA-256; `remedy` ends the UserError."""
    try:
        payload = decode(path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or unreadable ({error}): {remedy}") from error
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise UserError(f"{path} has other contents than expected (SHA-256 {found[:16]}, not {sha256[:16]}): {remedy}")
    return payload


def unzipped(path: Path) -> bytes:
    """Return the contents of a file, decompressed when its name ends in .gz.

    Packagers strip or rewrite gzip headers, so hashes hold for the contents and never for the .gz file.
    """
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
