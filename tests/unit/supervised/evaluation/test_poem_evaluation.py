"""Poems: what is read, what form and rhyme they have, and what judges a model that writes them."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import Budget, EvaluationContext, UserError
from rayloom_supervised.data import poems
from rayloom_supervised.data.rhymes import rhyme, rhymes
from rayloom_supervised.evaluation.poems import PoemEvaluation, rhyming
from rayloom_supervised.tasks.language_model import CharacterModel

installed = pytest.mark.skipif(importlib.util.find_spec("snownlp") is None, reason="the extra `text` is not installed")
NIGHT = ["床前明月光\uff0c疑是地上霜\u3002", "举头望明月\uff0c低头思故乡\u3002"]
STORK = ["白日依山尽\uff0c黄河入海流\u3002", "欲穷千里目\uff0c更上一层楼\u3002"]


def write(folder: Path) -> Path:
    (folder / "quantangshi").mkdir()
    changed = [[line.replace("月", sign).replace("山", sign) for line in NIGHT] for sign in "天地人日风雨雪花"]
    found = [{"paragraphs": poem} for poem in [NIGHT, STORK, NIGHT, ["床前明月光\u3002"], *changed]]
    (folder / "quantangshi" / "poet.tang.0.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def load(path: Path, **settings: Any) -> datasets.Dataset:
    return datasets.load({"import": "rayloom_supervised.data.poems:poems", "path": str(path), "line": 5, **settings}, 0)


def test_each_quatrain_is_read_once_with_its_begin(tmp_path: Path) -> None:
    data = load(write(tmp_path))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 1, 1]
    labels, batch = data.spec["token"].labels, data.train.rows(torch.arange(8))
    assert torch.equal(batch["token"][:, 1:], batch["next_token"][:, :-1]) and data.spec["token"].shape == (24,)
    assert {labels[number] for number in batch["token"][:, 0].tolist()} == {"\n"}
    texts = ["".join(labels[number] for number in row) for row in batch["next_token"].tolist()]
    assert all(poems.is_quatrain(text, 5) for text in texts if "(other)" not in text)
    text = load(tmp_path, pattern="*.json", vocabulary=2).train.rows(torch.arange(8))["next_token"]
    assert int((text == 0).sum()) == 8 * 20 and int(text.max()) == 3  # comma and stop are the most frequent


def test_poems_may_stand_in_texts(tmp_path: Path) -> None:
    written = "\n\n".join("\n".join(poem) for poem in (NIGHT, STORK, NIGHT, NIGHT[::-1]))
    (tmp_path / "own.txt").write_text(written, encoding="utf-8")
    data = load(tmp_path, pattern="*.txt", validation=0.34, test=0.34)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("poem", "right"),
    [
        ("".join(NIGHT), True),
        ("".join(NIGHT)[:-1] + "\uff0c", False),
        ("".join(NIGHT)[:-1], False),
        ("".join(NIGHT).replace("月", "\u3002"), False),
    ],
)
def test_the_form_is_four_lines_of_equal_length(poem: str, right: bool) -> None:
    assert poems.is_quatrain(poem, 5) is right


def test_what_has_no_poems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the poems are not in .*gone; unpack the npm package chinese-poetry there"):
        load(tmp_path / "gone")
    with pytest.raises(UserError, match=r"source\.dataset\.pattern: .* has no files quantangshi/poet"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"source\.dataset\.line: .* has 0 poems of four lines of 7 characters"):
        load(write(tmp_path), line=7)
    for content in ('{"a": 1}', "[{}]", "no json"):
        (tmp_path / "x.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"x\.json has no poems that can be read"):
            load(tmp_path, pattern="x.json")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [("guang", "shuang", True), ("xiang", "guang", True), ("liu", "lou", True), ("jin", "liu", False),
     ("zhi", "qi", False), ("guo", "bo", True), ("tian", "shan", True), ("dong", "feng", True), ("gui", "wei", True)],
)  # fmt: skip
def test_rhymes_are_finals_without_a_glide(one: str, other: str, alike: bool) -> None:
    assert (rhyme(one) == rhyme(other)) is alike


@installed
def test_rhyming_needs_two_known_and_different_characters() -> None:
    assert rhyming([("霜", "乡"), ("流", "楼"), ("流", "流"), ("流", "乡"), ("x", "乡")]) == pytest.approx(2 / 4)
    assert rhymes()["鄉"] == rhymes()["乡"] and rhyming([]) == 0


@installed
@torch.no_grad()
def test_a_model_that_knows_one_poem_is_judged(tmp_path: Path) -> None:
    data = load(write(tmp_path))
    model = CharacterModel(CharacterModel.Config(cell_size=4), data.spec).eval()
    for weight in model.head.parameters():
        weight.zero_()
    config = PoemEvaluation.Config(poems=20, order=2)
    evaluation = PoemEvaluation(config, EvaluationContext(source=None, data=data))
    found = evaluation.run(model, 0, Budget(60)).metrics
    assert found["perplexity"] == pytest.approx(data.spec["token"].categories)
    assert found["bits_per_character"] == pytest.approx(math.log2(data.spec["token"].categories))
    assert found["form"] == 0 and found["perplexity_kneser_ney"] < found["perplexity"]
    assert evaluation.run(model, 0, Budget(60)).metrics == found
    model.write = lambda count, *_: ["".join(NIGHT)] * count  # type: ignore[method-assign, assignment]
    again = evaluation.run(model, 0, Budget(60)).metrics
    assert again["form"] == again["rhyme"] == 1


def test_only_models_of_poems_are_judged() -> None:
    with pytest.raises(UserError, match=r"evaluate\.import: PoemEvaluation judges poems"):
        PoemEvaluation(PoemEvaluation.Config(), EvaluationContext(source=None, data=None))
