"""Recorded gradients: on the CPU a stand-in writes into the memory of its recording, as a CUDA graph does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import case
from rayloom.contract import Batch, Loss
from rayloom.errors import UserError
from rayloom.learner.phase import PhaseLearner
from rayloom.learner.replayed import ReplayedPhaseLearner
from rayloom.runs.learner_role import LearnerRole
from rayloom_generative.adversarial.wgan_gp import WGANGP

_LEARNER = {"batch_size": 64, "max_grad_norm": 1.0, "optimizer": {"learning_rate": 1e-2}}


def written_in_place(function: Callable[[], list[Tensor]]) -> tuple[Callable[[], Any], list[Tensor]]:
    results = function()

    def replay() -> None:
        for kept, value in zip(results, function(), strict=True):
            kept.copy_(value)

    return replay, results


def role_of(replayed: bool) -> LearnerRole:
    role = LearnerRole(case("wgan_gp", learner=_LEARNER))
    if replayed:
        learner = role.learner
        for number, phase in enumerate(learner.phases):
            assert isinstance(phase, PhaseLearner)
            pieces: Any = [type("Piece", (), {"flat": flat, "settings": {}}) for flat in phase.flats]
            other = ReplayedPhaseLearner(phase.phase, phase.config, phase.group, pieces, written_in_place)
            other.optimizers, other._plain_steps = phase.optimizers, phase._plain_steps
            learner.phases[number] = other
    return role


def test_replays_equal_the_steps_that_they_repeat() -> None:
    plain, replayed = role_of(False), role_of(True)
    for _ in range(12):
        for role in (plain, replayed):
            role.learner.update(role.source.next, role.source.feedback)
    # Metrics are read long after the replays have gone on, a batch each.
    first, second = plain.learner.drain_metrics(), replayed.learner.drain_metrics()
    assert first == second and {"critic_slope", "critic_gradient_norm", "generator_loss"} <= set(first)
    for name, value in plain.algorithm.state_dict().items():
        assert torch.equal(value, replayed.algorithm.state_dict()[name]), name


def test_a_loss_that_draws_noise_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = WGANGP.critic_loss

    def noisy(self: WGANGP, batch: Batch) -> Loss:
        found = loss(self, batch)
        return replace(found, per_example=found.per_example * self.noise.uniform(len(found.per_example)))

    monkeypatch.setattr(WGANGP, "critic_loss", noisy)
    role = role_of(True)
    with pytest.raises(UserError, match=r"learner\.compile: the loss of phase 'critic' draws noise"):
        role.learner.update(role.source.next, role.source.feedback)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_is_the_same_with_and_without() -> None:
    weights = []
    for compiled in (False, True):
        role = LearnerRole(case("wgan_gp", learner={**_LEARNER, "compile": compiled, "device": "cuda"}))
        kinds = {type(learner) for learner in role.learner.phases}
        assert kinds == {ReplayedPhaseLearner if compiled else PhaseLearner}
        for _ in range(12):
            role.learner.update(role.source.next, role.source.feedback)
        weights.append(torch.cat([value.flatten() for value in role.algorithm.parameters()]).detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
