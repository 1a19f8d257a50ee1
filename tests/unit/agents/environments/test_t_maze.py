"""The T-maze by hand: what is seen, what is paid, and when it ends."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rayloom_agents.environments.t_maze import EAST, NORTH, SOUTH, WEST, TMaze

CORRIDOR, JUNCTION = [1, 0, 1], [0, 1, 0]


def begun(north: bool) -> tuple[TMaze, np.ndarray]:
    """Return a maze of length 2 with the goal on that side."""
    maze = TMaze(length=2)
    for seed in range(100):
        seen, _ = maze.reset(seed=seed)
        if (seen.tolist() == [0, 1, 1]) == north:
            return maze, seen
    raise AssertionError("the goal is always on the same side")


@pytest.mark.parametrize("north", [True, False])
@pytest.mark.parametrize("right", [True, False])
def test_only_the_beginning_tells_the_way(north: bool, right: bool) -> None:
    maze, seen = begun(north)
    assert seen.tolist() == ([0, 1, 1] if north else [1, 1, 0])
    for action, expected, reward in (
        (NORTH, seen.tolist(), -0.1), (WEST, seen.tolist(), -0.1), (EAST, CORRIDOR, 0.0), (SOUTH, CORRIDOR, -0.1),
        (EAST, JUNCTION, 0.0), (EAST, JUNCTION, -0.1), (WEST, CORRIDOR, 0.0), (EAST, JUNCTION, 0.0),
    ):  # fmt: skip
        found, paid, terminated, truncated, _ = maze.step(action)
        assert (found.tolist(), paid, terminated, truncated) == (expected, reward, False, False)
    turn = NORTH if north == right else SOUTH
    assert maze.step(turn)[1:4] == ((4.0 if right else -0.1), True, False)


def test_it_is_an_environment_of_gymnasium() -> None:
    check_env(gym.make("rayloom_agents.environments.t_maze:TMaze-v0", length=3).unwrapped, skip_render_check=True)
    with pytest.raises(ValueError, match="length >= 1, not 0"):
        TMaze(length=0)
