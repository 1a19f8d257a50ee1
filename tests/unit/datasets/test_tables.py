"""Tables: sequences padded to the longest asked for, choices of rows, and everything in order."""

from __future__ import annotations

import pytest
import torch

from rayloom.contract import TensorSpec
from rayloom.datasets import Dataset, RaggedTable, Subset, TensorTable
from rayloom.datasets.tables import lengths_of, pad_to
from rayloom.errors import UserError


def ragged() -> RaggedTable:
    values, offsets = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 2, 2, 3, 6])
    return RaggedTable({"token": (values, offsets)}, {"label": torch.tensor([7, 8, 9, 10])})


def test_sequences_are_padded_to_the_longest_of_the_batch() -> None:
    batch = ragged().rows(torch.tensor([3, 0, 1]))
    assert batch["token"].tolist() == [[4, 5, 6], [1, 2, 0], [0, 0, 0]]
    assert batch["token_length"].tolist() == [3, 2, 0]
    assert batch["label"].tolist() == [10, 7, 8]
    assert ragged().rows(torch.tensor([2, 2]))["token"].tolist() == [[3], [3]]
    assert ragged().rows(torch.tensor([1]))["token"].shape == (1, 0)


def test_vectors_in_sequences() -> None:
    table = RaggedTable({"frame": (torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 3]))}, {})
    assert table.rows(torch.tensor([0, 1]))["frame"].tolist() == [[[0, 1], [0, 0]], [[2, 3], [4, 5]]]
    assert pad_to(torch.ones(1, 2, 2), 3).tolist() == [[[1, 1], [1, 1], [0, 0]]]


def test_a_choice_of_rows() -> None:
    chosen = Subset(ragged(), torch.tensor([3, 2]))
    assert len(chosen) == 2
    assert chosen.rows(torch.tensor([1]))["token"].tolist() == [[3]]
    assert lengths_of(chosen)["token"].tolist() == [3, 1]
    assert [batch["label"].tolist() for batch in chosen.batches(1)] == [[10], [9]]
    again = Subset(chosen, torch.tensor([1]))
    assert again.rows(torch.tensor([0]))["label"].tolist() == [9]


def test_tensors_in_order_are_views() -> None:
    column = torch.arange(5)
    parts = list(TensorTable({"x": column}).batches(2))
    assert [part["x"].tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    assert parts[0]["x"].data_ptr() == column.data_ptr()


def test_ragged_data_sets_are_checked() -> None:
    spec = {
        "token": TensorSpec(shape=(3,), dtype=torch.int64, num_values=7, ragged=True),
        "token_length": TensorSpec(shape=(), dtype=torch.int64),
        "label": TensorSpec(shape=(), dtype=torch.int64),
    }
    data = Dataset(ragged(), ragged(), ragged(), spec)
    assert len(data.digest) == 64
    with pytest.raises(UserError, match="the category 6 in row 3: it must be 0 to 5"):
        small = TensorSpec(shape=(3,), dtype=torch.int64, num_values=6, ragged=True)
        Dataset(ragged(), ragged(), ragged(), {**spec, "token": small})
    with pytest.raises(UserError, match="the field 'token' of the train split is"):
        short = TensorSpec(shape=(2,), dtype=torch.int64, num_values=7, ragged=True)
        Dataset(ragged(), ragged(), ragged(), {**spec, "token": short})


def test_the_digest_is_that_of_the_contents() -> None:
    spec = {"x": TensorSpec(shape=(), dtype=torch.int64)}
    one, other = {"x": torch.tensor([1, 2])}, {"x": torch.tensor([2, 1])}
    assert Dataset(one, one, other, spec).digest == Dataset(dict(one), one, other, spec).digest
    assert (
        len({Dataset(*splits, spec).digest for splits in ((one, one, other), (one, other, one), (other, one, one))})
        == 3
    )
