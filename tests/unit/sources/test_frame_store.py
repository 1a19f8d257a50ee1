"""Stacks of which each frame is stored once, against a buffer that stores everything; and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from counting_environment import CountingEnvironment
from rayloom.checkpoint.store import CheckpointStore
from rayloom.rollouts.frame_stack import StackedEnvironment
from rayloom.sources.columns import as_ring, blocks_in_time, cut_columns
from rayloom.sources.prioritized_buffer import PrioritizedReplayBuffer
from rayloom.sources.replay_buffer import ReplayBuffer

Array = np.ndarray[Any, np.dtype[Any]]
WIDTH = 2


class Writer:
    """Counting environments, WIDTH of them, whose stacks go into a block of a buffer."""

    def __init__(self, block: int, schedules: Any, frames: int, mode: AutoresetMode) -> None:
        makers = [lambda i=i, s=s: CountingEnvironment(block * WIDTH + i, s) for i, s in enumerate(schedules)]
        self.environment = StackedEnvironment(frames, SyncVectorEnv(makers, autoreset_mode=mode))
        self.reset()

    def reset(self) -> None:
        self.observation, self.first = self.environment.reset(0), np.ones(WIDTH, bool)

    def chunk(self, steps: int) -> dict[str, Array]:
        rows: list[dict[str, Array]] = []
        for _ in range(steps):
            step: Any = self.environment.step(np.zeros(WIDTH, np.int64))
            names = ("reward", "terminated", "truncated", "valid", "next_observation")
            row = {name: np.array(getattr(step, name)) for name in names}
            rows.append(
                {**row, "observation": self.observation.copy(), "first": self.first, "action": row["valid"] * 1}
            )
            self.observation, self.first = step.observation, step.begins
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def assert_equal_where_drawn(compact: ReplayBuffer, plain: ReplayBuffer, n_step: int) -> None:
    """Every transition that the compact buffer can draw is the plain one's, and only the oldest ones are missing."""
    slots = np.flatnonzero(compact._flat["valid"])
    assert len(slots) == len(compact)
    if not len(slots):
        return
    ours, theirs = compact._segments(slots, n_step), plain._segments(slots, n_step)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)
    heads, filled = (compact._of_environments(values) for values in (compact._heads, compact._filled))
    rows, context = compact.rows, compact._context
    forgotten = np.zeros((rows, compact.num_envs), bool)
    for n, (head, full) in enumerate(zip(heads, filled == rows, strict=True)):
        written = len(compact._arrays["valid"]) if full else 0
        if full and compact._wrapped_for_test[n]:  # type: ignore[attr-defined]
            forgotten[(head + np.arange(context)) % written, n] = True
    missing = plain._flat["valid"] & ~compact._flat["valid"]
    np.testing.assert_array_equal(missing, plain._flat["valid"] & forgotten.ravel())
    burn_in, length = 2, 3
    ours, theirs = (buffer._sequences(slots, length, burn_in) for buffer in (compact, plain))
    known = ours["valid"]
    assert not (known & ~theirs["valid"]).any() and known[:, burn_in].all()
    for name in ours:
        np.testing.assert_array_equal(ours[name][known], theirs[name][known], err_msg=name)


