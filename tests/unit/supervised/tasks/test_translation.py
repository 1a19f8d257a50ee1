"""The translator: tokens are counted, padding does not matter, attention lies on what was read."""

from __future__ import annotations

import datetime
import math
from typing import get_args

import pytest
import torch

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec, UserError
from rayloom_supervised.data.dates import FORMATS, written_by_people
from rayloom_supervised.data.symbols import END
from rayloom_supervised.layers.attention import ScoreName
from rayloom_supervised.layers.recurrent import CellName
from rayloom_supervised.tasks.translation import Translator, _lengths

DATA = {"import": "rayloom_supervised.data.dates:dates", "train_size": 60, "validation_size": 10, "test_size": 10}
DAYS = datasets.load(DATA, 0)


def translator(**settings: object) -> Translator:
    torch.manual_seed(0)
    config = Translator.Config(embedding_size=6, cell_size=8, **settings)  # type: ignore[arg-type]
    return Translator(config, DAYS.spec)


def rows(*numbers: int) -> Batch:
    batch: Batch = DAYS.train.rows(torch.tensor(numbers))
    return batch


def test_dates_are_written_in_every_format() -> None:
    day = datetime.date(2007, 3, 5)
    assert [written_by_people(day, form) for form in range(FORMATS)] == [
        "5 march 2007", "march 5, 2007", "monday, 5 march 2007", "05.03.2007", "mar 5 '07", "3/5/07",
    ]  # fmt: skip


def test_no_day_is_in_two_splits() -> None:
    seen = []
    for split in (DAYS.train, DAYS.validation, DAYS.test):
        batch = split.rows(torch.arange(len(split)))
        assert set(batch["target_length"].tolist()) == {11} and set(batch["target"][:, -1].tolist()) == {END}
        labels = DAYS.spec["target"].labels
        seen += ["".join(labels[token] for token in target[:-1]) for target in batch["target"].tolist()]
    assert len(seen) == len(set(seen)) == 80 and all(datetime.date.fromisoformat(day) for day in seen)
    with pytest.raises(UserError, match="there are 36525 days"):
        datasets.load({**DATA, "train_size": 40_000}, 0)


@pytest.mark.parametrize("attention", [*get_args(ScoreName), "none"])
def test_a_clueless_translator_pays_the_logarithm_of_the_tokens_at_each(attention: str) -> None:
    algorithm = translator(attention=attention)
    torch.nn.init.zeros_(algorithm.head.weight)
    torch.nn.init.zeros_(algorithm.head.bias)
    loss = algorithm.loss(rows(0, 1))
    tokens = DAYS.spec["target"].categories
    assert loss.count is not None and loss.count.tolist() == [11, 11]
    assert loss.per_example.tolist() == pytest.approx([11 * math.log(tokens)] * 2)


@pytest.mark.parametrize("cell", get_args(CellName))
def test_a_source_is_translated_alike_in_any_batch(cell: str) -> None:
    algorithm = translator(cell=cell, beam_width=3)
    length = DAYS.train.rows(torch.arange(60))["source_length"]
    short, long = int(length.argmin()), int(length.argmax())
    alone, together = rows(short), rows(long, short)
    torch.testing.assert_close(algorithm.loss(alone).per_example[0], algorithm.loss(together).per_example[1])
    written = [algorithm.decode(batch["source"], batch["source_length"], 6)[-1] for batch in (alone, together)]
    assert torch.equal(*written)


def test_decoding_follows_the_taught_probabilities() -> None:
    algorithm, batch = translator(beam_width=1), rows(0, 1, 2)
    with torch.no_grad():
        algorithm.head.weight.mul_(20)
    written = algorithm.decode(batch["source"], batch["source_length"], 11)
    # What greedy decoding writes is the likeliest token after each of its own beginnings.
    own = {**batch, "target": written, "target_length": _lengths(written)}
    assert torch.equal(algorithm._taught(own)[1], own["target_length"])


def test_lengths_end_with_the_first_end() -> None:
    assert _lengths(torch.tensor([[5, END, 0], [END, END, 4], [4, 5, 6]])).tolist() == [2, 1, 3]


def test_the_map_of_attention_has_symbols_on_both_axes() -> None:
    batch = rows(*range(10))
    figure = translator().figures(batch)["attention"]
    assert figure.data is not None and figure.data.shape[1] == int(batch["source_length"].max())
    torch.testing.assert_close(figure.data.sum(dim=1), torch.ones(len(figure.labels)))
    row = int(batch["source_length"].argmax())
    assert "".join(figure.column_labels) == "".join(DAYS.spec["source"].labels[token] for token in batch["source"][row])
    assert not translator(attention="none").figures(batch)


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="ragged fields source and target, not source of"):
        Translator(Translator.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
    with pytest.raises(ValueError, match="make it even"):
        Translator.Config(cell_size=5)
