"""Stacked images and the count of their modes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import Budget, EvaluationContext, Figure
from rayloom.errors import UserError
from rayloom_generative.evaluation.judge import Judge, JudgeConfig
from rayloom_generative.evaluation.stacked_images import StackedImagesConfig, stacked_images
from rayloom_generative.evaluation.stacked_modes import StackedModes, StackedModesConfig, stacked_modes
from rayloom_supervised.networks.kinds import NETWORKS

SMALL = StackedImagesConfig(train_size=50, held_out_size=40)


def test_each_plane_is_an_example_of_its_own_split_with_its_class() -> None:
    data, single = stacked_images(SMALL, 3), datasets.load("digits", 3)
    for split, count in (("train", 50), ("validation", 40), ("test", 40)):
        stacks = getattr(data, split).rows(torch.arange(count))
        known = getattr(single, split).rows(torch.arange(len(getattr(single, split))))
        images = known["image"].flatten(1).float()
        distance, place = torch.cdist(stacks["image"].reshape(-1, 64).float(), images).min(1)
        assert distance.max() == 0
        assert torch.equal(known["label"][place], stacks["label"].flatten())
    assert data.spec["image"].shape == (3, 8, 8) and data.spec["label"].num_values == (10, 10, 10)
    assert len({tuple(row.tolist()) for row in data.train.rows(torch.arange(50))["label"]}) > 30
    with pytest.raises(UserError, match=r"source\.dataset\.planes: pictures have 1 or 3 planes, not 2"):
        stacked_images(StackedImagesConfig(planes=2), 0)


def test_modes_by_hand() -> None:
    classes = torch.tensor([[0, 1], [0, 1], [1, 0], [2, 2]])
    covered, divergence = stacked_modes(classes, 3)
    assert covered == 3  # (0, 1) and (1, 0) are two modes
    assert float(divergence) == pytest.approx(math.log(9) + 0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    everything = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    assert [float(value) for value in stacked_modes(everything, 3)] == [9, pytest.approx(0, abs=1e-12)]


class Copier:
    """A model that draws held-out stacks whose last plane is always the first image's."""

    def __init__(self, data: Any, judges: tuple[Judge, ...]) -> None:
        self.spec, self.judges, self._data = data.spec, judges, data

    def sample(self, count: int, generator: torch.Generator) -> Figure:
        images = self._data.validation.rows(torch.arange(count) % 40)["image"] / 255
        images[:, 2] = images[:1, 2]
        return Figure("images", images)


def test_the_judge_reads_every_plane_alone() -> None:
    data = stacked_images(SMALL, 0)
    torch.manual_seed(0)
    judge = Judge(JudgeConfig(network=NETWORKS.component("mlp", hidden_sizes=(12,))), data.spec)
    judge.weights_hash.fill_(171)
    images = data.train.rows(torch.arange(4))["image"] / 255
    features, classes = judge.look(images)
    assert features.shape == (4, 36) and classes.shape == (4, 3)
    torch.testing.assert_close(judge.look(images[:, 1:2].repeat(1, 3, 1, 1))[0][:, :12], features[:, 12:24])
    context = EvaluationContext(source=None, data=data)
    evaluation = StackedModes(StackedModesConfig(samples=80), context)
    model: Any = Copier(data, (judge,))
    metrics = evaluation.run(model, 0, Budget(60.0)).metrics
    first_two = {
        tuple(row) for row in judge.look(data.validation.rows(torch.arange(40))["image"] / 255)[1][:, :2].tolist()
    }
    assert metrics["stacked_modes_abababab"] == len(first_two)
    assert metrics["stacked_divergence_abababab"] > math.log(1000 / 40) - 1e-6
    assert metrics["stack_accuracy_abababab"] < 0.2  # an untrained judge
    model.judges = ()
    with pytest.raises(UserError, match=r"StackedModes needs a judge, and this Copier has none"):
        evaluation.run(model, 0, Budget(60.0))
    model.spec = datasets.load("digits", 0).spec
    with pytest.raises(UserError, match=r"StackedModes counts modes of stacked images"):
        evaluation.run(model, 0, Budget(60.0))
