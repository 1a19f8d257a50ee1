"""What on-policy and replay sources hand to the learner, with pools that play back known rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from contexts import context_of, reach_barrier, restore, saved
from rayloom.config.sources import OnPolicySourceConfig, ReplaySourceConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Rollout, Trajectory
from rayloom.errors import UserError
from rayloom.sources.on_policy import OnPolicySource
from rayloom.sources.replay import ReplaySource


class _Pool:
    """Counts up: the observation of row k of the run is k. Every tenth step is dead."""

    def __init__(self, num_envs: int, dead: bool = False) -> None:
        self.num_envs, self.dead, self.steps = num_envs, dead, 0
        self.published: list[int] = []
        self.barriers = 0

    def publish(self, version: int) -> None:
        self.published.append(version)

    def collect(self, num_steps: int) -> list[Rollout]:
        shape = (num_steps, self.num_envs)
        count = np.arange(self.steps * self.num_envs, (self.steps + num_steps) * self.num_envs).reshape(shape)
        self.steps += num_steps
        valid = count % 10 != 9 if self.dead else np.ones(shape, bool)
        arrays = {
            "observation": count[..., None].astype(np.float32),
            "next_observation": count[..., None].astype(np.float32) + 0.5,
            "action": np.zeros(shape, np.int64),
            "reward": count.astype(np.float32),
            "terminated": np.zeros(shape, bool),
            "truncated": np.zeros(shape, bool),
            "valid": valid,
            "first": np.zeros(shape, bool),
        }
        return [Rollout(arrays, [(1.0, 2)], int(valid.sum()))]

    def barrier(self) -> None:
        self.barriers += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]

    def close(self) -> None:
        pass


class _Rows(Algorithm):
    """Keeps the rows as they are."""

    prepared = 0

    def prepare(self, trajectory: Trajectory) -> Batch:
        self.prepared += 1
        if "valid" not in trajectory:
            return trajectory
        return {"row": trajectory["observation"].squeeze(-1)[trajectory["valid"]]}


def _on_policy(dead: bool = False, batch_size: int = 10, **settings: Any) -> tuple[OnPolicySource, _Pool, _Rows]:
    config = OnPolicySourceConfig(**{"kind": "on_policy", "env": "-", "num_envs": 4, "rollout_steps": 10, **settings})
    pool, algorithm = _Pool(config.num_envs, dead), _Rows(AlgorithmConfig(), {})
    return OnPolicySource(config, context_of(algorithm, batch_size, pool=pool)), pool, algorithm


def test_every_row_is_seen_once_per_epoch_and_rollouts_are_never_reused() -> None:
    source, pool, algorithm = _on_policy(epochs=3)
    for rollout in range(2):
        for _ in range(3):
            rows = torch.cat([source.next()["row"] for _ in range(4)])
            assert sorted(rows.tolist()) == list(range(rollout * 40, rollout * 40 + 40))
        assert algorithm.prepared == rollout + 1
    assert pool.published == [0, 1], "each rollout is collected with freshly published weights"


def test_epochs_are_shuffled_differently() -> None:
    source, _, _ = _on_policy(epochs=2)
    first, second = (torch.cat([source.next()["row"] for _ in range(4)]).tolist() for _ in range(2))
    assert first != second and first != sorted(first)


def test_batches_keep_their_size_when_dead_steps_leave_fewer_rows() -> None:
    source, _, _ = _on_policy(dead=True, epochs=1)  # 36 valid rows of 40
    batches = [source.next()["row"] for _ in range(4)]
    assert [len(batch) for batch in batches] == [10, 10, 10, 10]
    rows = torch.cat(batches).tolist()
    assert len(set(rows)) == 36 and not any(row % 10 == 9 for row in rows)
    assert source.counters()["env_steps"] == 36


def test_steps_count_once_their_rollout_is_used_up() -> None:
    source, _, _ = _on_policy(epochs=2)
    seen = []
    for _ in range(9):
        source.next()
        seen.append(source.counters()["env_steps"])
    assert seen == [0] * 7 + [40, 40]


def test_an_on_policy_source_continues_in_the_middle_of_an_epoch() -> None:
    source, pool, _ = _on_policy(epochs=2)
    for _ in range(6):
        source.next()
    reach_barrier(source, pool)
    copy, copied_pool, _ = _on_policy(epochs=2)
    restore(copy, copied_pool, saved(source, pool))
    for _ in range(12):
        assert torch.equal(source.next()["row"], copy.next()["row"])
    assert source.counters() == copy.counters()


def test_a_batch_larger_than_a_rollout_is_refused() -> None:
    with pytest.raises(UserError, match=r"learner\.batch_size: 41 is more than the 40 steps"):
        _on_policy(batch_size=41)


def _replay(**settings: Any) -> tuple[ReplaySource, _Pool]:
    tree = {"kind": "replay", "env": "-", "num_envs": 4, "capacity": 400, "learning_starts": 20, **settings}
    config = ReplaySourceConfig(**tree)
    pool = _Pool(config.num_envs)
    return ReplaySource(config, context_of(_Rows(AlgorithmConfig(), {}), 8, pool=pool)), pool


@pytest.mark.parametrize(("ratio", "expected"), [(4, [20, 24, 28, 32]), (1, [20, 24, 24, 24]), (8, [20, 28, 36, 44])])
def test_the_replay_ratio_is_kept(ratio: float, expected: list[int]) -> None:
    source, _ = _replay(steps_per_update=ratio)
    steps = []
    for _ in range(4):
        source.next()
        steps.append(source.counters()["env_steps"])
    assert steps == expected


def test_exploration_sees_the_steps_grow_while_collecting() -> None:
    source, _ = _replay()
    source.next()
    assert source._algorithm.progress.env_steps == 16, "the last vector step before the 20th transition"


def test_priorities_go_back_to_the_transitions_that_were_sampled() -> None:
    source, _ = _replay(prioritized=True, learning_starts=200, steps_per_update=0.001)
    for _ in range(50):
        batch = source.next()
        # Only transitions whose reward is a multiple of 7 stay interesting.
        interesting = (batch["reward"][:, 0] % 7 == 0).float() * 100 + 1e-3
        source.feedback(Loss(torch.zeros(8), priorities=interesting))
    late = torch.cat([source.next()["reward"][:, 0] for _ in range(20)])
    assert float((late % 7 == 0).float().mean()) > 0.5, "about one seventh without priorities"


def test_a_barrier_ends_stored_segments() -> None:
    source, pool = _replay(n_step=3, learning_starts=40)
    source.next()
    reach_barrier(source, pool)
    pool.steps += 1000  # the restarted environments are elsewhere
    source._collect(80)
    for _ in range(30):
        batch = source.next()
        last = batch["next_observation"].squeeze(1) - 0.5
        first = batch["observation"].squeeze(1)
        assert bool(((last - first) <= 8).all()), "no segment runs from before the barrier to after it"


def test_too_small_a_buffer_is_refused() -> None:
    with pytest.raises(UserError, match=r"source\.learning_starts"):
        _replay(learning_starts=500)
    with pytest.raises(UserError, match=r"source\.capacity"):
        _replay(capacity=4, learning_starts=1, n_step=3)
