"""The ring buffers against hand-worked segments, a naive list of transitions, and exact probabilities."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from rayloom.errors import UserError
from rayloom.sources.prioritized_buffer import PrioritizedReplayBuffer
from rayloom.sources.replay_buffer import ReplayBuffer
from rayloom.sources.sum_tree import SumTree

Array = np.ndarray[Any, np.dtype[Any]]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def chunk(first: int, marks: list[str]) -> dict[str, Array]:
    """Make a chunk from one string for each time step, one letter for each environment.

    Letters: "." goes on, "T" terminated, "X" truncated, "-" a dead step. The observation is (time, environment), the
    next one (time + 0.5, environment), the action time * 10 + environment, the reward time + environment / 10.
    """
    letters = np.array([list(row) for row in marks])
    time, env = np.meshgrid(np.arange(first, first + len(marks)), np.arange(letters.shape[1]), indexing="ij")
    return {
        "observation": np.stack([time, env], axis=-1).astype(np.float32),
        "action": (time * 10 + env).astype(np.int64),
        "reward": time + env / 10,
        "next_observation": np.stack([time + 0.5, env], axis=-1).astype(np.float32),
        "terminated": letters == "T",
        "truncated": letters == "X",
        "valid": letters != "-",
        "first": np.roll(np.isin(letters, ["T", "X"]), 1, axis=0) & (letters != "-"),
        "log_probability": np.zeros(letters.shape),
    }


def segments(buffer: ReplayBuffer, n_step: int, draws: int = 400) -> dict[tuple[int, int], tuple[Any, ...]]:
    """Return (reward, length, terminated, next observation) of every segment that can be drawn, by (time, env)."""
    rows = buffer.sample(draws, n_step)
    found: dict[tuple[int, int], tuple[Any, ...]] = {}
    for i in range(draws):
        time, env = (int(x) for x in rows["observation"][i])
        assert rows["action"][i] == time * 10 + env
        reward = tuple(round(float(x), 3) for x in rows["reward"][i])
        last = tuple(rows["next_observation"][i].tolist())
        value = (reward, int(rows["length"][i]), bool(rows["terminated"][i]), last)
        assert found.setdefault((time, env), value) == value
    return found


def test_segments_by_hand() -> None:
    buffer = ReplayBuffer(capacity=100, num_envs=2, rng=rng())
    buffer.add(chunk(0, ["..", ".T", "X-", "-."]))
    assert len(buffer) == 6
    assert segments(buffer, 3) == {
        (0, 0): ((0, 1, 2), 3, False, (2.5, 0)),
        (1, 0): ((1, 2, 0), 2, False, (2.5, 0)),  # truncated: bootstraps from its true last observation
        (2, 0): ((2, 0, 0), 1, False, (2.5, 0)),
        (0, 1): ((0.1, 1.1, 0), 2, True, (1.5, 1)),
        (1, 1): ((1.1, 0, 0), 1, True, (1.5, 1)),
        (3, 1): ((3.1, 0, 0), 1, False, (3.5, 1)),  # the newest row
    }
    assert segments(buffer, 1)[0, 1] == ((0.1,), 1, False, (0.5, 1))
    assert segments(buffer, 1)[1, 1] == ((1.1,), 1, True, (1.5, 1))


def test_the_end_of_a_segment_is_open_until_the_next_row() -> None:
    buffer = ReplayBuffer(capacity=10, num_envs=1, rng=rng())
    buffer.add(chunk(0, ["."]))
    assert segments(buffer, 2)[0, 0] == ((0, 0), 1, False, (0.5, 0))
    buffer.add(chunk(1, ["."]))
    assert segments(buffer, 2)[0, 0] == ((0, 1), 2, False, (1.5, 0))


def test_wrap_around_by_hand() -> None:
    buffer = ReplayBuffer(capacity=5, num_envs=1, rng=rng())  # rows hold the times 5 6 2 3 4
    buffer.add(chunk(0, [".", ".", ".", "."]))
    buffer.add(chunk(4, [".", ".", "."]))
    assert len(buffer) == 5
    assert segments(buffer, 3) == {
        (2, 0): ((2, 3, 4), 3, False, (4.5, 0)),
        (3, 0): ((3, 4, 5), 3, False, (5.5, 0)),  # over the end of the array
        (4, 0): ((4, 5, 6), 3, False, (6.5, 0)),
        (5, 0): ((5, 6, 0), 2, False, (6.5, 0)),  # never over the write head into time 2
        (6, 0): ((6, 0, 0), 1, False, (6.5, 0)),
    }
    assert segments(buffer, 9)[2, 0][1] == 5


def test_boundaries_end_segments_and_bootstrap() -> None:
    buffer = ReplayBuffer(capacity=100, num_envs=2, rng=rng())
    buffer.mark_boundary()  # nothing to end yet
    buffer.add(chunk(0, ["..", ".T"]))
    buffer.mark_boundary()
    buffer.add(chunk(2, ["..", ".."]))
    found = segments(buffer, 4)
    assert found[0, 0] == ((0, 1, 0, 0), 2, False, (1.5, 0))
    assert found[0, 1] == ((0.1, 1.1, 0, 0), 2, True, (1.5, 1))
    assert found[2, 0] == ((2, 3, 0, 0), 2, False, (3.5, 0))


def test_capacity_is_whole_rows_and_long_chunks_keep_their_end() -> None:
    buffer = ReplayBuffer(capacity=7, num_envs=2, rng=rng())
    assert buffer.rows == 3
    buffer.add(chunk(0, [".."]))
    buffer.add(chunk(1, [".."] * 8))
    assert sorted({time for time, _ in segments(buffer, 2)}) == [6, 7, 8]
    assert segments(buffer, 3)[6, 1] == ((6.1, 7.1, 8.1), 3, False, (8.5, 1))
    with pytest.raises(UserError, match=r"source\.capacity.*8"):
        ReplayBuffer(capacity=7, num_envs=8, rng=rng())


class NaiveReplay:
    """The oracle: one list of transitions for each environment, cut to the newest rows."""

    def __init__(self, rows: int, num_envs: int) -> None:
        self.rows = rows
        self.lists: list[list[dict[str, Any]]] = [[] for _ in range(num_envs)]

    def add(self, transitions: dict[str, Array]) -> None:
        for t in range(len(transitions["reward"])):
            for env, kept in enumerate(self.lists):
                kept.append({key: values[t, env] for key, values in transitions.items()} | {"boundary": False})
                del kept[: -self.rows]

    def mark_boundary(self) -> None:
        for kept in self.lists:
            if kept:
                kept[-1]["boundary"] = True

    def segments(self, n_step: int) -> Iterator[tuple[tuple[int, int], tuple[Any, ...]]]:
        for kept in self.lists:
            for i, start in enumerate(kept):
                if not start["valid"]:
                    continue
                steps = []
                for row in kept[i : i + n_step]:
                    steps.append(row)
                    if row["terminated"] or row["truncated"] or row["boundary"]:
                        break
                rewards = [round(float(np.float32(row["reward"])), 3) for row in steps] + [0.0] * (n_step - len(steps))
                last = tuple(steps[-1]["next_observation"].tolist())
                place = tuple(int(x) for x in start["observation"])
                yield place, (tuple(rewards), len(steps), bool(steps[-1]["terminated"]), last)  # type: ignore[misc]


rows_of_marks = st.integers(1, 3).flatmap(
    lambda n: st.lists(
        st.lists(st.lists(st.sampled_from("...TX"), min_size=n, max_size=n), min_size=1, max_size=6),
        min_size=1,
        max_size=6,
    )
)


def with_dead_steps(chunks: list[list[list[str]]]) -> list[list[list[str]]]:
    """Put a dead step after each end, as NEXT_STEP environments do."""
    dead = [False] * len(chunks[0][0])
    for rows in chunks:
        for row in rows:
            row[:] = ["-" if was else letter for letter, was in zip(row, dead, strict=True)]
            dead = [letter in "TX" for letter in row]
    return chunks


@settings(max_examples=examples(120, 30), deadline=None, derandomize=True)
@given(rows_of_marks, st.integers(1, 7), st.integers(1, 4), st.sets(st.integers(0, 5)), st.booleans())
def test_ring_equals_naive_lists(
    chunks: list[list[list[str]]], rows: int, n_step: int, boundaries: set[int], dead: bool
) -> None:
    num_envs = len(chunks[0][0])
    buffer = ReplayBuffer(rows * num_envs, num_envs, rng())
    naive = NaiveReplay(rows, num_envs)
    time = 0
    for number, marks in enumerate(with_dead_steps(chunks) if dead else chunks):
        added = chunk(time, ["".join(row) for row in marks])
        time += len(marks)
        buffer.add(added)
        naive.add(added)
        if number in boundaries:
            buffer.mark_boundary()
            naive.mark_boundary()
        truth = dict(naive.segments(n_step))
        assert len(buffer) == len(truth)
        if truth:
            assert segments(buffer, n_step, draws=500) == truth


def chi_square_bound(degrees: int) -> float:
    """The 99.99 % point of the chi-square distribution (Wilson and Hilferty's approximation)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.719 * math.sqrt(2 / (9 * degrees))) ** 3


def counts_by_time(buffer: ReplayBuffer, draws: int, **arguments: Any) -> dict[int, int]:
    times = buffer.sample(draws, 1, **arguments)["action"]
    return dict(zip(*(part.tolist() for part in np.unique(times, return_counts=True)), strict=True))


def test_uniform_over_valid_transitions() -> None:
    # Half of the rows are dead, unevenly spread: mapping a dead draw to its neighbour would favour the neighbours.
    buffer = ReplayBuffer(20, 1, rng(4))
    buffer.add(chunk(0, list("....T-T-T-T-T-T-X-.T-.")[:20]))
    draws, valid = 60_000, len(buffer)
    counts = counts_by_time(buffer, draws)
    assert len(counts) == valid == 13
    statistic = sum((count - draws / valid) ** 2 / (draws / valid) for count in counts.values())
    assert 0.5 < statistic < chi_square_bound(valid - 1)


def test_types_are_compact_and_rows_are_copies() -> None:
    buffer = ReplayBuffer(8, 2, rng())
    added = {key: values.astype(np.float64) if values.ndim == 3 else values for key, values in chunk(0, [".."]).items()}
    buffer.add(added)
    added["observation"][:] = 99
    rows = buffer.sample(4, 2)
    assert (rows["observation"] < 99).all()
    types = {key: values.dtype for key, values in rows.items()}
    assert types == {
        "observation": np.float32,
        "action": np.int64,
        "reward": np.float32,
        "length": np.int64,
        "terminated": np.bool_,
        "next_observation": np.float32,
    }
    assert {key: values.shape for key, values in rows.items()}["reward"] == (4, 2)
    images = chunk(0, [".."])
    for key in ("observation", "next_observation"):
        images[key] = np.zeros((1, 2, 4, 5, 5), dtype=np.uint8)
    buffer = ReplayBuffer(8, 2, rng())
    buffer.add(images)
    assert buffer.sample(3, 1)["observation"].dtype == np.uint8
    assert buffer.sample(3, 1)["observation"].shape == (3, 4, 5, 5)


@pytest.mark.parametrize(("prioritized", "extra"), [(False, 0), (True, 8 * 16 / 15)])
def test_a_million_cartpole_transitions_fit(prioritized: bool, extra: float) -> None:
    capacity = 1_000_000
    transition = 2 * 4 * 4 + 8 + 4 + 4  # two observations, action, reward, four flags (bytes)
    added = {key: np.repeat(values, 125, axis=0) for key, values in chunk(0, ["." * 8]).items()}
    for key in ("observation", "next_observation"):
        added[key] = np.zeros((125, 8, 4), dtype=np.float32)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        buffer = PrioritizedReplayBuffer(capacity, 8, rng(), 0.6) if prioritized else ReplayBuffer(capacity, 8, rng())
        for _ in range(capacity // 1_000 + 5):
            buffer.add(added)
        grown, peak = (value - before for value in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert len(buffer) == capacity
    assert grown < 1.1 * capacity * (transition + extra)
    assert peak < 1.1 * capacity * (transition + extra)


def fill(buffer: ReplayBuffer, first: int, seed: int) -> None:
    generator = rng(seed)
    marks = generator.choice(list("....TX"), size=(5, buffer.num_envs)).tolist()
    buffer.add(chunk(first, ["".join(row) for row in marks]))


def drawn(buffer: ReplayBuffer) -> list[dict[str, Array]]:
    """Everything that follows: samples, priorities, further rows, a boundary."""
    found = []
    for step in range(6):
        rows = buffer.sample(16, 3)
        if isinstance(buffer, PrioritizedReplayBuffer):
            buffer.update_priorities(rows["index"], rows["reward"][:, 0] + step)
        found.append(rows)
        fill(buffer, 100 + step * 5, seed=step)
        if step == 2:
            buffer.mark_boundary()
    return found


def fresh(prioritized: bool, capacity: int = 60, seed: int = 0) -> ReplayBuffer:
    return PrioritizedReplayBuffer(capacity, 3, rng(seed), 0.7) if prioritized else ReplayBuffer(capacity, 3, rng(seed))


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("chunks", [1, 3, 7])
@pytest.mark.parametrize("boundary", [False, True])
def test_a_restored_buffer_goes_on_identically(prioritized: bool, chunks: int, boundary: bool) -> None:
    buffer = fresh(prioritized)
    for number in range(chunks):
        fill(buffer, number * 5, seed=50 + number)
        rows = buffer.sample(8, 2)
        if isinstance(buffer, PrioritizedReplayBuffer):
            buffer.update_priorities(rows["index"], rows["reward"][:, 0])
    if boundary:
        buffer.mark_boundary()
    state = buffer.state_dict()
    assert len(state["arrays"]["reward"]) == min(chunks * 5, 20)
    expected = drawn(buffer)
    restored = fresh(prioritized, seed=9)
    fill(restored, 0, seed=1)  # what it held before is gone
    restored.load_state_dict(state)
    for before, after in zip(expected, drawn(restored), strict=True):
        assert before.keys() == after.keys()
        for key in before:
            np.testing.assert_array_equal(before[key], after[key])
    assert len(restored) == len(buffer)


@pytest.mark.parametrize("prioritized", [False, True])
def test_an_empty_buffer_can_be_restored(prioritized: bool) -> None:
    state = fresh(prioritized).state_dict()
    restored = fresh(prioritized, seed=3)
    fill(restored, 0, seed=1)
    restored.load_state_dict(state)
    assert len(restored) == 0
    whole = fresh(prioritized)
    fill(whole, 0, seed=2)
    fill(restored, 0, seed=2)
    np.testing.assert_array_equal(whole.sample(9, 2)["action"], restored.sample(9, 2)["action"])


def test_states_are_copies_or_views() -> None:
    buffer = fresh(True)
    fill(buffer, 0, seed=0)
    copied, viewed = buffer.state_dict(), buffer.state_dict(copy=False)
    for number in range(1, 5):
        fill(buffer, number * 5, seed=number)
    assert copied["arrays"]["action"][0, 0] == 0
    assert viewed["arrays"]["action"].base is not None
    buffer.update_priorities(np.array([0]), np.array([7.0]))
    assert copied["leaves"][0] != viewed["leaves"][0]


def test_another_size_cannot_be_restored() -> None:
    buffer = fresh(False)
    fill(buffer, 0, seed=0)
    with pytest.raises(UserError, match=r"source\.capacity.*20 rows of 3.*30 of 3"):
        fresh(False, capacity=90).load_state_dict(buffer.state_dict())


# --- priorities ------------------------------------------------------------------------------------------------------

ALPHA = 0.5
EPSILON = 1e-6


def prioritized_by_hand() -> PrioritizedReplayBuffer:
    """Slots 0 to 5; slot 3 is dead; priorities 1 4 9 - 16 0."""
    buffer = PrioritizedReplayBuffer(6, 1, rng(2), ALPHA)
    buffer.add(chunk(0, list("..T-..")))
    buffer.update_priorities(np.array([0, 1, 2, 3, 4, 5]), np.array([1.0, 4, 9, 25, 16, 0]))
    return buffer


def test_frequencies_follow_the_priorities() -> None:
    buffer, batches, batch = prioritized_by_hand(), 8_000, 8
    counts = np.zeros(6)
    for _ in range(batches):
        index = buffer.sample(batch, 1, beta=1.0)["index"]
        np.add.at(counts, index, 1)
    assert counts[3] == 0
    weights = np.array([1, 2, 3, 4, EPSILON**0.5])
    expected = batches * batch * weights / weights.sum()
    observed = counts[[0, 1, 2, 4, 5]]
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < chi_square_bound(4)
    assert observed[4] > 0


def test_strata_cover_the_priorities() -> None:
    buffer = PrioritizedReplayBuffer(64, 1, rng(), 1.0)
    buffer.add(chunk(0, ["."] * 64))
    assert sorted(buffer.sample(64, 1)["index"].tolist()) == list(range(64))


def test_importance_weights_by_hand() -> None:
    buffer = prioritized_by_hand()
    total = 1 + 2 + 3 + 4 + EPSILON**0.5
    for beta in (0.0, 0.4, 1.0):
        rows = buffer.sample(50, 1, beta=beta)
        assert rows["weight"].dtype == np.float32
        root = {0: 1, 1: 2, 2: 3, 4: 4, 5: EPSILON**0.5}
        for index, weight in zip(rows["index"].tolist(), rows["weight"].tolist(), strict=True):
            # five valid transitions; P = root / total
            assert weight == pytest.approx((5 * root[index] / total) ** -beta, rel=1e-4)
            assert rows["action"][rows["index"].tolist().index(index)] == index * 10


def test_weights_do_not_depend_on_the_batch() -> None:
    buffer = prioritized_by_hand()
    seen: dict[int, float] = {}
    for batch_size in (1, 3, 20):
        rows = buffer.sample(batch_size, 2, beta=0.5)
        for index, weight in zip(rows["index"].tolist(), rows["weight"].tolist(), strict=True):
            assert seen.setdefault(index, weight) == weight
    assert len(seen) > 2


def test_new_transitions_get_the_largest_priority_so_far() -> None:
    buffer = PrioritizedReplayBuffer(64, 1, rng(), 1.0)
    buffer.add(chunk(0, ["."] * 2))
    buffer.update_priorities(np.array([0, 1]), np.array([3.0, 0.5]))
    buffer.update_priorities(np.array([0]), np.array([0.25]))
    buffer.add(chunk(2, [".", "T", "-"]))
    counts = np.zeros(5)
    for _ in range(500):
        np.add.at(counts, buffer.sample(20, 1, beta=1.0)["index"], 1)
    np.testing.assert_allclose(counts / counts.sum(), np.array([0.25, 0.5, 3, 3, 0]) / 6.75, atol=0.02)


def test_of_equal_slots_the_last_priority_counts() -> None:
    buffer = PrioritizedReplayBuffer(2, 1, rng(), 1.0)
    buffer.add(chunk(0, [".", "."]))
    buffer.update_priorities(np.array([0, 1, 0]), np.array([50.0, 1.0, 0.0]))
    assert (buffer.sample(50, 1)["index"] == 1).all()


def test_overwritten_slots_lose_their_priority() -> None:
    buffer = PrioritizedReplayBuffer(4, 1, rng(), 1.0)
    buffer.add(chunk(0, [".", ".", ".", "T"]))
    buffer.add(chunk(4, ["-", ".", "T"]))
    buffer.add(chunk(7, ["-"]))  # the ring now holds dead 5 6 dead
    assert len(buffer) == 2
    assert set(buffer.sample(200, 1)["action"].tolist()) == {50, 60}


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_priorities_must_be_finite_and_non_negative(bad: float) -> None:
    with pytest.raises(ValueError, match="finite and non-negative"):
        prioritized_by_hand().update_priorities(np.array([0, 1]), np.array([1.0, bad]))


@settings(max_examples=examples(80, 25), deadline=None, derandomize=True)
@given(st.integers(1, 700), st.integers(0, 2**32 - 1), st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_sum_tree_equals_a_plain_sum(size: int, seed: int, updates: list[int]) -> None:
    generator = rng(seed)
    tree, leaves = SumTree(size), np.zeros(size)
    for count in updates:
        index = generator.integers(0, size, count)
        values = generator.random(count) * (generator.random(count) < 0.7)
        tree.set(index, values)
        for slot, value in zip(index, values, strict=True):
            leaves[slot] = value
    np.testing.assert_array_equal(tree.values[:size], leaves)
    assert tree.total == pytest.approx(leaves.sum(), rel=1e-12)
    rebuilt = SumTree(size)
    rebuilt.set(np.arange(size), leaves)
    assert rebuilt.total == tree.total
    if tree.total > 0:
        edges = np.concatenate([[0.0], np.cumsum(leaves)])
        positive = np.flatnonzero(leaves)
        middles = (edges[:-1] + leaves / 2)[positive]
        np.testing.assert_array_equal(tree.find(middles), positive)
        extremes = tree.find(np.array([0.0, tree.total, np.nextafter(tree.total, 0)]))
        np.testing.assert_array_equal(extremes, positive[[0, -1, -1]])
