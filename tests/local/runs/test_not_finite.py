"""A loss that becomes NaN or infinite ends the run in one sentence, with the update and the examples, and its last good
checkpoint stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rayloom
from cases import case
from processes import write_config
from rayloom import datasets
from rayloom.checkpoint.store import CheckpointStore
from rayloom.cli.main import main
from rayloom.contract import Batch, Loss
from rayloom.errors import NotFiniteError
from rayloom.runs.folders import read_result
from rayloom.seeding import torch_generator
from rayloom_supervised.tasks.classification import Classifier

SPOILT = 17
"""The row of the training data whose loss is infinite."""


class OneInfinite(Classifier):
    """The loss of one image is infinite; its gradient is as it was."""

    def loss(self, batch: Batch) -> Loss:
        loss = super().loss(batch)
        image = self.standardize(datasets.load("digits", 0).train.columns["image"][SPOILT])
        alike = (batch["image"] == image).flatten(1).all(1)
        return Loss(loss.per_example + torch.where(alike, torch.inf, 0.0), loss.metrics)


class LateSpoiler(Classifier):
    """The losses stay finite, and update 20 spoils the weights."""

    def after_update(self, update: int) -> None:
        if update == 20:
            next(self.network.parameters()).fill_(torch.nan)


def _config(output: Path, algorithm: str, every: str) -> Any:
    part = {"import": f"{__name__}:{algorithm}"}
    intervals = {"tracking": {"every": every}, "checkpoint": {"every": "2 updates"}}
    return case("softmax_regression", str(output), algorithm=part, **intervals)


def _first_update() -> int:
    order = torch.randperm(len(datasets.load("digits", 0).train), generator=torch_generator(0, "dataset", 0))
    return int((order == SPOILT).nonzero()) // 64 + 1


@pytest.mark.parametrize("every", ["1 updates", "1000 updates"])
def test_the_update_and_the_example_are_named_and_the_checkpoint_before_is_kept(every: str, tmp_path: Path) -> None:
    update = _first_update()
    assert update > 4, "choose another row: there must be a checkpoint before"
    words = (
        rf"^loss was not finite first in update {update}, for 1 of the 64 examples of its batch: row {SPOILT} of the "
        rf"training data; lower learner\.optimizer\.learning_rate or .*\(the checkpoint of update "
        rf"{(update - 1) // 2 * 2} is kept\)$"
    )
    with pytest.raises(NotFiniteError, match=words):
        rayloom.run(_config(tmp_path, "OneInfinite", every), local=True)
    (folder,) = tmp_path.glob("*/checkpoints")
    loaded = CheckpointStore(folder, keep=2, mode="max").load_latest()
    assert loaded is not None
    weights = loaded.state["role"]["learner"]["algorithm"]
    assert all(bool(value.isfinite().all()) for value in weights.values())
    result = read_result(folder.parent)
    assert result is not None and result["status"] == "FAILED"


def test_weights_that_are_spoilt_take_the_place_of_no_checkpoint(tmp_path: Path) -> None:
    words = r"^the weights are not finite after update 20; its batch \(rows \d.* and 56 more of the training data\) was"
    with pytest.raises(NotFiniteError, match=words):
        rayloom.run(_config(tmp_path, "LateSpoiler", "1000 updates"), local=True)
    assert max(CheckpointStore(next(tmp_path.glob("*/checkpoints")), keep=2, mode="max").steps()) == 18


def test_the_command_ends_with_one_sentence_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner = {"optimizer": {"kind": "sgd", "learning_rate": 1e30}}
    path = write_config(case("vae", str(tmp_path / "out"), learner=learner), tmp_path)
    assert main(["run", str(path), "--local", "--quiet"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rayloom: loss was not finite first in update "), error
    assert "for all 64 examples of its batch (rows " in error
    assert "Traceback" not in error
