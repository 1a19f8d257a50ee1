"""`rayloom check-env`: what is wrong with an environment is found, in one line that says what to change."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

from rayloom.cli.main import main
from rayloom.testing.environments import check_environment


class Walk(gym.Env[Any, Any]):
    """A walk on a line from a random place; ends at its edges."""

    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(2, start=1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(-5, 5))
        return self.seen(), {}

    def seen(self) -> Any:
        return np.array([np.clip(self.place, -10, 10)], np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (1, 2)
        self.place += 2.0 * action - 3
        return self.seen(), 1.0, abs(self.place) >= 8, False, {}


class Unseeded(Walk):
    """Draws from a generator that nobody seeds."""

    generator = np.random.default_rng()

    def reset(self, **more: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**more)
        self.place = float(self.generator.uniform(-5, 5))
        return self.seen(), {}


class LeftOver(Walk):
    """Begins where it was."""

    place = 0.0

    def reset(self, **more: Any) -> tuple[Any, dict[str, Any]]:
        before = self.place
        super().reset(**more)
        self.place = before if abs(before) < 8 else 0.0
        return self.seen(), {}


class Shared(Walk):
    """All environments of the process are at one place, which has its own generator."""

    where: ClassVar[list[float]] = [0.0]

    def reset(self, **more: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**more)
        self.where[0] = 0.0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 1.0, False, False, {}


class Outside(Walk):
    """Leaves its space after a while."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return observation * 2, *rest


class Absurd(Walk):
    """Has a reward that is none."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest


for _class in (Walk, Unseeded, LeftOver, Shared, Outside, Absurd):
    gym.register(f"Own{_class.__name__}-v0", _class, max_episode_steps=50)


def test_a_sound_environment_is_described() -> None:
    told = {result.name: result for result in check_environment("OwnWalk-v0")}
    assert [*told] == ["spaces", "observations", "seeding", "resetting", "speed"]
    assert not any(result.failure for result in told.values())
    assert "observation float32 [1] in -10 to 10; action 2 values; autoreset same_step" in told["spaces"].promise
    assert "in 1000 steps rewards were 1 to 1" in told["observations"].promise and "terminated" in told[
        "observations"
    ].promise  # fmt: skip
    assert told["seeding"].promise == "the same seed gives the same steps"
    assert told["speed"].promise.endswith(" steps a second in one process")


@pytest.mark.parametrize(
    ("name", "check", "sentence"),
    [
        ("Unseeded", "seeding", "draw from self.np_random alone"),
        ("LeftOver", "seeding", "let nothing be left of the episode before"),
        ("Shared", "resetting", "they share their state, or the observation never changes"),
        ("Outside", "observations", "environment"),
        ("Absurd", "observations", "the reward nan"),
    ],
)
def test_a_fault_is_named(name: str, check: str, sentence: str) -> None:
    failed = {result.name: result.failure for result in check_environment(f"Own{name}-v0") if result.failure}
    assert check in failed and sentence in str(failed[check]), failed
    assert "\n" not in str(failed[check])


def test_the_command_ends_with_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env", "OwnWalk-v0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == []
    assert main(["check-env", "OwnAbsurd-v0"]) == 1
    assert "failed   observations: environment" in capsys.readouterr().out
    assert main(["check-env", "CartPole-v9"]) == 2
    assert "did you mean 'CartPole-v1'" in capsys.readouterr().err
    assert main(["check-env", "CartPole-v1", "gravity=3"]) == 2
    assert "CartPole-v1 has no such option" in capsys.readouterr().err
