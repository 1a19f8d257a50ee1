"""Memory never outlives its episode, `act` meets a module in evaluation mode, and chunks are seen once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from counting_environment import CountingEnvironment
from counting_memory import CountingMemory
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.contract import replace_rows
from rayloom.devices import device_of
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.worker import RolloutWorker
from rayloom.runs.learner_role import LearnerRole
from streams import WorkerStream

SCHEDULES: Any = [[(5, "terminated"), (1, "truncated")], [(2, "both"), (7, "truncated")], [(3, "terminated")]]


def configured(kind: str = "on_policy", **source: Any) -> RunConfig:
    """Return a run of three counting environments that remember."""
    name = "CountingMemoryOfRows" if kind == "asynchronous" else "CountingMemory"
    sizes: dict[str, Any] = {"replay": {"capacity": 512, "learning_starts": 64, "steps_per_update": 4}}.get(kind, {})
    return from_tree(
        {
            "name": "counting",
            "algorithm": {"import": f"counting_memory:{name}"},
            "source": {"kind": kind, "env": "counting_environment:Counting-v0", "num_envs": 3, **sizes, **source},
            "learner": {"batch_size": 32},
            "evaluate": {"every": "500 env_steps", "episodes": 4},
            "stop": {"env_steps": 2000},
        }
    )


def in_mode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let environments be counting ones in an autoreset mode."""

    def make(source: Any, number: int, **place: Any) -> Environment:
        makers = [partial(CountingEnvironment, i, SCHEDULES[i % 3]) for i in range(number)]
        return Environment(SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode]), **place)

    monkeypatch.setattr("rayloom.rollouts.worker.make_environment", make)
    monkeypatch.setattr("rayloom.runs.evaluations.make_environment", make)


MODES = ["NEXT_STEP", "SAME_STEP", "DISABLED"]


@pytest.mark.parametrize("mode", MODES)
def test_memory_counts_the_steps_of_the_episode(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_mode(mode, monkeypatch)
    worker = RolloutWorker(configured(), 0)
    for barrier in range(2):
        for _ in range(4):
            arrays = worker.collect(9).arrays
            valid, step = arrays["valid"], arrays["observation"][..., 2]
            np.testing.assert_array_equal(arrays["count"][valid], step[valid])
            np.testing.assert_array_equal(arrays["first"][valid], step[valid] == 0)
            assert not arrays["first"][~valid].any()
            assert (mode == "NEXT_STEP") == (not valid.all())
        worker.restart(barrier + 1)
    worker.restart(3)
    assert worker.collect(1).arrays["first"].all()


@pytest.mark.parametrize("mode", MODES)
def test_evaluations_remember_alike(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_mode(mode, monkeypatch)
    role = LearnerRole(configured())
    role.evaluate(7)
    pairs = role.algorithm.evaluated  # type: ignore[attr-defined]
    assert len(pairs) > 20 and {count for count, _ in pairs} >= {0.0, 1.0, 2.0}
    assert all(count == step for count, step in pairs)
    role.close()


def test_the_learners_own_module_acts_in_evaluation_mode() -> None:
    role = LearnerRole(configured())
    algorithm: Any = role.algorithm
    algorithm.train()
    algorithm.body[1].eval()  # frozen by its author
    role.source.next()
    role.evaluate()
    assert algorithm.modes == {False}
    algorithm.body[1].eval()
    role.source.next()
    assert algorithm.training and algorithm.body[0].training and not algorithm.body[1].training
    role.close()


def test_modes_come_back_after_an_error() -> None:
    algorithm = CountingMemory(CountingMemory.Config(), {})
    acting = ActingAlgorithm(algorithm)
    with pytest.raises(ZeroDivisionError), acting.in_evaluation_mode():
        assert not algorithm.body[1].training
        raise ZeroDivisionError
    assert all(module.training for module in algorithm.modules())


def test_an_algorithm_without_tensors_lies_on_the_cpu() -> None:
    algorithm = CountingMemory(CountingMemory.Config(), {})
    del algorithm.body
    assert device_of(algorithm) == torch.device("cpu")


def test_rows_of_a_nested_state_are_replaced() -> None:
    state = {"a": torch.arange(6.0).reshape(3, 2), "b": (torch.arange(3), [torch.ones(3, 1, 1)])}
    fresh = {"a": torch.full((3, 2), -1.0), "b": (torch.full((3,), 9), [torch.zeros(3, 1, 1)])}
    after = replace_rows(state, fresh, torch.tensor([True, False, True]))
    assert after["a"].tolist() == [[-1, -1], [2, 3], [-1, -1]]
    assert after["b"][0].tolist() == [9, 1, 9] and after["b"][1][0].flatten().tolist() == [0, 1, 0]


@pytest.mark.parametrize("kind", ["on_policy", "replay", "asynchronous"])
def test_every_fresh_chunk_is_shown_once(kind: str) -> None:
    more: dict[str, Any] = {"on_policy": {"rollout_steps": 16, "epochs": 1}, "replay": {"collect_steps": 3}}.get(
        kind, {}
    )
    role = LearnerRole(configured(kind, num_envs=24, **more))
    for _ in range(26):
        role.source.next()
    seen = role.algorithm.seen  # type: ignore[attr-defined]
    worker = RolloutWorker(role.config, 0)
    for chunk in seen:
        again = worker.collect(len(chunk["reward"])).arrays
        assert chunk.keys() == again.keys()
        for name, values in again.items():
            np.testing.assert_array_equal(chunk[name], values, err_msg=name)
    assert len(seen) >= 3
    worker.close()
    role.close()


def test_a_stream_into_replay_is_shown_too() -> None:
    config = configured("replay", num_envs=4, rollout_workers=2, in_flight=1, collect_steps=4)
    role = LearnerRole(config, WorkerStream)
    role.source.next()
    steps = sum(int(chunk["valid"].sum()) for chunk in role.algorithm.seen)  # type: ignore[attr-defined]
    assert steps == role.source.counters()["env_steps"] >= 64
    role.close()
