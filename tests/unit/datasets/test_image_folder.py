"""Images in folders: channel order, scaling, splits by folder and by share, decoding when asked, and their mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rayloom import datasets
from rayloom.datasets.tables import TensorTable, in_memory
from rayloom.errors import UserError


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_folder(root: Path, count: int = 10, size: tuple[int, int] = (4, 6)) -> Path:
    """Write `count` images of each of two classes; the number of an image is its red, its class its green."""
    for label, name in enumerate(("cats", "dogs")):
        for number in range(count):
            pixels = np.zeros((*size, 3))
            pixels[..., 0], pixels[..., 1], pixels[0, 1, 2] = number, label, 77
            save(root / name / f"{number:03d}.png", pixels)
    return root


def load(path: Path, **settings: Any) -> datasets.Dataset:
    return datasets.load({"kind": "image_folder", "path": str(path), **settings}, 0)


def everything(table: Any) -> dict[str, torch.Tensor]:
    return dict(table.rows(torch.arange(len(table))))


def test_images_are_channels_first_and_classes_are_the_folders(tmp_path: Path) -> None:
    data = load(make_folder(tmp_path))
    assert data.spec["image"].shape == (3, 4, 6)
    assert data.spec["label"].labels == ("cats", "dogs")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [16, 2, 2]
    parts = [everything(split) for split in (data.train, data.validation, data.test)]
    seen = sorted(
        (int(image[0, 0, 0]), int(label))
        for part in parts
        for image, label in zip(part["image"], part["label"], strict=True)
    )
    assert seen == sorted((number, label) for number in range(10) for label in range(2))
    for part in parts:
        assert torch.equal(part["image"][:, 1, 0, 0].long(), part["label"])
        assert part["image"][:, 2, 0, 1].tolist() == [77] * len(part["label"])  # blue, first row, second column
        assert part["image"].dtype == torch.uint8
    # Every class has its share of every split.
    assert parts[1]["label"].tolist() == parts[2]["label"].tolist() == [0, 1]


def test_decoding_when_asked_gives_the_same_rows(tmp_path: Path) -> None:
    make_folder(tmp_path)
    cached, lazy = load(tmp_path), load(tmp_path, memory_mib=0)
    assert in_memory(cached.train) and not in_memory(lazy.train)
    indices = torch.tensor([5, 0, 9, 5])
    for name, tensor in cached.train.rows(indices).items():
        assert torch.equal(tensor, lazy.train.rows(indices)[name])
    assert cached.digest == lazy.digest


def test_folders_of_splits_are_kept_and_a_missing_one_is_cut(tmp_path: Path) -> None:
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "validation", count=3)
    data = load(tmp_path, test=0.2)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [16, 6, 4]


def test_the_cut_does_not_depend_on_the_runs_seed_but_on_its_own(tmp_path: Path) -> None:
    make_folder(tmp_path)
    settings = {"kind": "image_folder", "path": str(tmp_path)}
    one, same = datasets.load(settings, 0), datasets.load(settings, 9)
    other = datasets.load({**settings, "split_seed": 1}, 0)
    assert torch.equal(everything(one.test)["image"], everything(same.test)["image"])
    assert not torch.equal(everything(one.train)["image"], everything(other.train)["image"])
    assert one.digest == same.digest != other.digest


def test_gray_and_scaled(tmp_path: Path) -> None:
    make_folder(tmp_path, size=(8, 8))
    data = load(tmp_path, mode="gray", size=[2, 4])
    assert data.spec["image"].shape == (1, 2, 4)
    # ITU-R 601: 0.299 red + 0.587 green.
    image = everything(data.train)
    assert image["image"][-1].float().mean() == pytest.approx(0.299 * 9 + 0.587, abs=2)


def test_another_content_is_another_digest(tmp_path: Path) -> None:
    make_folder(tmp_path)
    before = load(tmp_path).digest
    (tmp_path / "cats" / "000.png").touch()
    assert load(tmp_path).digest == before
    save(tmp_path / "cats" / "000.png", np.full((4, 6, 3), 9))
    assert load(tmp_path).digest != before


def test_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    make_folder(tmp_path)
    save(tmp_path / "dogs" / "big.png", np.zeros((9, 9, 3)))
    with pytest.raises(UserError, match=r"source\.dataset\.size: .*4 x 6 pixels and .*big\.png 9 x 9: set the size"):
        load(tmp_path)
    assert load(tmp_path, size=5).spec["image"].shape == (3, 5, 5)


def test_mistakes(tmp_path: Path) -> None:
    make_folder(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"there is no folder .*picture; did you mean 'pictures'"):
        load(tmp_path / "picture")
    (tmp_path / "pictures" / "birds").mkdir()
    with pytest.raises(UserError, match=r"birds has no images: fill or remove"):
        load(tmp_path / "pictures")
    (tmp_path / "pictures" / "birds" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image"):
        load(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"validation split is empty"):
        (tmp_path / "pictures" / "birds" / "a.png").unlink()
        (tmp_path / "pictures" / "birds").rmdir()
        load(tmp_path / "pictures", validation=0.0)
    with pytest.raises(UserError, match=r"has no folders: make one for each class"):
        load(tmp_path / "pictures" / "cats")


def test_a_class_that_train_does_not_have(tmp_path: Path) -> None:
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "test", count=2)
    (tmp_path / "test" / "dogz").mkdir()
    with pytest.raises(UserError, match=r"dogz is a class that .*train does not have; did you mean 'dogs'"):
        load(tmp_path)


def test_a_damaged_image_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    make_folder(tmp_path, size=(64, 64))
    path = tmp_path / "cats" / "003.png"
    path.write_bytes(path.read_bytes()[:60])  # the header is whole
    with pytest.raises(UserError, match=r"003\.png cannot be read as an image"):
        everything(TensorTable(everything(load(tmp_path, memory_mib=0).train)))
