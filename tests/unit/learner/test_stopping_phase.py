"""A phase that stops until there is a fresh rollout: which steps are taken, over learners, compiled and resumed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cases import case
from learners import Learners, assert_agreement
from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Phase
from rayloom.errors import UserError
from rayloom.learner.learner import Learner
from rayloom.learner.phase import PhaseLearner
from rayloom.runs.learner_role import LearnerRole


class _Distance(Algorithm):
    """Descends a line, and says by its batch how far it has come."""

    def __init__(self, metric: str = "distance") -> None:
        super().__init__(AlgorithmConfig(), {})
        self.weight = nn.Parameter(torch.zeros(1))
        self._metric = metric

    def phases(self) -> list[Phase]:
        return [Phase("all", self.loss, (self.weight,), stop_above=(self._metric, 0.5))]

    def loss(self, batch: Batch) -> Loss:
        return Loss(self.weight * torch.ones_like(batch["distance"]), {"distance": batch["distance"]})


def _source(rollouts: int | None) -> Any:
    return SimpleNamespace(rollouts=rollouts, cut=None, counters=dict)


def _walk(learner: Learner, source: Any, batches: list[tuple[int, list[float]]]) -> list[bool]:
    """Update with batches of (number of the rollout, distances); return which changed the weight."""
    moved = []
    for rollout, distances in batches:

        def draw(rollout: int = rollout, distances: list[float] = distances) -> Batch:
            source.rollouts = rollout
            return {"distance": torch.tensor(distances)}

        before = learner.algorithm.weight.item()
        learner.update(draw, lambda loss: None)
        moved.append(learner.algorithm.weight.item() != before)
    return moved


def test_no_step_is_taken_from_the_mean_above_the_limit_to_the_fresh_rollout() -> None:
    learner, source = Learner(_Distance(), LearnerConfig()), _source(0)
    learner.attach(source)
    walked = [(1, [0.9, 0.0]), (1, [0.9, 0.2]), (1, [0.0, 0.0]), (2, [0.5, 0.5]), (2, [9.0, 9.0]), (3, [0.0, 0.0])]
    assert _walk(learner, source, walked) == [True, False, False, True, False, True]
    (phase,) = learner.phases
    assert isinstance(phase, PhaseLearner)
    (state,) = phase.optimizers[0].state.values()
    assert int(state["step"]) == 3 and learner.updates == 6
    assert learner.drain_metrics()["steps_taken"] == pytest.approx(3 / 6)


def test_a_stop_is_resumed() -> None:
    learner, source = Learner(_Distance(), LearnerConfig()), _source(0)
    learner.attach(source)
    _walk(learner, source, [(1, [9.0])])
    again, its = Learner(_Distance(), LearnerConfig()), _source(1)
    again.attach(its)
    again.load_state_dict(learner.state_dict(), learner.own_state_dict())
    assert _walk(again, its, [(1, [0.0]), (2, [0.0])]) == [False, True]


def test_what_cannot_stop_is_told() -> None:
    with pytest.raises(UserError, match="stops until there is a fresh rollout, which SimpleNamespace never says"):
        Learner(_Distance(), LearnerConfig()).attach(_source(None))
    learner, source = Learner(_Distance("far"), LearnerConfig()), _source(0)
    learner.attach(source)
    with pytest.raises(UserError, match="has no 'far', above which phase 'all' stops"):
        _walk(learner, source, [(1, [0.0])])


def _steps(role: LearnerRole) -> int:
    (phase,) = role.learner.phases
    assert isinstance(phase, PhaseLearner)
    return int(next(iter(phase.optimizers[0].state.values()))["step"])


def test_ppo_leaves_out_the_rest_of_its_rollouts_on_two_learners_alike() -> None:
    config = case("ppo_target_kl")
    learners = Learners(replace(config, learner=replace(config.learner, count=2)))
    learners.train(16)
    assert_agreement(learners)
    taken = {_steps(role) for role in learners.roles}
    assert len(taken) == 1 and 2 <= taken.pop() < 16
    learners.close()


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_ppo_stops_where_the_other_does() -> None:
    taken = []
    for compiled in (False, True):
        role = LearnerRole(case("ppo_target_kl", learner={"compile": compiled}))
        for _ in range(10):
            role.learner.update(role.source.next, role.source.feedback)
        taken.append(_steps(role))
        role.close()
    assert taken[0] == taken[1] and taken[0] < 10
