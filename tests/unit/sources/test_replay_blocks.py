"""Replay buffers that several writers fill at their own pace, against one plain buffer for each writer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay import chunk

from examples import examples
from rayloom.sources.prioritized_buffer import PrioritizedReplayBuffer
from rayloom.sources.replay_buffer import ReplayBuffer

Array = np.ndarray[Any, np.dtype[Any]]
WIDTH, N_STEP = 2, 3


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def of_writer(writer: int, first: int, marks: list[str]) -> dict[str, Array]:
    """Return a chunk whose environments are those of the writer."""
    made = chunk(first, marks)
    for name in ("observation", "next_observation"):
        made[name][..., 1] += writer * WIDTH
    return made


def segments(buffer: ReplayBuffer, draws: int = 600) -> dict[tuple[float, ...], tuple[Any, ...]]:
    """Return every segment that can be drawn, by its first observation."""
    rows = buffer.sample(draws, N_STEP)
    found: dict[tuple[float, ...], tuple[Any, ...]] = {}
    for i in range(draws):
        value = tuple(
            tuple(np.atleast_1d(rows[name][i]).tolist())
            for name in ("action", "reward", "length", "terminated", "next_observation")
        )
        assert found.setdefault(tuple(rows["observation"][i].tolist()), value) == value
    return found


_EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.text("..TX-", min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=6)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=examples(80, 20), deadline=None)
@given(_EVENTS, st.integers(2, 6), st.booleans(), st.sets(st.integers(0, 11)))
def test_blocks_equal_a_buffer_for_each_writer(
    events: list[tuple[int, list[str]]], rows: int, prioritized: bool, boundaries: set[int]
) -> None:
    writers = 3
    capacity = rows * WIDTH * writers
    whole = (
        PrioritizedReplayBuffer(capacity, WIDTH * writers, rng(), 0.6, writers)
        if prioritized
        else ReplayBuffer(capacity, WIDTH * writers, rng(), writers)
    )
    parts = [ReplayBuffer(rows * WIDTH, WIDTH, rng(1)) for _ in range(writers)]
    clocks = [0] * writers
    for number, (writer, marks) in enumerate(events):
        if number in boundaries:
            whole.mark_boundary(writer)
            parts[writer].mark_boundary()
        made = of_writer(writer, clocks[writer], marks)
        clocks[writer] += len(marks)
        whole.add(made, writer)
        parts[writer].add(made)
    assert len(whole) == sum(len(part) for part in parts)
    if len(whole):
        expected: dict[tuple[float, ...], tuple[Any, ...]] = {}
        for part in parts:
            if len(part):
                expected |= segments(part)
        assert segments(whole) == expected
        restored = ReplayBuffer(capacity, WIDTH * writers, rng(7), writers)
        if not prioritized:
            restored.load_state_dict(whole.state_dict())
            # The rows beyond a writer's own are no part of the state, whatever they were.
            np.testing.assert_array_equal(whole.sample(64, N_STEP)["action"], restored.sample(64, N_STEP)["action"])


def uneven(prioritized: bool, seed: int = 0) -> ReplayBuffer:
    """Return a buffer of 3 blocks of 2 environments with 12, 5 and 1 time steps, of which every fourth is dead."""
    buffer = PrioritizedReplayBuffer(72, 6, rng(seed), 1.0, 3) if prioritized else ReplayBuffer(72, 6, rng(seed), 3)
    for writer, steps in enumerate((12, 5, 1)):
        buffer.add(of_writer(writer, 0, ["--" if time % 4 == 3 else ".." for time in range(steps)]), writer)
    return buffer


@pytest.mark.parametrize("prioritized", [False, True])
def test_sampling_is_uniform_over_all_writers_however_far_each_is(prioritized: bool) -> None:
    buffer = uneven(prioritized)
    assert len(buffer) == 2 * (9 + 4 + 1)
    draws = 28_000
    rows = buffer.sample(draws, 1)
    values, counts = np.unique(rows["observation"], axis=0, return_counts=True)
    assert len(values) == 28
    assert not any(time % 4 == 3 for time in values[:, 0])
    deviation = ((counts - draws / 28) ** 2 / (draws / 28)).sum()
    assert deviation < 60, "chi-square with 27 degrees of freedom exceeds 60 with a probability below 0.001"
    if prioritized:
        np.testing.assert_allclose(rows["weight"], 1.0, rtol=1e-4)


def test_priorities_belong_to_the_transitions_that_were_drawn() -> None:
    buffer = uneven(True)
    assert isinstance(buffer, PrioritizedReplayBuffer)
    for _ in range(40):
        rows = buffer.sample(32, 2)
        wanted = (rows["observation"] == [4, 2]).all(axis=1) | (rows["observation"] == [0, 5]).all(axis=1)
        buffer.update_priorities(rows["index"], wanted.astype(float))
    found = {tuple(row) for row in buffer.sample(200, 1)["observation"].tolist()}
    assert found == {(4.0, 2.0), (0.0, 5.0)}
    # What writer 1 overwrites in a whole turn of its ring loses its priority, what writer 2 keeps does not.
    buffer.add(of_writer(1, 100, [".."] * 12), 1)
    rows = buffer.sample(2500, 1)["observation"]
    fresh = {(100.0 + time, environment) for time in range(12) for environment in (2.0, 3.0)}
    assert {tuple(row) for row in rows.tolist()} == {(0.0, 5.0)} | fresh


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_restored_buffer_with_blocks_goes_on_identically(prioritized: bool) -> None:
    buffer, restored = uneven(prioritized), uneven(prioritized, seed=5)
    buffer.add(of_writer(0, 12, [".T", "X."]), 0)  # over the end of its ring
    if isinstance(buffer, PrioritizedReplayBuffer):
        rows = buffer.sample(16, 2)
        buffer.update_priorities(rows["index"], rows["reward"][:, 0])
    buffer.mark_boundary(1)
    restored.load_state_dict(buffer.state_dict())
    for step in range(8):
        before, after = buffer.sample(16, 3), restored.sample(16, 3)
        for name, value in before.items():
            np.testing.assert_array_equal(value, after[name])
        for each, drawn in ((buffer, before), (restored, after)):
            if isinstance(each, PrioritizedReplayBuffer):
                each.update_priorities(drawn["index"], drawn["reward"][:, 0] + step)
            each.add(of_writer(step % 3, 20 + step * 3, ["..", ".X", "-."]), step % 3)
    assert len(buffer) == len(restored)


def test_all_columns_at_once_go_behind_each_writers_own() -> None:
    buffer = ReplayBuffer(24, 4, rng(), 2)
    parts = [ReplayBuffer(12, 2, rng()) for _ in range(2)]
    everyone = chunk(0, ["....", "..X."])
    buffer.add(everyone)
    alone = of_writer(1, 2, ["..", ".."])
    buffer.add(alone, 1)
    later = chunk(4, ["....", "....", "...."])
    buffer.add(later)
    for writer, part in enumerate(parts):
        columns = slice(writer * 2, writer * 2 + 2)
        part.add({name: value[:, columns] for name, value in everyone.items()})
        if writer:
            part.add(alone)
        part.add({name: value[:, columns] for name, value in later.items()})
    assert segments(buffer) == {**segments(parts[0]), **segments(parts[1])}
    assert len(buffer) == 10 + 12 and buffer.rows == 6


def test_equal_heads_after_unequal_turns_are_told_apart() -> None:
    buffer = ReplayBuffer(8, 2, rng(), 2)
    for first, steps in ((0, 3), (3, 2)):  # a turn of 4 rows and one more
        buffer.add({name: value[:, :1] for name, value in chunk(first, [".."] * steps).items()}, 0)
    buffer.add({name: value[:, 1:] for name, value in chunk(0, [".."]).items()}, 1)
    assert len(buffer) == 5
    buffer.add(chunk(5, [".."]))
    assert len(buffer) == 6 and buffer.state_dict()["filled"] == [4, 2]
    assert set(segments(buffer)) == {(2, 0), (3, 0), (4, 0), (5, 0), (0, 1), (5, 1)}
