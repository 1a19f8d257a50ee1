"""SAC, TD3 and DDPG on the probe of a real action and on those whose values are exact whatever the action."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rayloom.config.load import from_tree
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import make_schedule
from rayloom.testing.probes import ContinuousProbe

_WIDE: dict[str, Any] = {"hidden_sizes": [64], "exploration_noise": 0.2}
AGENTS: dict[str, dict[str, Any]] = {
    "sac": {"import": "rayloom_agents.continuous.sac:SAC", "temperature_rate": 2e-2},
    "td3": {"import": "rayloom_agents.continuous.td3:TD3", "target_noise": 0.02, **_WIDE},
    "ddpg": {"import": "rayloom_agents.continuous.td3:DDPG", **_WIDE},
}


class RealAction(gym.ActionWrapper[Any, Any, Any]):
    """A probe whose action does not matter, with an action that is real."""

    def __init__(self, probe: str) -> None:
        super().__init__(gym.make(f"rayloom/{probe}-v0"))
        self.action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def action(self, action: Any) -> Any:
        """Return the probe's first action."""
        return 0


if "RealAction-v0" not in gym.registry:
    gym.register("RealAction-v0", RealAction)


def train(agent: str, env: str, gamma: float = 0.5, **env_options: Any) -> Any:
    """Return the agent after some seconds."""
    settings = {"gamma": gamma, "hidden_sizes": [32], "target_rate": 0.05, "random_steps": 600, **AGENTS[agent]}
    config = from_tree(
        {
            "name": f"{agent}_probe",
            "algorithm": settings,
            "source": {
                "kind": "replay", "env": env, "env_options": env_options, "num_envs": 4, "capacity": 4_000,
                "learning_starts": 256, "steps_per_update": 4,
            },
            "learner": {"batch_size": 64, "optimizer": {"kind": "adam", "learning_rate": 3e-3}},
            "stop": {"updates": 700},
            "tracking": {"enabled": False, "pictures": False},
            "checkpoint": {"every": "10_000 updates"},
        }
    )  # fmt: skip
    role = LearnerRole(config)
    try:
        schedule = make_schedule(config, None)
        while not role.advance(schedule).exhausted:
            pass
        role.algorithm.after_publish()
    finally:
        role.close()
    return role.algorithm


def said(algorithm: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Return what the critics say [K, B] of actions in -1..1."""
    found: torch.Tensor = algorithm._q_values({"observation": observation}, action)
    return found


FULL = pytest.mark.full


@pytest.mark.parametrize("agent", ["sac", pytest.param("td3", marks=FULL), pytest.param("ddpg", marks=FULL)])
def test_the_best_action_and_its_values_are_found(agent: str) -> None:
    algorithm = train(agent, "rayloom.testing.probes:rayloom/ContinuousProbe-v0")
    observation = torch.from_numpy(ContinuousProbe().observations())
    with torch.no_grad():
        torch.testing.assert_close(algorithm.act(observation, None, None).action, observation, atol=0.12, rtol=0.0)
        for offset in (-0.2, 0.0, 0.2):
            values = said(algorithm, observation, (observation + offset) / 2)
            torch.testing.assert_close(values, torch.full_like(values, -(offset**2)), atol=0.1, rtol=0.0)
    if agent == "sac":  # normal with variance alpha / (2 * 2^2) in -1..1, of entropy -1 where that is exp(-3) / (2 pi)
        temperature = 8 * math.exp(-3) / (2 * math.pi)
        assert float(algorithm.log_alpha.detach().exp()) == pytest.approx(temperature, rel=0.35)


@pytest.mark.parametrize(
    ("probe", "expected"), [pytest.param("DiscountProbe", [0.5, 1.0], marks=FULL), ("TruncationProbe", [2.0])]
)
@pytest.mark.parametrize("agent", ["td3", pytest.param("ddpg", marks=FULL)])
def test_values_are_exact_where_the_action_does_not_matter(agent: str, probe: str, expected: list[float]) -> None:
    algorithm = train(agent, "test_continuous_probes:RealAction-v0", probe=probe)
    observation = torch.tensor([[-1.0], [1.0]]) if len(expected) == 2 else torch.zeros(1, 1)
    with torch.no_grad():
        values = said(algorithm, observation, torch.zeros(len(observation), 1))
    np.testing.assert_allclose(values, [expected] * len(values), atol=0.06)