EPISODES = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(["terminated", "truncated", "both"])), min_size=1, max_size=3
)
EVENTS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 4), st.sampled_from(["go", "go", "go", "barrier"])),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("prioritized", [False, True])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    schedules=st.lists(EPISODES, min_size=2 * WIDTH, max_size=2 * WIDTH),
    events=EVENTS,
    rows=st.integers(2, 6),
    frames=st.integers(2, 4),
)
def test_every_stack_is_what_the_agent_saw(
    mode: AutoresetMode, prioritized: bool, schedules: Any, events: Any, rows: int, frames: int
) -> None:
    def buffer(count: int, stack: int) -> ReplayBuffer:
        rng = np.random.default_rng(0)
        if prioritized:
            return PrioritizedReplayBuffer(count * 2 * WIDTH, 2 * WIDTH, rng, 0.6, blocks=2, frames=stack)
        return ReplayBuffer(count * 2 * WIDTH, 2 * WIDTH, rng, blocks=2, frames=stack)

    compact, plain = buffer(rows, frames), buffer(rows + frames - 1, 1)
    assert compact.rows == plain.rows
    wrapped = np.zeros(2 * WIDTH, bool)
    compact._wrapped_for_test = wrapped  # type: ignore[attr-defined]
    written = [0, 0]
    writers = [Writer(block, schedules[block * WIDTH :][:WIDTH], frames, mode) for block in range(2)]
    for block, steps, what in events:
        if what == "barrier":
            writers[block].reset()
            for each in (compact, plain):
                each.mark_boundary(block)
        made = writers[block].chunk(steps)
        for each in (compact, plain):
            each.add(made, block)
        written[block] += steps
        wrapped[block * WIDTH :][:WIDTH] = written[block] > compact.rows
        for n_step in (1, 3):
            assert_equal_where_drawn(compact, plain, n_step)
        if isinstance(compact, PrioritizedReplayBuffer):
            leaves = compact._tree.values[: compact._slots]
            np.testing.assert_array_equal(leaves > 0, compact._flat["valid"])
    restored = buffer(rows, frames)
    restored._wrapped_for_test = wrapped  # type: ignore[attr-defined]
    restored.load_state_dict(compact.state_dict())
    assert_equal_where_drawn(restored, plain, 2)
    made = writers[0].chunk(3)
    for each in (restored, plain):
        each.add(made, 0)
    wrapped[:WIDTH] = written[0] + 3 > compact.rows
    assert_equal_where_drawn(restored, plain, 2)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    schedules=st.lists(EPISODES, min_size=2 * WIDTH, max_size=2 * WIDTH), lengths=st.tuples(*[st.integers(1, 14)] * 2)
)
def test_blocks_are_cut_anew_with_their_successors(schedules: Any, lengths: tuple[int, int]) -> None:
    frames, whole = 3, ReplayBuffer(6 * 2 * WIDTH, 2 * WIDTH, np.random.default_rng(0), blocks=2, frames=3)
    for block, steps in enumerate(lengths):
        writer = Writer(block, schedules[block * WIDTH :][:WIDTH], frames, AutoresetMode.SAME_STEP)
        for _ in range(steps):
            whole.add(writer.chunk(1), block)

    def contents(buffer: ReplayBuffer) -> set[bytes]:
        rows = buffer._segments(np.flatnonzero(buffer._flat["valid"]), 2)
        return {b"".join(rows[name][i].tobytes() for name in sorted(rows)) for i in range(len(rows["length"]))}

    state = whole.state_dict()
    blocks = blocks_in_time(state)
    parts = []
    for learner in range(4):  # one environment each
        ring = as_ring([cut_columns(blocks, learner, learner + 1)], int(state["rows"]))
        part = ReplayBuffer(6, 1, np.random.default_rng(0), frames=frames)
        part.load_state_dict({**state, **ring})
        parts.append(part)
    assert sum(map(len, parts)) == len(whole)
    assert set().union(*map(contents, parts)) == contents(whole)


def test_a_checkpoint_holds_the_state(tmp_path: Path) -> None:
    buffer = ReplayBuffer(40, WIDTH, np.random.default_rng(0), frames=2)
    writer = Writer(0, [[(2, "truncated")], [(3, "both")]], 2, AutoresetMode.SAME_STEP)
    buffer.add(writer.chunk(9))
    state = buffer.state_dict()
    assert len(state["successors"]["slots"]) == 4 + 3 - 1  # the end of the newest row is not apart yet
    store = CheckpointStore(tmp_path, 1, "max")
    store.save(1, {"buffer": state})
    loaded = store.load_latest()
    assert loaded is not None
    again = ReplayBuffer(40, WIDTH, np.random.default_rng(0), frames=2)
    again.load_state_dict(loaded.state["buffer"])
    ours, theirs = again.sample(50, 2), buffer.sample(50, 2)
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


def test_a_million_atari_transitions_take_less_than_eight_gibibytes() -> None:
    """84x84 bytes, stacks of four: by the bytes of a ring of 2,000, with an episode's end in each 500 steps."""
    capacity, num_envs, shape = 2_000, 8, (84, 84)
    buffer = PrioritizedReplayBuffer(capacity, num_envs, np.random.default_rng(0), 0.6, frames=4)
    plain = ReplayBuffer(capacity, num_envs, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    stack = rng.integers(0, 255, (num_envs, 4, *shape), np.uint8)
    for t in range(300):
        frame = rng.integers(0, 255, (num_envs, 1, *shape), np.uint8)
        following = np.concatenate((stack[:, 1:], frame), axis=1)
        ended = np.full((1, num_envs), t % 60 == 59) & (np.arange(num_envs) == t // 60 % num_envs)
        chunk = {
            "observation": stack[None],
            "next_observation": following[None],
            "action": np.zeros((1, num_envs), np.int64),
            "reward": np.zeros((1, num_envs), np.float32),
            "terminated": ended,
            "truncated": np.zeros((1, num_envs), bool),
            "valid": np.ones((1, num_envs), bool),
            "first": np.zeros((1, num_envs), bool) if t else np.ones((1, num_envs), bool),
        }
        buffer.add(chunk)
        plain.add(chunk)
        stack = following.copy()
        stack[ended[0]] = rng.integers(0, 255, (int(ended.sum()), 4, *shape), np.uint8)
    each = buffer.nbytes / capacity
    assert len(buffer) == capacity
    assert each * 1_000_000 < 8 * 2**30 * 0.9
    assert plain.nbytes / capacity * 1_000_000 > 50 * 2**30
    assert len(buffer.state_dict()["successors"]["slots"]) == 4
