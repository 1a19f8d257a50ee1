"""An evaluation that films an episode: there is something to see, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

import rayloom
from cases import case
from rayloom.errors import UserError
from rayloom.rollouts.filming import small_pictures


def run(output: Path, **evaluate: Any) -> Any:
    parts = {"stop": {"updates": 4}, "tracking": {"enabled": False}, "evaluate": {"episodes": 2, **evaluate}}
    return rayloom.run(case("ppo", str(output), **parts), local=True)


def test_an_episode_is_shown_and_learning_is_the_same(tmp_path: Path) -> None:
    plain, filmed = run(tmp_path / "plain"), run(tmp_path / "filmed", film_steps=30)
    assert filmed.weights_sha256 == plain.weights_sha256 and filmed.metrics.keys() == plain.metrics.keys()
    assert filmed.metrics["evaluate/return_mean"] == plain.metrics["evaluate/return_mean"]
    (stored,) = (filmed.run_dir / "figures" / "episode").glob("step_*.npz")
    with np.load(stored) as content:
        (pictures,) = (content[name] for name in content.files if content[name].ndim == 4)
    assert 5 <= len(pictures) <= 30 and pictures.shape[1:] == (3, 100, 150)
    assert np.abs(pictures[0] - pictures[-1]).max() > 0.2  # the cart has moved
    assert not (plain.run_dir / "figures" / "episode").exists()


def test_long_and_large_episodes_become_small_pictures() -> None:
    frames = [np.full((400, 600, 4), shade, np.uint8) for shade in range(200)]
    pictures = small_pictures(frames, 50)
    assert pictures.shape == (50, 3, 100, 150)
    shades = (pictures[:, 0, 0, 0] * 255).round()
    assert shades[0] == 0 and shades[-1] == 199 and bool((shades.diff() > 0).all())
    assert small_pictures(frames[:3], 50).shape == (3, 3, 100, 150)


class Blind(gym.Env[Any, Any]):
    """Has no pictures."""

    metadata: ClassVar = {"render_modes": []}
    observation_space, action_space = gym.spaces.Box(0, 1, (4,)), gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(4, np.float32), 0.0, True, False, {}


gym.register(id="Blind-v0", entry_point=f"{__name__}:Blind", disable_env_checker=True)


def test_what_cannot_be_filmed_is_refused_before_anything_is_learnt(tmp_path: Path) -> None:
    config = case("ppo", str(tmp_path), source={"env": "Blind-v0"}, evaluate={"film_steps": 5})
    with pytest.raises(UserError, match=r"source\.env: Blind-v0 has no pictures"):
        rayloom.run(config, local=True)
    assert not list(tmp_path.rglob("checkpoints"))
