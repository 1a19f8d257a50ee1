"""A seeded mutator of run folders: what disks, copies and people do to them."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Mutation = Callable[[Path, random.Random], None]
BOOKKEEPING = (
    "config.yaml", "result.json", "internal/process.json", "internal/journal.jsonl", "internal/journal.ack",
    "internal/mlflow.json", "internal/process.lock", "internal/writer.lock", "internal/writer.log",
    "internal/drawing.lock", "internal/drawing.log", "internal/local",
)  # fmt: skip


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def emptied(path: Path, chance: random.Random) -> None:
    _remove(path)
    path.write_bytes(b"")


def gone(path: Path, chance: random.Random) -> None:
    _remove(path)


def cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content) + 1)])


def flipped(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 8))):
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def garbage(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.choice((1, 40, 4000))))


def a_folder(path: Path, chance: random.Random) -> None:
    _remove(path)
    path.mkdir()


def a_file(path: Path, chance: random.Random) -> None:
    _remove(path)
    path.write_text("a file")


def a_dangling_link(path: Path, chance: random.Random) -> None:
    _remove(path)
    path.symlink_to(path.parent / "nowhere")


def a_link_to_itself(path: Path, chance: random.Random) -> None:
    _remove(path)
    path.symlink_to(path)


def a_pipe(path: Path, chance: random.Random) -> None:
    _remove(path)
    os.mkfifo(path)


def a_device(path: Path, chance: random.Random) -> None:
    _remove(path)
    path.symlink_to(chance.choice(("/dev/zero", "/dev/null", "/dev/full")))


def swapped(path: Path, chance: random.Random) -> None:
    """Put another file's content in its place."""
    others = [each for each in path.parent.rglob("*") if each.is_file() and each != path]
    if others:
        path.write_bytes(chance.choice(others).read_bytes())


def other_json(path: Path, chance: random.Random) -> None:
    text = chance.choice(("null", "[]", "7", '"text"', "{}", "{", "[" * 100_000, '{"kind": "metrics"}', "NaN"))
    path.write_text(text + "\n")


def without_keys(path: Path, chance: random.Random) -> None:
    """Take keys away, or give them other types, in every JSON object of the file."""
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            lines.append(line)
            continue
        if isinstance(content, dict) and content and chance.random() < 0.5:
            key = chance.choice(sorted(content))
            if chance.random() < 0.5:
                del content[key]
            else:
                content[key] = chance.choice((None, -1, "text", [], {}, True, 1e308, 2**70))
        lines.append(json.dumps(content))
    path.write_text("\n".join(lines) + "\n")


def one_endless_line(path: Path, chance: random.Random) -> None:
    _remove(path)
    with open(path, "wb") as file:
        file.truncate(2**36)  # a hole, which takes no room


def foreign_checkpoints(folder: Path, chance: random.Random) -> str:
    """Put checkpoints of another run in the place of all, or of the newest; return whose they are."""
    theirs = [path for path in sorted(folder.parent.glob("*/checkpoints")) if path.parent != folder]
    given, own = chance.choice(theirs), sorted((folder / "checkpoints").glob("step_*"))
    for place in own if chance.random() < 0.5 else own[-1:]:
        shutil.rmtree(place)
        shutil.copytree(max(given.glob("step_*")), place)
    return given.parent.name


ANY: tuple[Mutation, ...] = (
    *(emptied, gone, cut, flipped, garbage, a_folder, a_dangling_link, a_link_to_itself, a_pipe, a_device),
    *(swapped, other_json, without_keys, one_endless_line),
)
FOLDER: tuple[Mutation, ...] = (gone, a_file, a_dangling_link, a_link_to_itself, a_pipe, a_device, a_folder)


def damage(folder: Path, chance: random.Random) -> str:
    """Damage one thing in a run's folder, a bookkeeping file as often as any other; return what was done."""
    known = [folder / name for name in BOOKKEEPING if (folder / name).is_file()]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    folders = [path for path in sorted(folder.rglob("*")) if path.is_dir()]
    kind = chance.choice(("known", "known", "known", "file", "file", "folder", "folder", "foreign"))
    if kind == "foreign":
        return f"checkpoints of {foreign_checkpoints(folder, chance)}"
    path = chance.choice({"known": known, "file": files, "folder": folders}[kind])
    mutation = chance.choice(FOLDER if kind == "folder" else ANY)
    mutation(path, chance)
    return f"{path.relative_to(folder)} {mutation.__name__}"
