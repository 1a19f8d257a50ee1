"""C code from a tarball, from a folder, and from Python's own headers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch

from rayloom import datasets
from rayloom.contract import UserError
from rayloom_supervised.data import linux_source

CODE = {
    "linux-1/init/main.c": "other code\n" * 40,
    "linux-1/kernel/a.c": "int a;\r\n" * 20,
    "linux-1/kernel/Makefile": "not code\n" * 20,
    "linux-1/kernel/sub/b.h": "int é;\n" * 20,
    "linux-1/lib/c.c": "more code\n" * 40,
}


def load(**settings: object) -> datasets.Dataset:
    chosen = {"import": "rayloom_supervised.data.linux_source:linux_source", "length": 10, **settings}
    return datasets.load(chosen, 0)


def written(data: datasets.Dataset) -> str:
    labels = data.spec["token"].labels
    return "".join(
        labels[number] for number in data.train.rows(torch.arange(len(data.train)))["token"].flatten().tolist()
    )


def pack(path: Path) -> Path:
    with tarfile.open(path, "w:xz") as tarball:
        for name, text in CODE.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tarball.addfile(member, io.BytesIO(text.encode()))
    return path


def test_one_folder_of_a_tarball_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = written(load(path=str(pack(tmp_path / "linux-source-6.1.tar.xz")), validation=0.1, test=0.1))
    whole = ("int a;\n" * 20 + "int (other);\n" * 20).replace("(other)", "\0")
    assert whole.startswith(found.replace("(other)", "\0")) and len(found.replace("(other)", "\0")) == 220
    monkeypatch.setattr(linux_source, "_TARBALLS", tmp_path)  # the same one is found by itself
    data = load()
    assert data.name == "linux-source" and written(data) == found


def test_without_the_kernel_there_are_pythons_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_source, "_TARBALLS", tmp_path)
    data = load(characters=5000)
    assert data.name == "python-headers" and "Py" in written(data)


def test_what_has_no_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no tarball or folder .*gone; install the Debian package"):
        load(path=str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"has no \.c or \.h files; name another folder"):
        load(path=str(tmp_path))
    tarball = pack(tmp_path / "l.tar.xz")
    with pytest.raises(UserError, match=r"has no \.c or \.h files in 'mm'"):
        load(path=str(tarball), folder="mm")
    tarball.write_bytes(tarball.read_bytes()[:60])
    with pytest.raises(UserError, match="is damaged or no tarball"):
        load(path=str(tarball))
