"""Another number of learners continues a run: counters stay true, nothing collected is lost, the rest is drawn anew."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import case
from examples import examples
from learners import Learners
from rayloom.checkpoint.random_state import capture_random_state, restore_random_state
from rayloom.config.schema import RunConfig
from rayloom.contract import deal
from rayloom.errors import UserError
from rayloom.rollouts.worker import RolloutWorker
from rayloom.runs.learner_role import LearnerRole
from rayloom.sources.columns import by_other_workers
from rayloom.sources.prioritized_buffer import PrioritizedReplayBuffer
from rayloom.sources.replay_buffer import ReplayBuffer
from rayloom.sources.resharding import reshard

State = dict[str, Any]
NOTHING: dict[str, Any] = {"buffers": {}, "rules": [], "sums": {}}  # of a learner's own
COUNTS = [
    pytest.param(before, after, marks=() if (before, after) in ((1, 4), (4, 2)) else pytest.mark.full)
    for before in (1, 2, 4)
    for after in (1, 2, 4)
    if before != after
]
"""Learners before and after; one growth and one shrinkage, which cuts shards and joins them, answer quickly."""


def run_of(name: str, count: int, **source: Any) -> RunConfig:
    """Return a case with so many learners."""
    if name == "dqn_workers":
        # Workers that run ahead of the learner; a ring that is full and has wrapped.
        source = {"rollout_workers": 4, "in_flight": 2, "collect_steps": 3, "capacity": 128, "n_step": 3, **source}
        return case("dqn_prioritized_n_step", learner={"count": count}, source=source)
    return case(name, learner={"count": count}, source=source)


def trained(config: RunConfig, updates: int) -> tuple[list[State], Counter[str]]:
    """Return the states of a run's learners after so many updates, and their counters."""
    learners = Learners(config)
    learners.train(updates)
    states = [role.barrier_and_state() for role in learners.roles]
    counters = learners.counters()
    learners.close()
    return states, counters


def equal(one: Any, other: Any) -> bool:
    """Return whether two trees of states hold the same bits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


NAMES = ["ppo", "dqn", "dqn_prioritized_n_step", "dqn_workers", "impala", "softmax_regression"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("before", "after"), COUNTS)
def test_another_number_of_learners_continues_a_run(name: str, before: int, after: int) -> None:
    old, new = run_of(name, before), run_of(name, after)
    states, counters = trained(old, 21)
    dealt = reshard(old, new, states)
    assert len(dealt) == after
    assert equal(dealt, reshard(old, new, states)), "a pure function"
    assert equal([state["learner"] for state in dealt], [states[0]["learner"]] * after)
    hashes = []
    for _ in range(2):
        learners = Learners(new, dealt)
        assert learners.counters() == counters, "no step, sample or episode is lost or doubled"
        assert {name: learners.roles[0].counters()[name] for name in counters} == counters
        assert learners.roles[0].counters()["updates"] == 21
        learners.train(45)
        later = learners.counters()
        # Batches of trajectories count their valid transitions.
        steps = new.source.rollout_steps if name == "impala" else 1  # type: ignore[union-attr]
        drawn = 24 * new.learner.batch_size * steps
        assert 0.8 * drawn < later["samples"] - counters["samples"] <= drawn
        assert name == "impala" or later["samples"] - counters["samples"] == drawn
        assert learners.roles[0].counters() == {"updates": 45, **later}
        hashes.append(learners.each(LearnerRole.weights_sha256))
        if name.startswith("dqn"):
            # The ratio of steps to updates is kept; each rollout may bring a few steps more than were due.
            due, slack = 64 + 44 * 4, 4 * getattr(new.source, "collect_steps", 1) + after
            assert due <= later["env_steps"] <= due + slack
        learners.close()
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 1


@pytest.mark.parametrize("name", NAMES)
def test_with_equal_numbers_nothing_changes(name: str) -> None:
    config = run_of(name, 2)
    states, _ = trained(config, 10)
    assert all(new is old for new, old in zip(reshard(config, config, states), states, strict=True))


# --- what each has of its own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), COUNTS)
def test_workers_keep_their_place_in_the_run(before: int, after: int) -> None:
    old, new = run_of("dqn", before), run_of("dqn", after)
    states, _ = trained(old, 3)
    workers = [worker for state in states for worker in state["pool"]["workers"]]
    dealt = [worker for state in reshard(old, new, states) for worker in state["pool"]["workers"]]
    assert len(dealt) == after
    assert equal(dealt[:before], workers[:after])
    generators = [bytes(worker["generator"].numpy()) for worker in dealt]
    assert len(set(generators)) == after
    assert all(worker["barriers"] == 1 and worker["restarts"] == 0 for worker in dealt)
    # Further ones do not repeat what a worker of their index would have explored from the beginning of the run.
    for index in range(before, after):
        assert generators[index] != bytes(RolloutWorker.fresh_state(0, index, 1, 0)["generator"].numpy())


def test_learners_that_stay_keep_their_generators_and_new_ones_get_their_own() -> None:
    old, new = run_of("softmax_regression", 2), run_of("softmax_regression", 4)
    states, _ = trained(old, 3)
    torch.manual_seed(5)
    states[1]["random"] = capture_random_state()
    untouched = capture_random_state()
    dealt = reshard(old, new, states)
    assert equal(capture_random_state(), untouched)
    assert equal([state["random"] for state in dealt[:2]], [state["random"] for state in states])
    drawn = []
    for state in dealt:
        restore_random_state(state["random"])
        drawn.append((float(torch.rand(())), float(np.random.rand()), random.random()))
    assert all(len({draws[kind] for draws in drawn[1:]}) == 3 for kind in (0, 2))
    assert drawn[2] != drawn[3]


def test_only_what_can_be_shared_is_dealt_out() -> None:
    old = run_of("ppo", 2)
    states, _ = trained(old, 2)
    with pytest.raises(UserError, match=r"learner\.batch_size: 32 is no multiple of the 3 learners"):
        reshard(old, replace(old, learner=replace(old.learner, count=3)), states)


def restored(state: State) -> ReplayBuffer:
    """Return a learner's replay buffer."""
    saved = state["source"]["buffer"]
    capacity, blocks, rng = saved["rows"] * saved["num_envs"], len(saved["heads"]), np.random.default_rng(0)
    buffer = (
        PrioritizedReplayBuffer(capacity, saved["num_envs"], rng, 0.6, blocks)
        if "leaves" in saved
        else ReplayBuffer(capacity, saved["num_envs"], rng, blocks)
    )
    buffer.load_state_dict(saved)
    return buffer


