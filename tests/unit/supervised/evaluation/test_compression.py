"""A language model as a compressor: bits a character beside those of xz, with weights that stay or adapt."""

from __future__ import annotations

import lzma
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayloom import datasets
from rayloom.contract import Budget, EvaluationContext, UserError
from rayloom.datasets.windows import WindowsConfig, ascii_windows
from rayloom_supervised.evaluation.compression import Compression
from rayloom_supervised.tasks.language_model import CharacterModel
from rayloom_supervised.tasks.stream_model import StreamModel

TEXT = "".join(f"def f{number}(x):\n    return x + {number % 7}\n\n" for number in range(300))


def text() -> datasets.Dataset:
    return ascii_windows("text", TEXT, WindowsConfig(length=16, validation=0.1, test=0.1))


def judge(model: CharacterModel, data: datasets.Dataset, **settings: Any) -> dict[str, float]:
    evaluation = Compression(Compression.Config(piece=24, **settings), EvaluationContext(source=None, data=data))
    with torch.no_grad():
        return dict(evaluation.run(model.eval(), 0, Budget(60)).metrics)


def held_out(data: datasets.Dataset) -> tuple[Tensor, str]:
    windows = data.validation.rows(torch.arange(len(data.validation)))
    true = windows["next_token"].flatten()
    return windows["token"].flatten(), "".join(data.spec["token"].labels[number] for number in true.tolist())


@pytest.mark.parametrize("kind", [CharacterModel, StreamModel])
def test_a_text_is_read_with_one_memory_and_packed_by_xz(kind: type[CharacterModel]) -> None:
    torch.manual_seed(0)
    data = text()
    model = kind(kind.Config(cell_size=6, cell_layers=2, dropout=0.5), data.spec)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = judge(model, data, adapt=0.1)
    token, written = held_out(data)
    windows = data.validation.rows(torch.arange(len(data.validation)))
    with torch.no_grad():
        whole = nn.functional.cross_entropy(model.logits(token[None])[0], windows["next_token"].flatten())
    assert found["loss"] == pytest.approx(float(whole), rel=1e-5)
    assert found["bits_per_character"] == pytest.approx(float(whole) / math.log(2), rel=1e-5)
    assert found["bits_per_character_adapted"] < found["bits_per_character"]
    assert found["xz_alone"] == pytest.approx(8 * len(lzma.compress(written.encode(), preset=6)) / len(written))
    assert 0 < found["xz_after_training"] < found["xz_alone"]
    assert found["below_xz_alone"] == pytest.approx(1 - found["bits_per_character_adapted"] / found["xz_alone"])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_piece_is_judged_before_it_is_learnt_from() -> None:
    torch.manual_seed(0)
    data = text()
    model = CharacterModel(CharacterModel.Config(cell_size=6), data.spec)
    whole = Compression(Compression.Config(piece=10**6, adapt=9.0), EvaluationContext(source=None, data=data))
    with torch.no_grad():
        found = whole.run(model.eval(), 0, Budget(60)).metrics
    assert found["bits_per_character_adapted"] == pytest.approx(found["bits_per_character"])


def test_what_cannot_be_compared_with_xz_is_refused() -> None:
    with pytest.raises(UserError, match=r"Compression judges models of characters; use the data set python-source"):
        Compression(Compression.Config(), EvaluationContext(source=None, data=None))
    overlapping = ascii_windows("text", TEXT, WindowsConfig(length=16, stride=8))
    with pytest.raises(UserError, match=r"source\.dataset\.stride: xz reads a text once; leave stride out"):
        Compression(Compression.Config(), EvaluationContext(source=None, data=overlapping))
