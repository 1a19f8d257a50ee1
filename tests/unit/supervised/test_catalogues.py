"""Catalogues of translations: read as the standard library does, short messages, each in one split."""

from __future__ import annotations

import gettext
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import UserError
from rayloom_supervised.data.catalogues import read_catalogue
from rayloom_supervised.data.symbols import END
from rayloom_supervised.tasks.translation import Translator

HEAD = "Content-Type: text/plain; charset=UTF-8\n"


def write(path: Path, messages: dict[str, str], order: str = "<") -> Path:
    """Write a .mo file, as the manual of gettext describes it."""
    pairs = sorted([("", HEAD), *messages.items()])
    count, tables, strings = len(pairs), b"", b""
    start = 28 + 16 * count
    for side in (0, 1):
        for pair in pairs:
            text = pair[side].encode()
            tables += struct.pack(f"{order}2I", len(text), start + len(strings))
            strings += text + b"\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f"{order}7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 28) + tables + strings)
    return path


def load(root: Path, **settings: Any) -> datasets.Dataset:
    chosen = {"import": "rayloom_supervised.data.catalogues:catalogues", "path": str(root), **settings}
    return datasets.load(chosen, 0)


def installed(root: Path) -> Path:
    folder = root / "zh_CN" / "LC_MESSAGES"
    many = {f"Open {number}": f"\u6253\u5f00\u6587\u4ef6 {number}" for number in range(30)}
    write(folder / "a.mo", {**many, "%s is gone": "%s", "two\nlines": "\u4e24", "x" * 50: "y", "Open 1\0Opens": "z\0w"})
    write(folder / "b.mo", {"Open 3": "\u5f00 3", "menu\x04Close": "\u5173"}, ">")
    return root


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_catalogue_is_read_as_by_the_standard_library(order: str, tmp_path: Path) -> None:
    messages = {"Open": "\u6253\u5f00", "Close the file": "\u5173\u95ed\u6587\u4ef6"}
    path = write(tmp_path / "x.mo", messages, order)
    with path.open("rb") as file:
        library = gettext.GNUTranslations(file)
    found = dict(read_catalogue(path))
    assert found == {message: library.gettext(message) for message in messages} == messages


def test_short_messages_are_there_once(tmp_path: Path) -> None:
    data = load(installed(tmp_path), target_vocabulary=5)
    texts = []
    for split in (data.train, data.validation, data.test):
        batch = split.rows(torch.arange(len(split)))
        assert bool((batch["target"].gather(1, batch["target_length"][:, None] - 1) == END).all())
        for row, length in zip(batch["source"].tolist(), batch["source_length"].tolist(), strict=True):
            texts.append("".join(data.spec["source"].labels[number] for number in row[:length]))
    assert sorted(texts) == sorted({f"Open {number}" for number in range(30)} | {"Close"})
    assert len(data.spec["target"].labels) == 9 and [len(data.validation), len(data.test)] == [3, 3]


def test_what_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are no catalogues in .*fr"):
        load(installed(tmp_path), language="fr")
    path = tmp_path / "zh_CN" / "LC_MESSAGES" / "a.mo"
    for content in (path.read_bytes()[:-40], b"text", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.mo is no UTF-8 gettext catalogue"):
            load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="has 2 short messages, too few to learn from"):
        load(tmp_path)


def test_bleu_is_reported_for_the_whole_split(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    data = load(installed(tmp_path))
    torch.manual_seed(0)
    model = Translator(Translator.Config(embedding_size=4, cell_size=4, bleu="zh"), data.spec).eval()
    with torch.no_grad():
        found = model.evaluate(data.validation.rows(torch.arange(3)))
    outputs = {name: value for name, value in found.items() if name.startswith("_")}
    outputs["_written"] = outputs["_target"]
    scores, figures = model.summarize(outputs)  # type: ignore[arg-type]
    assert float(scores["bleu"]) == pytest.approx(100) and "exact_match_by_length" in figures