def segments(buffers: Sequence[ReplayBuffer], n_step: int) -> Counter[tuple[Any, ...]]:
    """Return every segment that the learners' buffers hold, with its environment and, last, its priority."""
    found: Counter[tuple[Any, ...]] = Counter()
    first = 0
    for buffer in buffers:
        slots = np.flatnonzero(buffer._flat["valid"])
        assert len(slots) == len(buffer)
        rows = buffer._segments(slots, n_step)
        leaves = buffer._tree.values[slots] if isinstance(buffer, PrioritizedReplayBuffer) else np.zeros(len(slots))
        for number, slot in enumerate(slots):
            content = tuple(rows[key][number].tobytes() for key in sorted(rows))
            found[(first + int(slot) % buffer.num_envs, *content, float(leaves[number]))] += 1
        first += buffer.num_envs
    return found


def held(states: Sequence[State], n_step: int) -> Counter[tuple[Any, ...]]:
    """Return every segment that the learners hold."""
    return segments([restored(state) for state in states], n_step)


def without_priority(found: Counter[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """Return the same segments, which a learner may have given the largest priority that it knew."""
    return Counter({key: sum(n for k, n in found.items() if k[:-1] == key) for key in {key[:-1] for key in found}})


@pytest.mark.parametrize("name", ["dqn", "dqn_prioritized_n_step", "dqn_workers"])
@pytest.mark.parametrize(("before", "after"), COUNTS)
def test_replay_keeps_every_segment_of_every_environment(name: str, before: int, after: int) -> None:
    old, new = run_of(name, before), run_of(name, after)
    states, _ = trained(old, 40)
    dealt = reshard(old, new, states)
    for n_step in (1, 3):
        assert held(dealt, n_step) == held(states, n_step)
    assert sum(held(states, 1).values()) > 50
    largest = [state["source"]["buffer"].get("largest_priority") for state in dealt]
    assert set(largest) == {max(s["source"]["buffer"].get("largest_priority") or 0 for s in states) or None}
    generators = [str(state["source"]["buffer"]["rng"]) for state in (*states, *dealt)]
    assert len(set(generators)) == before + after
    in_flight = [[rollout for s in group for rollout in s["source"]["drained"]] for group in (states, dealt)]
    assert sorted(map(str, in_flight[0])) == sorted(map(str, in_flight[1]))
    assert len(in_flight[0]) == (8 if name == "dqn_workers" else 0)
    for rank, state in enumerate(dealt):
        workers = [rollout["worker"] for rollout in state["source"]["drained"]]
        share = 4 // after
        assert workers == [rank * share + index for _ in range(2) for index in range(share)][: len(workers)]


def absorbed(config: RunConfig, states: Sequence[State]) -> Counter[tuple[Any, ...]]:
    """Return the segments that the learners hold once they have stored what was in flight, without priorities."""
    learners = Learners(config, states)
    for role in learners.roles:
        source: Any = role.source
        while source._drained:
            source._add_block(source._drained.popleft())
    found = segments([role.source._buffer for role in learners.roles], 3)  # type: ignore[attr-defined]
    learners.close()
    return without_priority(found)


@pytest.mark.parametrize(
    ("learners", "workers"), [((4, 1), (4, 4)), ((1, 2), (4, 4)), ((1, 1), (4, 2)), ((2, 1), (2, 4))]
)
def test_segments_go_on_into_rollouts_that_were_in_flight(learners: tuple[int, int], workers: tuple[int, int]) -> None:
    old, new = (run_of("dqn_workers", k, rollout_workers=w) for k, w in zip(learners, workers, strict=True))
    states, _ = trained(old, 30)
    before = absorbed(old, states)
    assert absorbed(new, reshard(old, new, states)) == before
    assert sum(before.values()) > 100


def test_a_learner_with_nothing_in_flight_ends_its_segments_at_the_barrier() -> None:
    old, new = run_of("dqn_workers", 1), run_of("dqn_workers", 2)
    states, _ = trained(old, 30)
    source = states[0]["source"]
    source["drained"] = [rollout for rollout in source["drained"] if rollout["worker"] == 0]
    source["buffer"]["newest_ends"][:] = False
    dealt = [state["source"] for state in reshard(old, new, states)]
    assert [len(each["drained"]) for each in dealt] == [2, 0]
    assert [each["buffer"]["newest_ends"].tolist() for each in dealt] == [[False] * 2, [True] * 2]


LENGTHS = st.lists(st.integers(0, 9), min_size=4, max_size=4)


def chunk(rng: np.random.Generator, steps: int, number: int) -> dict[str, np.ndarray]:
    """Return random transitions of so many environments."""
    shape = (steps, number)
    return {
        "observation": rng.random((*shape, 2), dtype=np.float32),
        "next_observation": rng.random((*shape, 2), dtype=np.float32),
        "action": rng.integers(0, 9, shape),
        "reward": rng.random(shape, dtype=np.float32),
        "terminated": rng.random(shape) < 0.2,
        "truncated": rng.random(shape) < 0.2,
        "valid": rng.random(shape) < 0.8,
        "first": rng.random(shape) < 0.2,
    }


def state_of(rank: int, share: int, blocks: int, lengths: Sequence[int], rng: np.random.Generator) -> State:
    """Return a learner whose writers have stored so many steps; its ring has six rows."""
    buffer = PrioritizedReplayBuffer(6 * share, share, np.random.default_rng(rank), 0.6, blocks)
    for block, length in enumerate(lengths):
        buffer.add(chunk(rng, 1, share // blocks), block)
        for _ in range(length):
            buffer.add(chunk(rng, 1, share // blocks), block)
    slots = np.arange(6 * share)
    buffer.update_priorities(slots, rng.random(len(slots)))
    buffer.mark_boundary()
    workers = [RolloutWorker.fresh_state(0, rank * blocks + block, 1, 0) for block in range(blocks)]
    source = {
        "drained": [],
        "statistics": {"returns": [1.0] * rank, "lengths": [2] * rank, "episodes": 3 + rank},
        "env_steps": 7 * rank,
        "samples": rank,
        "buffer": buffer.state_dict(),
        "draws": 5,
    }
    pool = {"workers": workers, "turn": 0}
    state = {"learner": {"updates": 9}, "own": NOTHING, "source": source, "pool": pool, "random": {}}
    return {**state, "totals": {"env_steps": 7}}


@settings(max_examples=examples(60, 12), deadline=None, derandomize=True)
@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), LENGTHS, st.integers(0, 99))
def test_shards_of_any_length_keep_every_segment(
    before: int, after: int, workers: int, lengths: list[int], seed: int
) -> None:
    # Four columns of environments; every worker's block is of another length, and may have wrapped.
    number = max(before, workers)
    old = run_of("dqn_prioritized_n_step", before, rollout_workers=number, capacity=64, learning_starts=8)
    new = run_of("dqn_prioritized_n_step", after, rollout_workers=max(after, workers), capacity=64, learning_starts=8)
    rng, blocks = np.random.default_rng(seed), number // before
    states = [
        state_of(rank, 4 // before, blocks, lengths[rank * blocks : (rank + 1) * blocks], rng) for rank in range(before)
    ]
    dealt = reshard(old, new, states)
    for n_step in (1, 2, 4):
        assert held(dealt, n_step) == held(states, n_step)
    for group in (states, dealt):
        assert sum(s["source"]["statistics"]["episodes"] for s in group) == sum(3 + rank for rank in range(before))
        assert sum(s["source"]["env_steps"] for s in group) == 7 * before * (before - 1) // 2
    assert all(state["totals"] == {"env_steps": 7} for state in dealt), "the run's counters stay"
    # The rings go on: what comes next pushes out the oldest rows, and never a younger one.
    for _ in range(5):
        following = chunk(rng, 2, 4)
        rings = [[restored(state) for state in group] for group in (states, dealt)]
        for group, buffers in zip((states, dealt), rings, strict=True):
            width = 4 // len(buffers)
            for rank, buffer in enumerate(buffers):
                buffer.add({key: value[:, rank * width : (rank + 1) * width] for key, value in following.items()})
                group[rank]["source"]["buffer"] = buffer.state_dict()
        assert without_priority(segments(rings[1], 3)) == without_priority(segments(rings[0], 3))


def rows_of(states: Sequence[State], drawn: bool) -> Counter[bytes]:
    """Return all rows of the learners' rollouts, or those that their batches will draw."""
    found: Counter[bytes] = Counter()
    for state in states:
        source = state["source"]
        rows = torch.cat([value.reshape(len(value), -1).float() for value in source["rows"].values()], dim=1)
        index = torch.cat(source["batches"]) if drawn else torch.arange(len(rows))
        found.update(row.numpy().tobytes() for row in rows[index])
    return found


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(("before", "after"), COUNTS)
def test_rows_and_what_the_epoch_has_not_seen_are_dealt_out(before: int, after: int, env: str) -> None:
    old, new = run_of("ppo", before, env=env), run_of("ppo", after, env=env)
    states, _ = trained(old, 9)
    left = len(states[0]["source"]["batches"])
    assert left and states[0]["source"]["epochs_left"]
    dealt = reshard(old, new, states)
    assert rows_of(dealt, drawn=False) == rows_of(states, drawn=False)
    assert rows_of(dealt, drawn=True).keys() == rows_of(states, drawn=True).keys()
    if env == "Pendulum-v1":  # without dead steps every row comes once
        assert rows_of(dealt, drawn=True) == rows_of(states, drawn=True)
    sizes = [len(state["source"]["rows"]["advantage"]) for state in dealt]
    assert max(sizes) - min(sizes) <= 1
    for state in dealt:
        source = state["source"]
        assert [len(batch) for batch in source["batches"]] == [32 // after] * left
        assert source["batches_per_epoch"] == states[0]["source"]["batches_per_epoch"]
    assert len({str(state["source"]["rng"]) for state in (*states, *dealt)}) == before + after
    collected = [sum(state["source"]["collected"] for state in group) for group in (states, dealt)]
    assert collected[0] == collected[1]
    assert all(state["source"]["collected"] >= state["source"]["env_steps"] for state in dealt)


@pytest.mark.parametrize("number", [3, 8])
def test_an_epoch_of_very_few_rows_still_gives_everyone_a_batch(number: int) -> None:
    old, new = run_of("ppo", 1), run_of("ppo", 4)
    states, _ = trained(old, 9)
    source = states[0]["source"]
    source["rows"] = {name: value[:number] for name, value in source["rows"].items()}
    source["batches"] = [torch.tensor([1]).expand(32)]
    dealt = [state["source"] for state in reshard(old, new, states)]
    assert torch.equal(dealt[0]["rows"]["advantage"][:1], source["rows"]["advantage"][1:2])
    for rank, own in enumerate(dealt):
        (batch,) = own["batches"]
        rows = len(own["rows"]["advantage"])
        assert len(batch) == 8 and rows == max(1, number // 4)
        # Who has nothing left that the epoch has not seen draws from everything.
        assert set(batch.tolist()) == (set(range(rows)) if rank else {0})


def test_trajectories_that_wait_are_dealt_out_by_age() -> None:
    old, new = run_of("impala", 2), run_of("impala", 4)
    states = []
    for rank in range(2):
        pending = [
            {
                "rows": {"row": torch.arange(count) + 100 * rank + 10 * version},
                "steps": np.arange(count) + 100 * rank + 10 * version,
                "version": version,
            }
            for version, count in ((4, 3 + rank), (5, 2), (6, 5))
        ]
        pool = {"workers": [RolloutWorker.fresh_state(0, rank, 2, 0)], "turn": 0}
        statistics = {"returns": [], "lengths": [], "episodes": 1}
        drained = [{"version": 7 - rank, "number": 10 * rank + number} for number in range(3)]
        source = {"statistics": statistics, "env_steps": 11, "samples": 9, "drained": drained, "draws": 7}
        source.update(pending=pending, lags={0: 3, 2 + rank: 5}, dropped=rank)
        state = {"learner": {"updates": 7}, "own": NOTHING, "source": source, "pool": pool, "random": {}}
        states.append({**state, "totals": {}})
    dealt = [state["source"] for state in reshard(old, new, states)]
    everything = [[int(row) for pending in source["pending"] for row in pending["rows"]["row"]] for source in dealt]
    assert sorted(row for rows in everything for row in rows) == sorted(
        int(row) for state in states for pending in state["source"]["pending"] for row in pending["rows"]["row"]
    )
    assert [len(rows) for rows in everything] == [6, 5, 5, 5]
    for source in dealt:
        versions = [pending["version"] for pending in source["pending"]]
        assert versions == sorted(set(versions))
        for pending in source["pending"]:
            assert pending["rows"]["row"].tolist() == pending["steps"].tolist(), "rows keep their numbers of steps"
            assert all(row % 100 // 10 == pending["version"] for row in pending["steps"].tolist())
        assert source["draws"] == 7
    assert [[rollout["number"] for rollout in source["drained"]] for source in dealt] == [[10, 1], [11, 2], [12], [0]]
    lags = sum((Counter(source["lags"]) for source in dealt), Counter())
    assert lags == {0: 6, 2: 5, 3: 5} and sum(source["dropped"] for source in dealt) == 1


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 64))
def test_shares_are_even_and_ordered(total: int, more: int, count: int) -> None:
    shares, larger = deal(total, count), deal(total + more, count)
    assert sum(shares) == total and max(shares) - min(shares) <= 1
    assert all(small <= large for small, large in zip(shares, larger, strict=True))


# --- rollout workers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2), (1, 4)])
def test_another_number_of_rollout_workers_continues_a_run(before: int, after: int) -> None:
    old = run_of("dqn_workers", 1, rollout_workers=before)
    new = run_of("dqn_workers", 1, rollout_workers=after)
    states, counters = trained(old, 30)
    dealt = reshard(old, new, states)
    assert held(dealt, 3) == held(states, 3)
    assert equal(dealt[0]["source"]["buffer"]["rng"], states[0]["source"]["buffer"]["rng"])
    drained = [[rollout for s in group for rollout in s["source"]["drained"]] for group in (states, dealt)]
    assert sum(r["env_steps"] for r in drained[0]) == sum(r["env_steps"] for r in drained[1]) > 0
    learners = Learners(new, dealt)
    assert learners.counters() == counters
    learners.train(60)
    learners.close()


def test_rollouts_are_put_side_by_side_for_other_workers() -> None:
    def rollout(worker: int, start: int, restarted: bool = False) -> State:
        reward = np.arange(start, start + 4, dtype=np.float32).reshape(2, 2)
        arrays = {"reward": reward, "valid": np.ones((2, 2), bool)}
        episode = [float(start), 1]
        return {
            "arrays": arrays,
            "episodes": [episode],
            "env_steps": 4,
            "version": start,
            "worker": worker,
            "restarted": restarted,
        }

    drained = [rollout(0, 0), rollout(1, 10), rollout(0, 20)]
    whole = by_other_workers(drained, 2, 1)
    assert [r["arrays"]["reward"].tolist() for r in whole] == [
        [[0, 1, 10, 11], [2, 3, 12, 13]],
        [[20, 21, 0, 0], [22, 23, 0, 0]],
    ]
    assert whole[1]["arrays"]["valid"].tolist() == [[True, True, False, False]] * 2
    assert [r["env_steps"] for r in whole] == [8, 4] and [r["version"] for r in whole] == [0, 20]
    assert [len(r["episodes"]) for r in whole] == [2, 1]
    assert [r["restarted"] for r in whole] == [False, True], "no segment runs into steps that are not there"
    again = by_other_workers([rollout(0, 0, restarted=True), rollout(1, 10), rollout(0, 20), rollout(1, 30)], 2, 1)
    assert [r["restarted"] for r in again] == [True, False]
    single = by_other_workers(drained[:2], 2, 4)
    assert [r["arrays"]["reward"].tolist() for r in single] == [[[0], [2]], [[1], [3]], [[10], [12]], [[11], [13]]]
    told = [(r["worker"], r["env_steps"], len(r["episodes"])) for r in single]
    assert told == [(0, 2, 2), (1, 2, 0), (2, 2, 0), (3, 2, 0)]
