"""Text: vocabularies of the training split, padding and lengths, windows and what follows them, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.errors import UserError


def load(path: Path, kind: str = "text", **settings: Any) -> datasets.Dataset:
    return datasets.load({"kind": kind, "path": str(path), **settings}, 0)


def write(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        {
            "train/good/1.txt": "very good",
            "train/bad/1.txt": "Bad bad film",
            "validation/good/1.txt": "good enough",
            "validation/bad/1.txt": "bad",
            "test/good/1.txt": "very very good indeed",
        },
    )


def rows(table: Any) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in table.rows(torch.arange(len(table))).items()}


def test_words_by_hand(reviews: Path) -> None:
    data = load(reviews)
    # By frequency in the training texts, then by the alphabet; enough and indeed are unknown.
    assert data.spec["token"].labels == ("(padding)", "(unknown)", "bad", "film", "good", "very")
    assert data.spec["token"].ragged and data.spec["token"].shape == (4,)
    assert data.spec["label"].labels == ("bad", "good")
    assert rows(data.train) == {"token": [[2, 2, 3], [5, 4, 0]], "token_length": [3, 2], "label": [0, 1]}
    assert rows(data.validation) == {"token": [[2, 0], [4, 1]], "token_length": [1, 2], "label": [0, 1]}
    assert rows(data.test) == {"token": [[5, 5, 4, 1]], "token_length": [4], "label": [1]}


def test_lines_with_labels(tmp_path: Path) -> None:
    path = tmp_path / "reviews.tsv"
    path.write_text("".join(f"{'ab'[n % 2]}\tword{n % 2} x\n" for n in range(20)))
    data = load(path, max_length=1)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [16, 2, 2]
    assert data.spec["token"].labels[2:] == ("word0", "word1")
    found = rows(data.train)
    assert found["token"] == [[2 + label] for label in found["label"]]
    path.write_text("a\tx\nno label here\n")
    with pytest.raises(UserError, match=r"reviews\.tsv has no label in line 2: write label, a tab and the text"):
        load(path)


def test_bytes_and_characters(reviews: Path) -> None:
    found = rows(load(reviews, tokens="bytes").train)
    assert found["token"][1][:4] == [byte + 2 for byte in b"very"]
    assert load(reviews, tokens="characters", vocabulary=3).spec["token"].num_values == 5


def test_windows_by_hand(tmp_path: Path) -> None:
    write(tmp_path, {"train/a.txt": "abcabcab", "validation/a.txt": "cabd", "test/a.txt": "abca"})
    data = load(tmp_path, "documents", length=3)
    assert data.spec["token"].labels == ("(unknown)", "a", "b", "c")
    assert rows(data.train) == {"token": [[1, 2, 3], [1, 2, 3]], "next_token": [[2, 3, 1], [2, 3, 1]]}
    assert rows(data.validation) == {"token": [[3, 1, 2]], "next_token": [[1, 2, 0]]}
    assert len(load(tmp_path, "documents", length=3, stride=1).train) == 5
    with pytest.raises(UserError, match=r"the validation split .* has 4 characters, too few for a window of 4"):
        load(tmp_path, "documents", length=4)


def test_one_file_is_cut_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(bytes(range(100)))
    data = load(path, "documents", tokens="bytes", length=4)
    assert data.spec["token"].num_values == 256
    assert rows(data.train)["token"][0] == [0, 1, 2, 3]
    assert rows(data.validation)["token"] == [[80, 81, 82, 83], [84, 85, 86, 87]]
    assert rows(data.test)["next_token"] == [[91, 92, 93, 94], [95, 96, 97, 98]]


def test_an_empty_text_and_a_missing_folder(reviews: Path, tmp_path: Path) -> None:
    (reviews / "train" / "bad" / "2.txt").write_text(" ")
    with pytest.raises(UserError, match=r"text 2 of .* is empty: remove it"):
        load(reviews)
    with pytest.raises(UserError, match="there is no file or folder"):
        load(tmp_path / "nowhere", "documents")


def test_an_encoding_is_detected_or_said(tmp_path: Path) -> None:
    poem = "床前明月光\r\n疑是地上霜\n" * 20
    found = []
    for name, encoding, said in (("a", "utf-8-sig", None), ("b", "utf-16", None), ("c", "gb18030", "gb18030")):
        path = tmp_path / f"{name}.txt"
        path.write_bytes(poem.encode(encoding))
        found.append(datasets.load({"kind": "documents", "path": str(path), "length": 5, "encoding": said}, 0))
    rows = [data.train.rows(torch.arange(len(data.train)))["token"] for data in found]
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])
    assert found[0].spec["token"].labels == ("(unknown)", *sorted({*poem} - {"\r"}))
    for said, sentence in (
        (None, r"c\.txt cannot be read as UTF-8 text \(byte 1\): say its encoding"),
        ("ascii", r"c\.txt cannot be read as ascii text \(byte 1\): say its right encoding"),
        ("klingon", r"source\.dataset\.encoding: Python knows no encoding 'klingon'"),
    ):
        with pytest.raises(UserError, match=sentence):
            datasets.load({"kind": "documents", "path": str(tmp_path / "c.txt"), "encoding": said}, 0)


@pytest.mark.parametrize(
    ("content", "said", "sentence"),
    [
        ("床前\n".encode("utf-16-le"), None, r"c\.txt cannot be read as UTF-8 text \(byte 1\): say its encoding"),
        ("good\n".encode("utf-16-le"), None, "no UTF-8 text: character 2 is NUL; if it is UTF-16 without a mark, set"),
        ("good\n".encode("utf-16-be"), None, "no UTF-8 text: character 1 is NUL"),
        (b"a fine\0 film", None, "character 7 is NUL"),
        ("caf\xe9\n".encode("latin-1"), "utf-8", r"as utf-8 text \(byte 4\): say its right encoding"),
        (b"good", "utf\0", "Python knows no encoding"),
        (b"good", "base64", "Python knows no encoding"),
        (b"good", "undefined", "cannot be read as undefined text"),
        (b"+2AA-", "utf-7", r"cannot be read as utf-7 text \(byte 1\)"),
    ],
)
@pytest.mark.parametrize("kind", ["text", "documents"])
def test_what_is_no_text_in_its_encoding(
    tmp_path: Path, kind: str, content: bytes, said: str | None, sentence: str
) -> None:
    (tmp_path / "c.txt").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        load(tmp_path / "c.txt", kind, encoding=said)


def test_utf_16_without_a_mark_may_be_said(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "c.txt").write_bytes(("床前明月光\n" * 30).encode(encoding))
        data = load(tmp_path / "c.txt", "documents", encoding=encoding, length=5)
        assert "床" in data.spec["token"].labels


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_line_ends_end_a_line(tmp_path: Path, end: str) -> None:
    """Form feeds, U+0085 and U+2028 stand in texts that were copied together."""
    lines = ["good\tfine\x0cfilm", "bad\tdull\x85one", "", "good\tfine\u2028plot", "bad\tdull"] * 4
    (tmp_path / "lines.tsv").write_bytes(end.join(lines).encode())
    data = load(tmp_path / "lines.tsv", tokens="characters")
    assert data.spec["label"].labels == ("bad", "good")
    assert len(data.train) + len(data.validation) + len(data.test) == 16
    (tmp_path / "new.txt").write_bytes(end.join(["", "fine\u2028film", "", "dull"]).encode())
    assert data.reader is not None
    (found,) = data.reader([tmp_path / "new.txt"])
    assert found.places == (2, 4) and found.fields["token_length"].tolist() == [9, 4]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has no lines: write label, a tab and the text in each"),
        ("\n\r\n \n\n", "has no lines"),
        ("good\tfine\ngood fine\n", "has no label in line 2"),
        ("good\tfine\n\tfine\n", "has no label in line 2"),
        ("fine " * 50_000, "has no label in line 1"),
        ("good\tfine\nbad\t \n", r"text 2 of .* is empty: remove it"),
    ],
)
def test_lines_that_say_nothing(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "lines.tsv").write_text(content)
    with pytest.raises(UserError, match=sentence):
        load(tmp_path / "lines.tsv")


def test_an_endless_line_is_cut_and_new_words_are_unknown(tmp_path: Path) -> None:
    lines = [f"{('good', 'bad')[number % 2]}\tword word" for number in range(39)] + ["bad\t" + "word " * 50_000]
    (tmp_path / "lines.tsv").write_text("\n".join(lines))
    data = load(tmp_path / "lines.tsv", max_length=7)
    assert data.spec["token"].shape == (7,)
    (tmp_path / "new.txt").write_text("word " * 100_000 + "\nnever heard word\n")
    assert data.reader is not None
    (found,) = data.reader([tmp_path / "new.txt"])
    assert found.fields["token"].tolist() == [[2] * 7, [1, 1, 2, 0, 0, 0, 0]]
    assert found.fields["token_length"].tolist() == [7, 3]


def test_a_training_split_without_a_character(tmp_path: Path) -> None:
    write(tmp_path, {"train/a.txt": "", "validation/a.txt": "some text", "test/a.txt": "some text"})
    with pytest.raises(UserError, match=r"the train split .* has 0 characters, too few for a window of 4"):
        load(tmp_path, "documents", length=4)
