"""The data set source: every example once per epoch, the same batches for any number of ranks, exact resume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contexts import Learners, context_of
from rayloom import datasets
from rayloom.config.augmentations import AUGMENTATIONS
from rayloom.config.sources import DatasetSourceConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Component, TensorSpec
from rayloom.datasets.text import WindowTable
from rayloom.errors import UserError
from rayloom.sources.augmentation import augment, shift_images
from rayloom.sources.dataset import DatasetSource

PLACE = {"seed": 0, "rank": 0, "world_size": 1}


class Recorder(Algorithm):
    """Adds a field in `prepare`, to prove that the source calls it without gradient."""

    def prepare(self, trajectory: dict[str, Tensor]) -> Batch:
        assert not torch.is_grad_enabled()
        return {**trajectory, "prepared": trajectory["label"] * 2}


def make_dataset(size: int, side: int = 3) -> datasets.Dataset:
    """Number the examples by their label; every pixel of an image is its label plus one (after 255 comes 1)."""
    label = torch.arange(size)
    image = (label % 255 + 1).to(torch.uint8)[:, None, None, None].expand(size, 1, side, side).clone()
    split = {"image": image, "label": label}
    spec = {
        "image": TensorSpec(shape=(1, side, side), dtype=torch.uint8),
        "label": TensorSpec(shape=(), dtype=torch.int64, num_values=size),
    }
    return datasets.Dataset(split, split, split, spec, "numbers")


SHIFT = (AUGMENTATIONS.component("shift"),)
EVERYTHING = (
    *SHIFT,
    AUGMENTATIONS.component("flip"),
    AUGMENTATIONS.component("cutout", size=2),
    AUGMENTATIONS.component("brightness"),
)


def make_source(size: int = 10, batch_size: int = 3, side: int = 3, **settings: Any) -> DatasetSource:
    data = make_dataset(size, side)
    seed, rank, world_size = (settings.pop(key, default) for key, default in PLACE.items())
    config = DatasetSourceConfig(kind="dataset", dataset="numbers", **settings)
    algorithm = Recorder(AlgorithmConfig(), data.spec)
    group = Learners(rank, world_size)
    return DatasetSource(config, context_of(algorithm, batch_size, data=data, seed=seed, group=group))


def labels(source: DatasetSource, batches: int) -> list[list[int]]:
    return [source.next()["label"].tolist() for _ in range(batches)]


def flat(batches: list[list[int]]) -> list[int]:
    return [label for batch in batches for label in batch]


def assert_same(one: Batch, other: Batch) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_example_once_per_epoch_in_a_new_order() -> None:
    source = make_source(12, 3)
    epochs = [flat(labels(source, 4)) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(12))


def test_batches_are_prepared_and_their_fields_stay_together() -> None:
    batch = make_source(12, 5).next()
    assert set(batch) == {"image", "label", "prepared"}
    assert torch.equal(batch["prepared"], batch["label"] * 2)
    assert torch.equal(batch["image"][:, 0, 0, 0].long(), batch["label"] + 1)
    assert batch["image"].shape == (5, 1, 3, 3)
    assert batch["image"].dtype == torch.uint8


def test_drop_last_leaves_out_the_smaller_batch() -> None:
    source = make_source(10, 4, drop_last=True)
    sizes = [len(batch) for batch in labels(source, 2)]
    assert sizes == [4, 4]
    assert source.counters() == {"samples": 8, "epochs": 1}
    labels(source, 3)
    assert source.counters() == {"samples": 20, "epochs": 2}


def test_without_drop_last_the_epoch_ends_with_the_smaller_batch() -> None:
    source = make_source(10, 4, drop_last=False)
    epoch = labels(source, 3)
    assert [len(batch) for batch in epoch] == [4, 4, 2]
    assert sorted(flat(epoch)) == list(range(10))
    assert source.counters() == {"samples": 10, "epochs": 1}


def test_counters_in_the_middle_of_an_epoch() -> None:
    source = make_source(10, 3)
    assert source.counters() == {"samples": 0, "epochs": 0}
    labels(source, 2)
    assert source.counters() == {"samples": 6, "epochs": 0}
    labels(source, 1)
    assert source.counters() == {"samples": 9, "epochs": 1}


def test_order_depends_on_the_seed_alone() -> None:
    assert labels(make_source(seed=1), 5) == labels(make_source(seed=1), 5)
    assert labels(make_source(seed=1), 5) != labels(make_source(seed=2), 5)


@pytest.mark.parametrize("chosen", [(), EVERYTHING])
@pytest.mark.parametrize("world_size", [2, 3])
def test_shares_of_all_ranks_are_the_batch_of_one(world_size: int, chosen: tuple[Component, ...]) -> None:
    options = {"size": 23, "batch_size": 7, "side": 6, "drop_last": False, "augment": chosen}
    single = make_source(**options)
    ranks = [make_source(**options, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(9):
        whole, shares = single.next(), [source.next() for source in ranks]
        sizes = [len(share["label"]) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert_same(whole, {name: torch.cat([share[name] for share in shares]) for name in whole})
        assert all(source.counters() == single.counters() for source in ranks)


@pytest.mark.parametrize("chosen", [(), EVERYTHING])
@pytest.mark.parametrize("before", [0, 2, 4, 5, 7])
def test_a_restored_source_continues_identically(before: int, chosen: tuple[Component, ...]) -> None:
    options = {"size": 17, "batch_size": 4, "side": 6, "seed": 3, "augment": chosen}  # four batches an epoch
    source = make_source(**options)
    labels(source, before)
    restored = make_source(**options)
    labels(restored, 1)
    restored.load_state_dict(source.state_dict())
    assert restored.counters() == source.counters()
    for _ in range(6):
        assert_same(source.next(), restored.next())


def test_another_number_of_ranks_continues_with_the_same_batches() -> None:
    source = make_source(20, 6)
    labels(source, 4)
    pair = [make_source(20, 6, rank=rank, world_size=2) for rank in range(2)]
    for share in pair:
        share.load_state_dict(source.state_dict())
    for _ in range(4):
        assert source.next()["label"].tolist() == flat(labels(pair[0], 1) + labels(pair[1], 1))


def test_state_is_plain_and_of_constant_size() -> None:
    source = make_source(10, 3)
    labels(source, 4)
    assert source.state_dict() == {"epoch": 1, "position": 3, "size": 10, "digest": make_dataset(10).digest}


def test_a_data_set_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="10 training examples, but had 12"):
        make_source(10).load_state_dict(make_source(12).state_dict())


def test_too_large_a_batch_is_refused() -> None:
    make_source(10, 10)
    with pytest.raises(UserError, match=r"learner\.batch_size: 11 is more than the 10 training examples of numbers"):
        make_source(10, 11)
    with pytest.raises(UserError, match=r"learner\.batch_size: 2 is too small for 3 learners"):
        make_source(10, 2, rank=0, world_size=3)


def test_points_cannot_be_shifted() -> None:
    data = datasets.load({"kind": "gaussian", "train_size": 8}, 0)
    config = DatasetSourceConfig(kind="dataset", dataset="gaussian", augment=SHIFT)
    with pytest.raises(UserError, match=r"source\.augment: gaussian has no images"):
        DatasetSource(config, context_of(Algorithm(AlgorithmConfig(), data.spec), 4, data=data))


# --- streams -------------------------------------------------------------------------------------------------------


def text_source(stride: int = 3, **settings: Any) -> DatasetSource:
    """Return a source over the windows of the numbers from 0 to 39, of three streams."""
    table = WindowTable(np.arange(40), 3, stride)
    spec = {name: TensorSpec(shape=(3,), dtype=torch.int64, num_values=40) for name in ("token", "next_token")}
    group = Learners(settings.pop("rank", 0), settings.pop("world_size", 1))
    config = DatasetSourceConfig(kind="dataset", dataset="numbers", order="streams", **settings)
    data = datasets.Dataset(table, table, table, spec, "numbers")
    return DatasetSource(config, context_of(Algorithm(AlgorithmConfig(), data.spec), 3, data=data, group=group))


@pytest.mark.parametrize("resident_mib", [0, 1024])
def test_streams_go_on_from_batch_to_batch(resident_mib: float) -> None:
    source = text_source(resident_mib=resident_mib)
    for _ in range(2):  # thirteen windows: four in each stream, one is left over
        batches = [source.next() for _ in range(4)]
        assert torch.cat([batch["token"] for batch in batches], dim=1).tolist() == [
            list(range(start, start + 12)) for start in (0, 12, 24)
        ]
        assert [batch["first"].tolist() for batch in batches] == [[True] * 3, *[[False] * 3] * 3]
    assert batches[0]["stream"].tolist() == [0, 1, 2] and source.counters() == {"samples": 24, "epochs": 2}
    source.close()


def test_streams_are_shared_and_resumed() -> None:
    single = text_source()
    shares = [text_source(rank=rank, world_size=2) for rank in range(2)]
    for number in range(6):
        if number == 3:
            shares, before = [text_source(rank=rank, world_size=2) for rank in range(2)], shares
            for new, old in zip(shares, before, strict=True):
                new.load_state_dict(old.state_dict())
        whole, parts = single.next(), [share.next() for share in shares]
        assert_same(whole, {name: torch.cat([part[name] for part in parts]) for name in whole})


def test_what_is_no_stream_is_refused() -> None:
    with pytest.raises(UserError, match=r"source\.order: streams need a text in windows that follow each other"):
        text_source(stride=2)
    with pytest.raises(UserError, match=r"source\.order: streams need .* which numbers is not"):
        make_source(order="streams")
    with pytest.raises(UserError, match=r"source\.drop_last: of streams every batch has all"):
        text_source(drop_last=False)


# --- augmentation --------------------------------------------------------------------------------------------------


def changed(kind: str, images: Tensor, **settings: Any) -> Tensor:
    """Return images after one augmentation."""
    chosen = (AUGMENTATIONS.component(kind, **settings),)
    return augment(chosen, images, (1, 2, 3), 0, len(images), len(images))


def test_some_images_are_mirrored() -> None:
    images = torch.randint(0, 256, (400, 1, 2, 3), dtype=torch.uint8)
    found = changed("flip", images, probability=0.25)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (found == images).flatten(1).all(1)).all())
    assert 0.15 < float(mirrored.float().mean()) < 0.35


def test_a_square_is_cut_out_anywhere() -> None:
    found = changed("cutout", torch.ones(500, 2, 6, 5), size=3)
    black = found == 0
    assert torch.equal(black[:, 0], black[:, 1])
    number = black[:, 0].flatten(1).sum(1)
    assert int(number.max()) == 9 and int(number.min()) == 4  # a corner has its middle inside
    whole = black[:, 0][number == 9]
    assert bool((whole.any(2).sum(1) == 3).all()) and bool((whole.any(1).sum(1) == 3).all())
    assert 0.2 < float(black.float().mean()) < 0.35


def test_bytes_stay_bytes_when_they_are_lightened() -> None:
    images = torch.full((300, 1, 2, 2), 250, dtype=torch.uint8)
    found = changed("brightness", images, amount=0.1)
    assert found.dtype == torch.uint8 and int(found.min()) >= 225 and int(found.max()) == 255
    reals = changed("brightness", torch.ones(300, 1, 2, 2), amount=0.1)
    assert float(reals.min()) >= 0.9 and 1.09 < float(reals.max()) <= 1.1


def test_an_augmentation_of_one_s_own_keeps_shape_and_type() -> None:
    with pytest.raises(
        UserError, match=r"source\.augment: .*halve must return images torch\.uint8 \[4, 1, 2, 2\], not"
    ):
        augment(
            (Component(None, f"{__name__}:halve", None),), torch.ones(4, 1, 2, 2, dtype=torch.uint8), (0, 0, 0), 0, 4, 4
        )


def halve(config: object, images: Tensor, draws: object) -> Tensor:
    return images[:, :, ::2]


def moved(image: Tensor, down: int, right: int) -> Tensor:
    """Shift one image pixel by pixel, zeros where nothing comes in."""
    result = torch.zeros_like(image)
    height, width = image.shape[-2:]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[:, row, column] = image[:, row - down, column - right]
    return result


def test_shift_images_moves_every_image_by_its_own_offset() -> None:
    images = torch.randint(1, 256, (25, 2, 5, 4), dtype=torch.uint8)
    offsets = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    shifted = shift_images(images, offsets, 2)
    assert shifted.shape == images.shape
    assert shifted.dtype == torch.uint8
    for index in range(25):
        down, right = 2 - int(offsets[0, index]), 2 - int(offsets[1, index])
        assert torch.equal(shifted[index], moved(images[index], down, right))


@pytest.mark.parametrize("size", [200, 400])
def test_augmentation_uses_all_shifts_and_changes_with_every_batch(size: int) -> None:
    # 200 examples: one batch in each epoch; 400: two batches in one epoch. The images are constant, so that the rows
    # and columns of zeros tell the shift.
    source = make_source(size, 200, side=6, augment=SHIFT)
    seen = []
    for _ in range(2):
        batch = source.next()
        filled = batch["image"][:, 0] > 0
        assert torch.equal(batch["image"].amax(dim=(1, 2, 3)), (batch["label"] % 255 + 1).to(torch.uint8))
        rows, columns = filled.any(dim=2).long(), filled.any(dim=1).long()
        seen.append(torch.stack([axis.argmax(1) - axis.flip(1).argmax(1) for axis in (rows, columns)]))
    assert all(sorted(axis.unique().tolist()) == [-2, -1, 0, 1, 2] for shifts in seen for axis in shifts)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][0], seen[0][1])


def test_no_augmentation_leaves_images_alone() -> None:
    batch = make_source(20, 20, side=6).next()
    assert torch.equal(batch["image"], (batch["label"] + 1).to(torch.uint8)[:, None, None, None].expand(20, 1, 6, 6))


def test_the_rows_of_earlier_batches_are_known_over_the_ends_of_epochs() -> None:
    source = make_source(10, 4, drop_last=False)
    batches = [source.next()["label"] for _ in range(7)]
    for ago in range(1, 8):
        rows = source.drawn(ago)
        assert rows is not None
        assert torch.equal(make_dataset(10).train.columns["label"][rows], batches[-ago])
    assert source.drawn(8) is None
