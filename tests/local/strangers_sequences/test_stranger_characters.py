"""A language model by one who read only the contract, on a text that is written here."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rayloom
from cut_runs import without_its_end
from places import FAKES
from rayloom import datasets
from rayloom.config.load import load
from rayloom.errors import UserError
from rayloom.runs.observer import Result
from rayloom.testing import check_algorithm

YAML = str(FAKES / "strangers_sequences" / "character_model.yaml")
QUIET = ("tracking.enabled=false", "tracking.pictures=false", "tracking.system_metrics=false")
PARTS = (
    ("the cat", "a dog", "the old man", "my sister"),
    ("sees", "hears", "follows", "likes"),
    ("the house", "a tree", "the river", "her friend"),
)


def write_text(folder: Path) -> Path:
    """Write 300 short sentences."""
    choose = random.Random(0).choice
    path = folder / "text.txt"
    path.write_text(" ".join(" ".join(choose(part) for part in PARTS) + "." for _ in range(300)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def trained(text: Path) -> Result:
    words = (f"source.dataset.path={text}", "checkpoint.every=1 epochs", f"output={text.parent}")
    return rayloom.run(YAML, *QUIET, *words, local=True)


def test_all_checks_of_the_contract_hold(text: Path) -> None:
    results = check_algorithm(load(YAML, [f"source.dataset.path={text}"]))
    assert [result.failure for result in results] == [None] * len(results)
    skipped = {result.name for result in results if result.skipped}
    assert skipped == {"rules_add_up", "actions_fit", "deployed_rows_do_not_mix"}


def unigram_bits(whole: str) -> float:
    """Return the bits per character of the held-out tenth by the frequencies of the training text, add-one smoothed."""
    tenth = round(len(whole) / 10)
    known, held_out = whole[: len(whole) - 2 * tenth], whole[len(whole) - 2 * tenth : len(whole) - tenth]
    counts = Counter(known)
    total = len(known) + len(counts) + 1
    return sum(-math.log2((counts[character] + 1) / total) for character in held_out) / len(held_out)


def test_it_needs_far_fewer_bits_than_a_unigram_model(text: Path, trained: Result) -> None:
    baseline = unigram_bits(text.read_text(encoding="utf-8"))
    assert 3.5 < baseline < 4.5
    assert trained.metrics["evaluate/bits_per_character"] < 0.3 * baseline
    assert trained.metrics["evaluate/loss"] == pytest.approx(
        trained.metrics["evaluate/bits_per_character"] * math.log(2)
    )


def test_its_bits_are_those_of_one_character_after_the_other(text: Path, trained: Result) -> None:
    learnt = rayloom.load(trained.run_dir.name, output=str(text.parent))
    model = learnt.algorithm
    data = datasets.load({"kind": "documents", "path": str(text), "length": 24, "stride": 12}, 0)
    batch = data.validation.rows(torch.arange(len(data.validation)))
    surprises: list[Tensor] = []
    state = None
    with torch.no_grad():
        for place in range(24):  # the model sees no character before its turn
            features, state = model.memory(model.embedding(batch["token"][:, place : place + 1]), state)
            probability = torch.softmax(model.head(features[:, 0]), dim=1)
            surprises.append(-probability.gather(1, batch["next_token"][:, place : place + 1]).log2())
    found = trained.metrics["evaluate/bits_per_character"]
    assert float(torch.cat(surprises, dim=1).mean()) == pytest.approx(found, rel=1e-4)


def test_it_writes_characters_of_its_text(text: Path, trained: Result) -> None:
    learnt = rayloom.load(trained.run_dir.name, output=str(text.parent))
    figure = learnt.sample(20, seed=1, start=".")
    lines = figure.text.splitlines()
    assert [len(line) for line in lines] == [60] * 20
    assert set("".join(lines)) <= set(text.read_text(encoding="utf-8"))
    assert sum(line.startswith(" ") for line in lines) > 15, "a blank follows every full stop of the text"
    assert learnt.sample(20, seed=1, start=".") == figure and learnt.sample(20, seed=2, start=".") != figure
    with pytest.raises(UserError, match="the training text has no character 'Z'"):
        learnt.sample(3, start="Z")


def test_bytes_are_refused(text: Path) -> None:
    words = [f"source.dataset.path={text}", "source.dataset.tokens=bytes", f"output={text.parent}"]
    with pytest.raises(UserError, match="needs documents with tokens: characters"):
        rayloom.run(YAML, *QUIET, *words, local=True)


def test_a_saved_run_goes_on_as_if_nothing_had_happened(trained: Result, tmp_path: Path) -> None:
    resumed = rayloom.resume(without_its_end(trained, tmp_path), output=str(tmp_path))
    assert resumed.weights_sha256 == trained.weights_sha256 and resumed.counters == trained.counters
    for name in ("train/loss", "evaluate/bits_per_character"):
        assert resumed.metrics[name] == trained.metrics[name]
