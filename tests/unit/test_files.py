"""Small files: replaced in one step and on the disk, and read only where they are what they should be."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest

from damage import a_dangling_link, a_device, a_folder, a_link_to_itself, a_pipe
from rayloom.errors import UserError
from rayloom.files import DamagedFileError, is_there, read_record, read_text, replace_file, write_json


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    write_json(path, {"n": 2})
    assert read_record(path, {"n": int}) == {"n": 2} and list(tmp_path.iterdir()) == [path]
    replace_file(path, b"\x00", mode=0o600)
    assert path.read_bytes() == b"\x00" and path.stat().st_mode & 0o777 == 0o600


def test_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("flush"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append("rename"), replace(old, new))[1])
    write_json(tmp_path / "a", 1)
    assert order == ["flush", "rename", "flush"]


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    replace_file(path, "old")

    def full(old: object, new: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [a_folder, a_dangling_link, a_link_to_itself, a_pipe, a_device])
def test_what_is_no_file_is_told_and_never_waited_for(damage: object, tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    damage(path, random.Random(0))  # type: ignore[operator]
    for read in (is_there, read_text, lambda path: read_record(path, {})):
        with pytest.raises(DamagedFileError, match=r"process\.json is damaged \(.*: bring back a good copy"):
            read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no text"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"{}", "n is missing or wrong"),
        (b'{"n": "1"}', "n is missing or wrong"),
        (b'{"n": true}', "n is missing or wrong"),
        (b'{"n": null}', "n is missing or wrong"),
    ],
)
def test_what_is_no_record_is_told(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"\({reason}\)") as caught:
        read_record(path, {"n": int})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(2**30)
    with pytest.raises(DamagedFileError, match="1,073,741,824 bytes"):
        read_text(path)
    assert is_there(path, 2**31) and not is_there(tmp_path / "nothing") and read_record(tmp_path / "no", {}) is None
