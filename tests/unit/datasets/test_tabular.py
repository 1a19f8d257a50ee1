"""CSV and Parquet: types of columns, categories of the training rows alone, missing values, and their mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rayloom import datasets
from rayloom.contract import TensorSpec
from rayloom.datasets import table_files
from rayloom.datasets.tables import in_memory
from rayloom.errors import UserError

ROWS = """petal,colour,site,species,fold
1.5,red,a,setosa,train
2.5,blue,b,virginica,train
3,red,b,setosa,train
4,red,a,virginica,validation
5,blue,a,setosa,test
"""


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    (tmp_path / "flowers.csv").write_text(ROWS)
    return tmp_path / "flowers.csv"


def load(path: Path, kind: str = "csv", **settings: Any) -> datasets.Dataset:
    return datasets.load({"kind": kind, "path": str(path), "target": "species", **settings}, 0)


def table(split: Any) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in split.rows(torch.arange(len(split))).items()}


def test_numbers_words_and_classes_by_hand(flowers: Path) -> None:
    data = load(flowers, split_column="fold")
    assert table(data.train) == {
        "features": [[1.5], [2.5], [3.0]],
        "categories": [[1, 0], [0, 1], [1, 1]],  # blue 0, red 1; a 0, b 1
        "label": [0, 1, 0],
    }
    assert table(data.validation) == {"features": [[4.0]], "categories": [[1, 0]], "label": [1]}
    assert table(data.test) == {"features": [[5.0]], "categories": [[0, 0]], "label": [0]}
    assert data.spec == {
        "features": TensorSpec(shape=(1,), dtype=torch.float32),
        "categories": TensorSpec(shape=(2,), dtype=torch.int64, num_values=(2, 2)),
        "label": TensorSpec(shape=(), dtype=torch.int64, num_values=2, labels=("setosa", "virginica")),
    }
    assert data.name == "flowers"


def test_parquet_holds_the_same_as_csv(flowers: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(flowers)
    frame.to_parquet(tmp_path / "flowers.parquet", row_group_size=2)
    ours, theirs = (
        load(flowers, split_column="fold"),
        load(tmp_path / "flowers.parquet", "parquet", split_column="fold"),
    )
    for split in ("train", "validation", "test"):
        assert table(getattr(ours, split)) == table(getattr(theirs, split))
    assert ours.spec == theirs.spec


def test_a_number_as_target(flowers: Path) -> None:
    data = load(flowers, target="petal", target_kind="number", split_column="fold", ignore=["species"])
    assert table(data.train) == {"target": [1.5, 2.5, 3.0], "categories": [[1, 0], [0, 1], [1, 1]]}
    with pytest.raises(UserError, match=r"the column 'colour' .* does not hold numbers alone"):
        load(flowers, target="colour", target_kind="number")


def test_chosen_columns_keep_their_order(flowers: Path) -> None:
    data = load(flowers, split_column="fold", numeric=[], categorical=["site", "petal"], unknown="other")
    assert table(data.train)["categories"] == [[0, 0], [1, 1], [1, 2]]
    assert table(data.test)["categories"] == [[0, 3]]


def test_a_category_that_no_training_row_has(flowers: Path) -> None:
    flowers.write_text(ROWS.replace("4,red", "4,green"))
    with pytest.raises(UserError, match=r"flowers\.csv has 'green' in row 4 of the column 'colour', which no training"):
        load(flowers, split_column="fold")
    data = load(flowers, split_column="fold", unknown="other")
    assert data.spec["categories"].num_values == (3, 3)
    assert table(data.validation)["categories"] == [[2, 0]]


def test_a_class_that_no_training_row_has(flowers: Path) -> None:
    flowers.write_text(ROWS.replace("a,virginica,validation", "a,versicolor,validation"))
    with pytest.raises(UserError, match=r"'versicolor' in row 4 of the column 'species', which no training row has"):
        load(flowers, split_column="fold", unknown="other")


def test_missing_values(flowers: Path) -> None:
    flowers.write_text(ROWS.replace("4,red,a", ",,a").replace("3,red,b", "3,,b"))
    with pytest.raises(UserError, match=r"no value in row 3 of the column 'colour': fill it, or set .*missing to fill"):
        load(flowers, split_column="fold")
    data = load(flowers, split_column="fold", missing="fill")
    mean = (1.5 + 2.5 + 3.0) / 3  # of the training rows alone
    assert table(data.validation)["features"][0][0] == pytest.approx(mean)
    assert table(data.train)["categories"] == [[2, 0], [1, 1], [0, 1]]  # (missing) 0, blue 1, red 2
    flowers.write_text(ROWS.replace("a,setosa,train", "a,,train"))
    with pytest.raises(UserError, match=r"no value in row 1 of the column 'species': remove the row"):
        load(flowers, split_column="fold", missing="fill")


def test_mistakes(flowers: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source\.dataset\.target: .* has no column 'specie'; did you mean 'species'"):
        load(flowers, target="specie")
    with pytest.raises(UserError, match=r"there is no file .*flower\.csv; did you mean 'flowers.csv'"):
        load(tmp_path / "flower.csv")
    with pytest.raises(UserError, match=r"source\.dataset\.split_column: .*'a'; write train, validation or test"):
        load(flowers, split_column="site")
    flowers.write_text(ROWS.replace("3,red", "3;,red"))
    with pytest.raises(UserError, match=r"has '3;' in row 3 of the column 'petal' among numbers: correct it"):
        load(flowers, split_column="fold")
    with pytest.raises(UserError, match=r"has '3;' in row 3 of the column 'petal', which is no number"):
        load(flowers, split_column="fold", numeric=["petal"])
    flowers.write_text(ROWS.replace("3,red", "inf,red"))
    with pytest.raises(UserError, match=r"is not finite in row 3 of the column 'petal'"):
        load(flowers, split_column="fold")
    flowers.write_text("petal,species\n")
    with pytest.raises(UserError, match="has no rows"):
        load(flowers)
    flowers.write_bytes(b"")
    with pytest.raises(UserError, match=r"flowers.csv cannot be read"):
        load(flowers)


def test_a_large_table_is_kept_as_memory_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLOOM_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(table_files, "_CHUNK", 7)
    monkeypatch.setattr(table_files, "_KEPT", 0)
    numbers = np.arange(100)
    frame = pd.DataFrame({"x": numbers / 4, "y": numbers % 3, "species": [f"k{n % 2}" for n in numbers]})
    frame.to_csv(tmp_path / "large.csv", index=False)
    kept, mapped = load(tmp_path / "large.csv"), load(tmp_path / "large.csv", memory_mib=0)
    assert in_memory(kept.train) and not in_memory(mapped.train)
    assert table(kept.train) == table(mapped.train)
    assert kept.digest == mapped.digest
    (folder,) = (tmp_path / "cache" / "tables").iterdir()
    stamp = (folder / "features.npy").stat().st_mtime_ns
    assert table(load(tmp_path / "large.csv", memory_mib=0).test) == table(kept.test)
    assert (folder / "features.npy").stat().st_mtime_ns == stamp  # made once


def test_the_digest_tells_contents_and_settings_but_no_places(flowers: Path, tmp_path: Path) -> None:
    one = load(flowers, split_column="fold").digest
    (tmp_path / "moved").mkdir()
    moved = flowers.rename(tmp_path / "moved" / "flowers.csv")
    assert load(moved, split_column="fold").digest == one
    assert load(moved, split_column="fold", unknown="other").digest != one
    moved.write_text(ROWS.replace("1.5", "1.6"))
    assert load(moved, split_column="fold").digest != one
