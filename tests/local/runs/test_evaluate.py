"""Held-out evaluation: whole episodes counted fairly, dead steps left out, the run's generators untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases import case
from rayloom.contract import EvaluationContext
from rayloom.errors import UserError
from rayloom.rollouts.environment import Step
from rayloom.runs.evaluator import Evaluator
from rayloom.runs.learner_role import LearnerRole


class _Scripted:
    """Environment i ends an episode every 2 + i steps and pays 1 per step; a dead step pays 100 after each."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.closed = False
        self.seeds: list[int] = []

    def reset(self, seed: int) -> np.ndarray:
        self.seeds.append(seed)
        self._count = np.zeros(self.num_envs, int)
        return np.zeros((self.num_envs, 4), np.float32)

    def step(self, action: np.ndarray) -> Step:
        self._count += 1
        length = 2 + np.arange(self.num_envs)
        dead = self._count > length
        done = self._count == length
        self._count[dead] = 0
        observation = np.zeros((self.num_envs, 4), np.float32)
        reward = np.where(dead, 100.0, 1.0).astype(np.float32)
        return Step(observation, reward, done, np.zeros_like(done), ~dead, observation, dead)

    def close(self) -> None:
        self.closed = True


def _evaluator(monkeypatch: pytest.MonkeyPatch, episodes: int, num_envs: int | None, **more: Any) -> Evaluator:
    monkeypatch.setattr("rayloom.runs.evaluations.make_environment", lambda source, number: _Scripted(number))
    monkeypatch.setattr("rayloom.runs.evaluations.check_alike", lambda *args, **options: None)
    config = case("ppo", evaluate={"episodes": episodes, "num_envs": num_envs, **more})
    return Evaluator(config, LearnerRole(case("ppo")).algorithm, None)


def test_every_environment_gives_its_share_and_dead_steps_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = _evaluator(monkeypatch, episodes=5, num_envs=2).evaluate(0).metrics
    # Environment 0 (length 2) owes three episodes, environment 1 (length 3) two: by speed it would be another mix.
    assert metrics["evaluate/return_mean"] == pytest.approx((3 * 2 + 2 * 3) / 5)
    assert metrics["evaluate/episode_length_mean"] == pytest.approx(12 / 5)
    assert (metrics["evaluate/return_min"], metrics["evaluate/return_max"]) == (2.0, 3.0)


def test_one_environment_for_each_episode_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = _evaluator(monkeypatch, episodes=4, num_envs=None).evaluate(0).metrics
    assert metrics["evaluate/return_mean"] == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_an_episode_without_end_is_cut_off_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = _evaluator(monkeypatch, episodes=8, num_envs=8, max_episode_steps=6).evaluate(0).metrics
    assert metrics["evaluate/episode_length_mean"] == pytest.approx((2 + 3 + 4 + 5 + 6 + 6 + 6 + 6) / 8)
    assert metrics["evaluate/return_max"] == 6.0


def test_after_a_cut_an_environment_begins_its_next_episode_at_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = _evaluator(monkeypatch, episodes=6, num_envs=2, max_episode_steps=2)
    metrics = evaluator.evaluate(0).metrics
    # Environment 0 (length 2) restarts by itself and gives its three at once; environment 1 needs a reset for each.
    assert metrics["evaluate/episode_length_mean"] == metrics["evaluate/return_mean"] == 2.0
    seeds = evaluator._evaluation._environment.seeds  # type: ignore[attr-defined]
    assert len(seeds) == len(set(seeds)) == 3


def test_a_unit_of_work_that_takes_too_long_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = _evaluator(monkeypatch, episodes=2, num_envs=2, deadline_s=1e-9)
    with pytest.raises(UserError, match=r"evaluate\.deadline_s: unit 1 of an evaluation's work took"):
        evaluator.evaluate(0)


def test_evaluations_have_environment_options_of_their_own() -> None:
    config = case("ppo", source={"env_options": {"a": 1, "b": 2}}, evaluate={"env_options": {"b": 3, "c": 4}})
    evaluation = config.evaluate.make(EvaluationContext(source=config.source, data=None))
    assert evaluation.source.env_options == {"a": 1, "b": 3, "c": 4}
    assert config.source.env_options == {"a": 1, "b": 2}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["ppo", "vae", "mlp_dropout", "wgan_gp"])
def test_an_evaluation_changes_nothing_and_repeats_itself(name: str) -> None:
    role = LearnerRole(case(name))
    state = torch.get_rng_state()
    first = role.evaluate().metrics
    assert torch.equal(torch.get_rng_state(), state)
    assert role.algorithm.training, "dropout is back on"
    assert role.evaluate().metrics == first
    role.close()


def test_a_split_is_averaged_over_examples_whatever_the_batch(tmp_path: Path) -> None:
    role = LearnerRole(case("softmax_regression", evaluate={"batch_size": 7}))
    whole = LearnerRole(case("softmax_regression", evaluate={"batch_size": 10_000}))
    for each in (role, whole):
        for _ in range(20):
            each.learner.update(each.source.next, each.source.feedback)
    ours, theirs = role.evaluate().metrics, whole.evaluate().metrics
    assert ours == pytest.approx(theirs, rel=1e-5)
    test = Evaluator(case("softmax_regression", evaluate={"split": "test"}), role.algorithm, role.dataset)
    assert test.evaluate(20).metrics != ours
