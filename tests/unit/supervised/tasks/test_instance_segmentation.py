"""A small Mask R-CNN: its data, its losses, what it tells, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rayloom
from cases import case
from rayloom import datasets
from rayloom.errors import UserError
from rayloom_supervised.networks.mask_rcnn import make_anchors
from rayloom_supervised.tasks.instance_segmentation import MaskRCNN, MaskRCNNConfig

DATA = {
    "import": "rayloom_supervised.data.overlapping_shapes:overlapping_shapes",
    "train_size": 40,
    "validation_size": 6,
    "test_size": 6,
}


@pytest.fixture(scope="module")
def data() -> Any:
    return datasets.load(DATA, 0)


@pytest.fixture
def algorithm(data: Any) -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(MaskRCNNConfig(channels=8, hidden_size=16, candidates=20, proposals=6, masks=3), data.spec)


def test_pictures_hold_what_is_told_of_them(data: Any) -> None:
    batch = data.train.rows(torch.arange(40))
    label, box, mask = batch["label"], batch["box"], batch["mask"]
    count = (label > 0).sum(1)
    assert set(count.tolist()) == {1, 2, 3, 4} and bool((label.gt(0).long().cumsum(1).amax(1) == count).all())
    assert int(mask.sum(1).max()) == 1, "a pixel belongs to one shape at most"
    touching = 0
    for row, place in (label > 0).nonzero().tolist():
        rows, columns = mask[row, place].nonzero().T
        ends = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert box[row, place].tolist() == ends
        left, top, right, bottom = ends
        touching += int(mask[row, :, top:bottom, left:right].sum((1, 2)).gt(0).sum()) > 1
    assert touching > 20, "shapes are to overlap"
    assert not mask[label == 0].any() and not box[label == 0].any()


def test_anchors_stand_around_the_middles_of_places() -> None:
    anchors = make_anchors(8, 12, (4.0, 6.0))
    assert anchors.shape == (2 * 3 * 2, 4)
    assert anchors[:3].tolist() == [[0, 0, 4, 4], [-1, -1, 5, 5], [4, 0, 8, 4]]
    assert anchors[-1].tolist() == [7, 3, 13, 9]


def test_the_loss_of_an_example_does_not_depend_on_the_others(data: Any, algorithm: MaskRCNN) -> None:
    batch = algorithm.prepare(data.train.rows(torch.arange(5)))
    whole = algorithm.loss(batch)
    alone = torch.cat([algorithm.loss({k: v[[i]] for k, v in batch.items()}).per_example for i in range(5)])
    torch.testing.assert_close(whole.per_example, alone, rtol=1e-4, atol=1e-4)
    parts = torch.stack([whole.metrics[f"{name}_loss"] for name in ("proposal", "class", "box", "mask")])
    torch.testing.assert_close(parts.sum(0), whole.per_example.detach())


def test_what_is_told_is_padded_and_its_masks_lie_in_its_boxes(data: Any, algorithm: MaskRCNN) -> None:
    with torch.no_grad():
        algorithm.box_head.classify.bias[1:] += 1.0  # so that something is told without training
    found = algorithm.detect(algorithm.prepare(data.validation.rows(torch.arange(6)))["image"])
    assert found.label.shape == (6, 6) and found.mask.shape == (6, 6, 64, 64) and bool((found.label > 0).any())
    assert bool((found.score.diff(dim=1) <= 0).all())
    empty = found.label == 0
    assert not found.mask[empty].any() and not found.score[empty].any()
    for row, place in found.mask.any(3).any(2).nonzero().tolist():
        rows, columns = found.mask[row, place].nonzero().T
        left, top, right, _ = found.box[row, place].tolist()
        assert left - 1 <= int(columns.min()) and int(columns.max()) <= right and top - 1 <= int(rows.min())


def test_a_full_mask_is_pasted_as_its_box(algorithm: MaskRCNN) -> None:
    logits = torch.full((1, 1, 28, 28), 9.0)
    pasted = algorithm._pasted(logits, torch.tensor([[[8.0, 4.0, 20.0, 30.0]]]))[0, 0]
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[4:30, 8:20] = True
    assert int((pasted ^ expected).sum()) == 0
    logits[..., :14] = -9.0  # nothing in the left half
    expected[:, :14] = False
    pasted = algorithm._pasted(logits, torch.tensor([[[8.0, 4.0, 20.0, 30.0]]]))[0, 0]
    assert int((pasted ^ expected).sum()) == 0


@pytest.mark.parametrize(("classes", "kept"), [((1, 2), [2, 1]), ((2, 2), [2]), ((0, 2), [2])])
def test_boxes_suppress_worse_ones_of_their_own_class(
    classes: tuple[int, int], kept: list[int], algorithm: MaskRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 30.0], [11.0, 10.0, 31.0, 30.0]]])
    # The second box is the surer one, so that it stands first.
    logits = 5.0 * torch.nn.functional.one_hot(torch.tensor([classes]), 4)
    logits[0, 1] += torch.nn.functional.one_hot(torch.tensor(2), 4)
    monkeypatch.setattr(algorithm, "_propose", lambda *given: (boxes, torch.ones(1, 2, dtype=torch.bool)))
    monkeypatch.setattr(algorithm.box_head, "forward", lambda features: (logits, torch.zeros(1, 2, 4)))
    found = algorithm.detect(torch.zeros(1, 3, 64, 64))
    assert found.label[0][found.label[0] > 0].tolist() == kept


def test_data_without_masks_are_refused() -> None:
    with pytest.raises(UserError, match="needs the fields image, box and mask"):
        MaskRCNN(MaskRCNNConfig(), datasets.load("digits", 0).spec)


def test_it_finds_the_shapes_that_it_has_seen(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    source = {"dataset": {**DATA, "train_size": 8}}
    learner = {"batch_size": 8, "optimizer": {"kind": "adam", "learning_rate": 3e-3}}
    algorithm = {"channels": 16, "hidden_size": 64, "candidates": 32, "proposals": 12, "masks": 6}
    ends = {"evaluate": {"every": "70 updates"}, "stop": {"epochs": 70}}
    config = case("mask_rcnn", str(tmp_path), source=source, learner=learner, algorithm=algorithm, **ends)
    run = rayloom.run(config, local=True)
    trained = rayloom.load(run.run_id, output=str(tmp_path)).algorithm
    batch = trained.prepare(datasets.load(source["dataset"], 0).train.rows(torch.arange(8)))
    found, _ = trained.summarize({k: v for k, v in trained.evaluate(batch).items() if k.startswith("_")})
    assert float(found["mask_ap_50"]) > 0.6
