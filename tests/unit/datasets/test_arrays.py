"""NumPy's files and arrays of a notebook: types, channel order, memory maps that are not copied, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayloom import datasets
from rayloom.contract import TensorSpec
from rayloom.datasets import Dataset
from rayloom.datasets.tables import Subset, in_memory
from rayloom.errors import UserError


def load(path: Path, **settings: Any) -> Dataset:
    return datasets.load({"kind": "arrays", "path": str(path), **settings}, 0)


def everything(table: Any) -> dict[str, torch.Tensor]:
    return dict(table.rows(torch.arange(len(table))))


def write(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


NUMBERS = np.arange(40)


def test_an_npz_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "points.npz", point=NUMBERS[:, None] / 2, label=(NUMBERS % 2).astype(np.int16))
    data = load(tmp_path / "points.npz", labels=["even", "odd"])
    assert data.spec["point"] == TensorSpec(shape=(1,), dtype=torch.float32)
    assert data.spec["label"] == TensorSpec(shape=(), dtype=torch.int64, num_values=2, labels=("even", "odd"))
    parts = [everything(split) for split in (data.train, data.validation, data.test)]
    assert [len(part["label"]) for part in parts] == [32, 4, 4]
    points = torch.cat([part["point"] for part in parts]).flatten() * 2
    assert sorted(points.tolist()) == NUMBERS.tolist()
    assert all(torch.equal(part["point"][:, 0] * 2 % 2, part["label"].float()) for part in parts)


def test_a_hold_out_of_a_memory_map_is_row_numbers(tmp_path: Path) -> None:
    write(tmp_path, point=NUMBERS[:, None].astype(np.float64))
    data = load(tmp_path, memory_mib=0)
    assert isinstance(data.train, Subset) and not in_memory(data.train)
    assert data.train.rows(torch.tensor([3]))["point"].dtype == torch.float32
    assert data.digest == load(tmp_path).digest
    assert torch.equal(everything(data.train)["point"], everything(load(tmp_path).train)["point"])


def test_folders_of_splits(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("validation", 10), ("test", 20)):
        write(tmp_path / split, x=NUMBERS[start : start + 10].astype(np.float32))
    data = load(tmp_path)
    assert everything(data.test)["x"].tolist() == list(range(20, 30))


def test_channels(tmp_path: Path) -> None:
    images = np.arange(10 * 5 * 6 * 3).reshape(10, 5, 6, 3).astype(np.uint8)
    write(tmp_path, image=images)
    with pytest.raises(UserError, match=r"shape \[5, 6, 3\], so its channels come last"):
        load(tmp_path)
    for memory in (0, 10):
        data = load(tmp_path, channels_last=True, memory_mib=memory)
        assert data.spec["image"].shape == (3, 5, 6)
        found = torch.cat([everything(split)["image"] for split in (data.train, data.validation, data.test)])
        assert sorted(found[:, 2, 4, 5].tolist()) == sorted(images[:, 4, 5, 2].tolist())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.array([{}] * 9)}, r"x\.npy cannot be read as plain arrays \(it holds Python objects\)"),
        ({"x": np.array(["a"] * 9)}, "the field 'x' of the train split has the type <U1: save numbers"),
        ({"x": np.zeros(9), "y": np.zeros(8)}, r"different lengths \{'x': 9, 'y': 8\}"),
        ({"x": np.array([0.0] * 8 + [np.nan])}, "the field 'x' of the .* is not finite in row 8"),
        ({"label": np.array([0] * 8 + [-1])}, "has the class -1 in row 8"),
        ({}, "has no .npy files"),
    ],
)
def test_mistakes(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    write(tmp_path, **arrays)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_labels_of_other_splits_must_be_those_of_train(tmp_path: Path) -> None:
    for split, labels in (("train", [0, 1]), ("validation", [0, 2]), ("test", [0, 1])):
        write(tmp_path / split, x=np.zeros(2), label=np.array(labels))
    for memory in (0, 10):
        with pytest.raises(UserError, match=r"of the validation split has the class 2 in row 1: it must be 0 to 1"):
            load(tmp_path, memory_mib=memory)


# --- from_arrays ---------------------------------------------------------------------------------------------------


def test_from_arrays_cuts_what_is_not_given() -> None:
    data = Dataset.from_arrays({"x": NUMBERS / 2, "label": NUMBERS % 4}, labels=list("abcd"))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [32, 4, 4]
    assert sorted(everything(data.test)["label"].tolist()) == [0, 1, 2, 3]
    assert data.spec["label"].labels == ("a", "b", "c", "d")
    again = Dataset.from_arrays({"x": NUMBERS / 2, "label": NUMBERS % 4}, labels=list("abcd"))
    assert again.digest == data.digest


def test_from_arrays_takes_row_numbers_and_splits() -> None:
    given = Dataset.from_arrays({"x": NUMBERS}, splits={"validation": [3, 5], "test": np.array([7])})
    assert everything(given.validation)["x"].tolist() == [3, 5]
    assert len(given.train) == 37
    three = Dataset.from_arrays({"x": NUMBERS}, {"x": NUMBERS[:2]}, {"x": torch.tensor([1, 2, 3])})
    assert [len(split) for split in (three.train, three.validation, three.test)] == [40, 2, 3]
    shares = Dataset.from_arrays({"x": NUMBERS}, test={"x": NUMBERS[:2]}, splits={"validation": 0.5})
    assert [len(split) for split in (shares.train, shares.validation, shares.test)] == [20, 20, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": {"x": np.array(["a"])}}, "'x' of the train split has the type <U1: give numbers"),
        ({"train": {"x": np.array([1.0, np.inf])}}, "'x' of the train split is not finite in row 1"),
        ({"train": {"x": NUMBERS}, "labels": {"y": "ab"}}, "labels: there is no field 'y'; name one of x"),
        ({"train": {"label": NUMBERS % 3}, "labels": "ab"}, "has the category 2 in row 2: it must be 0 to 1"),
        ({"train": {"x": NUMBERS}, "splits": {"valid": 0.1}}, "splits: there is no split 'valid'"),
        ({"train": {"x": NUMBERS}, "splits": {"test": [99]}}, "rows of test must be a list of numbers 0 to 39"),
        ({"train": {"x": NUMBERS}, "splits": {"test": [1], "validation": [1]}}, "a row stands in two splits"),
        ({"train": {"x": NUMBERS}, "splits": {"test": 0.0}}, "the test split is empty"),
        ({"train": {"x": NUMBERS, "y": NUMBERS[1:]}}, r"different lengths \[39, 40\]"),
        ({"train": {"x": NUMBERS}, "validation": {"y": NUMBERS}}, "validation split has the fields"),
        ({"train": {"image": np.zeros((9, 8, 8, 3), np.uint8)}}, "channels come last"),
    ],
)
def test_from_arrays_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Dataset.from_arrays(**arguments)


def test_own_data_sets_refuse_numpy_and_other_things() -> None:
    spec = {"x": TensorSpec(shape=(), dtype=torch.float64)}
    with pytest.raises(UserError, match=r"'x' of the train split is a NumPy array: wrap it in torch.from_numpy"):
        Dataset({"x": np.zeros(3)}, {}, {}, spec)  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"'x' of the train split is a list: make it a tensor"):
        Dataset({"x": [1.0]}, {}, {}, spec)  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"the train split is a list: give tensors by name, or a table"):
        Dataset([1.0], {}, {}, spec)  # type: ignore[arg-type]


def test_categories_of_several_columns_have_ranges_of_their_own() -> None:
    spec = {"c": TensorSpec(shape=(2,), dtype=torch.int64, num_values=(2, 3))}
    good = {"c": torch.tensor([[1, 2], [0, 0]])}
    Dataset(good, good, good, spec)
    with pytest.raises(UserError, match=r"the category 2 in row 1, column 0: it must be 0 to 1"):
        Dataset(good, {"c": torch.tensor([[1, 2], [2, 0]])}, good, spec)
