"""The source of the Linux kernel where its Debian package is installed, else other C code that is on the machine."""

from __future__ import annotations

import lzma
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rayloom.contract import UserError, component
from rayloom.datasets import Dataset
from rayloom.datasets.windows import WindowsConfig, ascii_windows

_TARBALLS = Path("/usr/src")
_SUFFIXES = (".c", ".h")
Code = tuple[str, bytes]
"""A file's path and its contents."""


@dataclass(frozen=True, kw_only=True)
class LinuxSourceConfig(WindowsConfig):
    """C code for a language model of characters: the Linux kernel's where the Debian package linux-source is installed.

    Without it (`apt install linux-source`), and without a `path`, the headers of the running Python stand in.
    """

    path: str | None = None
    """A tarball of the kernel, or any folder with .c and .h files; null: the newest tarball in /usr/src."""
    folder: str = "kernel"
    """Folder of a tarball that is read: all of it would be more than a thousand million characters."""


@component("data set", LinuxSourceConfig)
def linux_source(config: LinuxSourceConfig, seed: int) -> Dataset:
    """Return windows `token` [L] and `next_token` [L]; 0 stands for every character outside ASCII.

    The data set's name says which code it is: linux-source, python-headers, or that of the folder.
    """
    name, files = _find(config)
    text = "".join(content.decode("utf-8", errors="ignore").replace("\r\n", "\n") for _, content in sorted(files))
    return ascii_windows(name, text[: config.characters], config)


def _find(config: LinuxSourceConfig) -> tuple[str, Iterable[Code]]:
    """Return the name of the code and its files."""
    if config.path is None:
        tarballs = sorted(_TARBALLS.glob("linux-source-*.tar.*"))
        if tarballs:
            return "linux-source", _packed(tarballs[-1], config.folder)
        return "python-headers", _unpacked(Path(sysconfig.get_path("include")))
    path = Path(config.path)
    if path.is_file():
        return "linux-source", _packed(path, config.folder)
    if not path.is_dir():
        raise UserError(
            f"source.dataset.path: there is no tarball or folder {path}; install the Debian package linux-source "
            "and leave path out, or name a folder with .c and .h files"
        )
    return path.name, _unpacked(path)


def _unpacked(folder: Path) -> list[Code]:
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in _SUFFIXES and path.is_file()]
    if not paths:
        raise UserError(f"source.dataset.path: {folder} has no .c or .h files; name another folder")
    return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths]


def _packed(tarball: Path, folder: str) -> list[Code]:
    """Return the code in one folder of a tarball, which is read as a stream up to its end."""
    try:
        found = list(_members(tarball, folder))
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        raise UserError(f"{tarball} is damaged or no tarball ({error}): install or name another one") from None
    if not found:
        raise UserError(f"source.dataset.folder: {tarball} has no .c or .h files in {folder!r}; name another folder")
    return found


def _members(tarball: Path, folder: str) -> Iterator[Code]:
    passed = False
    with tarfile.open(tarball, "r|*") as stream:
        for member in stream:
            inner = member.name.partition("/")[2]  # the first part is the version
            inside = inner.startswith(f"{folder}/")
            if passed and not inside:
                return  # a folder's files stand together: what follows need not be unpacked
            passed = passed or inside
            if inside and member.isfile() and inner.endswith(_SUFFIXES):
                file = stream.extractfile(member)
                assert file is not None
                yield inner, file.read()
