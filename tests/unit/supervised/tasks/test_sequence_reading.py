"""Long lags: what the data ask, and the reader of sequences."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from rayloom import datasets
from rayloom.contract import TensorSpec, UserError
from rayloom_supervised.analysis.gradients_through_time import input_gradients
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack
from rayloom_supervised.tasks.sequence_reading import SequenceReader

MODULE = "rayloom_supervised.data.long_lags"
FEW = {"train_size": 60, "validation_size": 5, "test_size": 5, "lag": 30}
DATA = {name: datasets.load({"import": f"{MODULE}:{name}", **FEW}, 0) for name in ("adding", "remembering")}


def test_the_marked_numbers_are_asked_for() -> None:
    batch = DATA["adding"].train.rows(torch.arange(60))
    numbers, marks = batch["sequence"].unbind(2)
    torch.testing.assert_close((numbers * marks).sum(dim=1, keepdim=True), batch["target"])
    assert marks.sum(dim=1).tolist() == [2] * 60 and not marks[:, 15:].any() and bool(marks[:, :3].any(dim=1).all())
    assert 30 <= int(batch["sequence_length"].min()) < int(batch["sequence_length"].max()) <= 33


def test_the_first_symbol_is_asked_for_and_no_other_one_tells_it() -> None:
    batch = DATA["remembering"].train.rows(torch.arange(60))
    symbols = batch["sequence"].argmax(dim=2)
    assert torch.equal(symbols[:, 0], batch["label"])
    for row, length in enumerate(batch["sequence_length"].tolist()):
        assert set(symbols[row, 1:length].tolist()) == {8, 9} and not batch["sequence"][row, length:].any()


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_sequence_is_read_alike_in_any_batch(name: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    config = SequenceReader.Config(cell_size=4, cell_layers=2, bidirectional=bidirectional)
    reader, length = SequenceReader(config, DATA[name].spec), DATA[name].train.rows(torch.arange(60))["sequence_length"]
    rows = [int(length.argmin())], [int(length.argmax()), int(length.argmin())]
    alone, together = (reader.loss(DATA[name].train.rows(torch.tensor(numbers))) for numbers in rows)
    torch.testing.assert_close(alone.per_example[0], together.per_example[1])


def test_solved_is_right_or_near() -> None:
    reader = SequenceReader(SequenceReader.Config(cell_size=4), DATA["adding"].spec)
    torch.nn.init.zeros_(reader.head.weight)
    batch = DATA["adding"].train.rows(torch.arange(2))
    reader.head.bias.data = batch["target"][0] + 0.03
    batch["target"][1] = batch["target"][0] - 0.02
    found = reader.evaluate(batch)
    assert found["solved"].tolist() == [1, 0]
    torch.testing.assert_close(found["loss"], torch.tensor([0.03**2, 0.05**2]))


def test_gradients_travel_as_the_equations_say() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 12, 3, dtype=torch.float64)
    linear = input_gradients(RecurrentStack("linear", 3, 5).double(), inputs * 0)
    torch.testing.assert_close(linear, torch.zeros(12, dtype=torch.float64))
    simple = RecurrentStack("srn", 3, 3).double()
    with torch.no_grad():
        cell = simple.layers[0][0].cell  # type: ignore[index]
        cell.input.weight.copy_(torch.eye(3))
        cell.recurrent.copy_(0.5 * torch.eye(3))
    # Where states are 0 tanh has the slope 1, and each step back halves the gradient.
    halved = input_gradients(simple, inputs * 0)
    torch.testing.assert_close(halved, torch.arange(12, dtype=torch.float64) * torch.tensor(0.5).double().log10())


def test_the_picture_compares_every_cell() -> None:
    reader = SequenceReader(SequenceReader.Config(cell_size=4), DATA["adding"].spec)
    before = torch.get_rng_state()
    with torch.no_grad():
        figure = reader.figures(DATA["adding"].train.rows(torch.arange(9)))["gradients"]
    assert figure.labels == (*get_args(CellName), "lstm, as trained") and torch.equal(before, torch.get_rng_state())
    assert figure.data is not None and figure.data.shape[1] >= 30 and bool((figure.data[:, 0] == 0).all())


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match=r"needs the ragged field sequence \[L, F\], and label or target, not"):
        SequenceReader(SequenceReader.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
