"""Sequences from replay: burn-in, ends of episodes, whole episodes, the write head; against lists of transitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay import chunk

from cases import case
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom.sources.prioritized_buffer import PrioritizedReplayBuffer
from rayloom.sources.replay_buffer import ReplayBuffer

Array = np.ndarray[Any, np.dtype[Any]]


def marked(first: int, marks: list[str], before: list[str]) -> dict[str, Array]:
    """Return a chunk whose `first` follows from the letters; `before` holds the last letter of each environment."""
    made = chunk(first, marks)
    letters = np.array([before, *[list(row) for row in marks]])
    over = np.isin(letters[:-1], ["T", "X", "|", "-"])
    # A dead step follows an end in NEXT_STEP; then the one after it begins.
    made["first"] = over & (letters[1:] != "-")
    return made


def by_hand(marks: list[str], start: int, length: int, burn_in: int, whole: bool, oldest: int) -> list[tuple[Any, ...]]:
    """Return (time or None, first, truncated) of each step of a sequence of one environment."""
    found: list[tuple[Any, ...]] = []
    firsts = [t == 0 or (marks[t - 1] in "TX-" and marks[t] != "-") for t in range(len(marks))]
    for t in range(start - burn_in, start + length):
        there = oldest <= t < len(marks) and marks[t] != "-"
        if t < start:
            there = there and not any(firsts[t + 1 : start + 1])
        elif whole:
            there = there and not any(marks[u] in "TX" for u in range(start, t))
        newest = t == len(marks) - 1
        found.append((t, firsts[t], marks[t] == "X" or (newest and marks[t] != "T")) if there else (None, False, False))
    return found


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    marks=st.lists(st.sampled_from("...TX-"), min_size=1, max_size=14),
    rows=st.integers(2, 9),
    length=st.integers(1, 4),
    burn_in=st.integers(0, 3),
    whole=st.booleans(),
)
def test_sequences_are_those_of_a_list(marks: list[str], rows: int, length: int, burn_in: int, whole: bool) -> None:
    burn_in = 0 if whole else burn_in
    buffer = ReplayBuffer(rows, 1, np.random.default_rng(0), fields={"log_probability"})
    before = ["X"]
    for t, letter in enumerate(marks):
        buffer.add(marked(t, [letter], before))
        before = [letter]
    oldest = max(0, len(marks) - rows)
    starts = [t for t in range(oldest, len(marks)) if marks[t] != "-"]
    if not starts:
        return
    slots = np.array(starts) % rows
    found = buffer._sequences(slots, length, burn_in, whole)
    assert found["burn_in"].tolist() == [[True] * burn_in + [False] * length] * len(starts)
    for number, start in enumerate(starts):
        expected = by_hand(marks, start, length, burn_in, whole, oldest)
        valid = [time is not None for time, _, _ in expected]
        assert found["valid"][number].tolist() == valid
        assert found["first"][number].tolist() == [first for _, first, _ in expected]
        assert found["truncated"][number].tolist() == [truncated for _, _, truncated in expected]
        times = [time if time is not None else 0 for time, _, _ in expected]
        assert found["reward"][number].tolist() == times
        assert found["observation"][number, :, 0].tolist() == times
        successors = [time + 0.5 if alive else 0 for time, alive in zip(times, valid, strict=True)]
        assert found["next_observation"][number, :, 0].tolist() == successors
        assert found["action"][number].tolist() == [10 * time for time in times]
        assert "log_probability" in found


def test_draws_are_uniform_over_starts_and_over_episodes() -> None:
    buffer = ReplayBuffer(40, 2, np.random.default_rng(0))
    buffer.add(marked(0, ["..", ".T", "T-", "..", "X."], ["X", "X"]))
    episodes = buffer.sample_sequences(3000, 4, 0, whole=True)
    begun, counts = np.unique(episodes["observation"][:, 0], axis=0, return_counts=True)
    assert begun.tolist() == [[0, 0], [0, 1], [3, 0], [3, 1]]
    assert counts.min() > 650
    assert episodes["first"][:, 0].all() and not episodes["first"][:, 1:].any()
    lengths = {tuple(o): int(v.sum()) for o, v in zip(episodes["observation"][:, 0], episodes["valid"], strict=True)}
    assert lengths == {(0, 0): 3, (0, 1): 2, (3, 0): 2, (3, 1): 2}
    anywhere = buffer.sample_sequences(2000, 2, 1)
    assert len(np.unique(anywhere["observation"][:, 1], axis=0)) == 9
    empty = ReplayBuffer(2, 1, np.random.default_rng(0))
    empty.add(marked(5, ["."], ["."]))
    with pytest.raises(UserError, match=r"source\.whole_episodes: .*raise source\.capacity"):
        empty.sample_sequences(4, 2, 0, whole=True)


def test_sequences_by_priority_carry_their_weights() -> None:
    buffer = PrioritizedReplayBuffer(40, 1, np.random.default_rng(0), 1.0)
    buffer.add(marked(0, ["."] * 8, ["X"]))
    buffer.update_priorities(np.arange(8), np.array([0, 0, 0, 9, 0, 0, 0, 0.0]))
    rows = buffer.sample_prioritized_sequences(64, 3, 2, beta=1.0)
    assert (rows["index"] == 3).mean() > 0.9 and rows["weight"].shape == (64,)
    assert (rows["observation"][rows["index"] == 3, :, 0] == [1, 2, 3, 4, 5]).all()


def test_extras_are_kept_where_the_algorithm_names_them() -> None:
    buffer = ReplayBuffer(40, 2, np.random.default_rng(0), fields=["log_probability"])
    buffer.add({**chunk(0, [".."] * 4), "log_probability": np.arange(8.0).reshape(4, 2)})
    rows = buffer.sample(32, 3)
    assert rows["log_probability"].dtype == np.float32
    assert (rows["log_probability"] == rows["observation"][:, 0] * 2 + rows["observation"][:, 1]).all()
    assert "log_probability" not in ReplayBuffer(4, 2, np.random.default_rng(0)).fields
    with pytest.raises(UserError, match="replay_fields has 'entropy', which act does not return"):
        ReplayBuffer(40, 2, np.random.default_rng(0), fields=["entropy"]).add(chunk(0, [".."]))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"burn_in": 2}, r"source\.burn_in: belongs to sequences; set source\.sequence_length"),
        ({"whole_episodes": True}, r"source\.whole_episodes: belongs to sequences"),
        ({"sequence_length": 4, "n_step": 2}, r"source\.n_step: belongs to segments"),
        ({"sequence_length": 4, "whole_episodes": True, "burn_in": 1}, r"source\.burn_in: does not go with"),
        ({"sequence_length": 4, "whole_episodes": True, "prioritized": True}, r"source\.prioritized: does not go with"),
        ({"sequence_length": 120, "burn_in": 9}, r"source\.capacity: 512 is too small for sequences of 129 steps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LearnerRole(case("dqn", source=source))


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_source_hands_out_sequences(prioritized: bool) -> None:
    role = LearnerRole(case("dqn", source={"sequence_length": 5, "burn_in": 3, "prioritized": prioritized}))
    role.algorithm.prepare = lambda trajectory: trajectory  # type: ignore[method-assign]
    batch = role.source.next()
    assert batch["observation"].shape == (32, 8, 4) and batch["reward"].shape == (32, 8)
    assert {"valid", "first", "burn_in", "terminated", "truncated", "next_observation", "action"} <= batch.keys()
    assert ("weight" in batch) == prioritized
    role.close()
