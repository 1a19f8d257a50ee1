"""The rollout worker: shapes, episode statistics over chunks, barriers, and its share of the environments."""

from __future__ import annotations

import numpy as np
import pytest

from cases import case
from rayloom.config.shares import environment_share
from rayloom.contract import Rollout
from rayloom.errors import UserError
from rayloom.rollouts.episodes import EpisodeStatistics, RunningEpisodes
from rayloom.rollouts.rollout import concatenate_rollouts
from rayloom.rollouts.worker import RolloutWorker


def _worker(seed: int = 0, **source: object) -> RolloutWorker:
    config = case("ppo", source={"num_envs": 3, **source})
    return RolloutWorker(config, 0)


def test_a_chunk_is_time_major_and_continuous() -> None:
    worker = _worker()
    first, second = worker.collect(20).arrays, worker.collect(20).arrays
    assert first["observation"].shape == (20, 3, 4) and first["reward"].shape == (20, 3)
    observation = np.concatenate([first["observation"], second["observation"]])
    successor = np.concatenate([first["next_observation"], second["next_observation"]])
    valid = np.concatenate([first["valid"], second["valid"]])
    ended = np.concatenate([a["terminated"] | a["truncated"] for a in (first, second)])
    for t in range(39):
        for n in range(3):
            if valid[t, n] and not ended[t, n]:
                assert np.array_equal(successor[t, n], observation[t + 1, n])


def test_episodes_are_added_up_over_chunks_and_without_dead_steps() -> None:
    whole, pieces = _worker(), _worker()
    together = whole.collect(120)
    parts = [pieces.collect(chunk) for chunk in (1, 7, 50, 62)]
    episodes = [episode for part in parts for episode in part.episodes]
    assert episodes == together.episodes and len(episodes) > 5
    # CartPole pays 1 for every true step, and its dead steps pay 0 but would count as length.
    assert all(total == length for total, length in episodes)
    ended = (together.arrays["terminated"] | together.arrays["truncated"]) & together.arrays["valid"]
    assert len(episodes) == ended.sum()
    assert together.env_steps == together.arrays["valid"].sum() < 360
    lengths = np.zeros(3, int)
    expected = []
    for t in range(120):
        lengths += together.arrays["valid"][t]
        for n in np.flatnonzero(ended[t]):
            expected.append(int(lengths[n]))
            lengths[n] = 0
    assert [length for _, length in episodes] == expected


def test_dead_steps_pay_nothing_into_a_return() -> None:
    reward = np.array([[1.0], [1.0], [50.0], [1.0]])
    storage = {
        "reward": np.repeat(reward, 3, axis=1),
        "valid": np.array([[True] * 3, [True] * 3, [False] * 3, [True] * 3]),
        "terminated": np.array([[False] * 3, [True] * 3, [False] * 3, [True] * 3]),
        "truncated": np.zeros((4, 3), bool),
    }
    assert RunningEpisodes(3).finish(storage) == [(2.0, 2)] * 3 + [(1.0, 1)] * 3


def test_barriers_restart_by_derived_seeds() -> None:
    one, other = _worker(), _worker()
    start = one.collect(1).arrays["observation"][0]
    one.barrier()
    after = one.collect(1).arrays["observation"][0]
    assert not np.array_equal(start, after)
    other.collect(30)
    other.barrier()
    assert np.array_equal(other.collect(1).arrays["observation"][0], after), "whatever happened before the barrier"


def test_a_worker_is_saved_only_at_a_barrier() -> None:
    worker = _worker()
    worker.collect(2)
    with pytest.raises(AssertionError, match="right after a barrier"):
        worker.state_dict()


def test_workers_share_the_environments_evenly() -> None:
    config = case("ppo", source={"num_envs": 6, "rollout_workers": 3})
    assert [environment_share(config, index) for index in range(3)] == [(2, 0), (2, 2), (2, 4)]
    with pytest.raises(UserError, match=r"source\.num_envs: 4 .* 3 rollout workers"):
        environment_share(case("ppo", source={"num_envs": 4, "rollout_workers": 3}), 0)


def test_rollouts_are_joined_along_the_environments() -> None:
    parts = [Rollout({"reward": np.full((5, n), float(n))}, [], 5 * n) for n in (2, 3)]
    joined = concatenate_rollouts(parts)["reward"]
    assert joined.tolist() == [[2.0, 2.0, 3.0, 3.0, 3.0]] * 5


def test_statistics_are_means_since_the_last_report() -> None:
    statistics = EpisodeStatistics()
    assert statistics.drain() == {}
    statistics.add([(10.0, 4), (20.0, 6)])
    copy = EpisodeStatistics()
    copy.load_state_dict(statistics.state_dict())
    for each in (statistics, copy):
        assert each.drain() == {"return_mean": 15.0, "return_max": 20.0, "episode_length_mean": 5.0}
        assert each.episodes == 2 and each.drain() == {}


def test_the_spec_is_the_environments() -> None:
    config = case("ppo")
    spec = config.source_class().describe(config.source)
    assert spec["observation"].shape == (4,) and spec["action"].num_values == 2
