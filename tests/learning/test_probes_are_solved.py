"""Agents learn the exact values and actions of the probe environments, in seconds each.

A probe that fails names the fault: the value network, the discount, the bootstrap at a time limit, the credit of an
action, credit over many steps, the mean of a Gaussian policy.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rayloom.config.load import from_tree
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import make_schedule
from rayloom.testing.probes import Probe

GAMMA = 0.5
_ADAM = {"kind": "adam", "learning_rate": 5e-3}
AGENTS: dict[str, dict[str, Any]] = {
    "ppo": {
        "algorithm": {"import": "rayloom_agents.policy_gradient.ppo:PPO", "gamma": GAMMA, "hidden_sizes": [32]},
        "source": {"kind": "on_policy", "num_envs": 8, "rollout_steps": 32, "epochs": 4},
        "learner": {"batch_size": 64, "optimizer": _ADAM, "schedule": {"kind": "linear"}},
        "stop": {"updates": 640},
    },
    "impala": {
        "algorithm": {"import": "rayloom_agents.policy_gradient.impala:IMPALA", "gamma": GAMMA, "hidden_sizes": [32]},
        "source": {"kind": "asynchronous", "num_envs": 16, "rollout_steps": 8},
        "learner": {"batch_size": 16, "optimizer": _ADAM, "schedule": {"kind": "linear"}},
        "stop": {"updates": 500},
    },
    "a2c": {
        "algorithm": {"import": "rayloom_agents.policy_gradient.a2c:A2C", "gamma": GAMMA, "hidden_sizes": [32]},
        "source": {"kind": "on_policy", "num_envs": 16, "rollout_steps": 16, "epochs": 1},
        "learner": {"batch_size": 256, "optimizer": _ADAM, "schedule": {"kind": "linear"}},
        "stop": {"updates": 500},
    },
    "reinforce": {
        "algorithm": {
            "import": "rayloom_agents.policy_gradient.reinforce:REINFORCE", "gamma": GAMMA, "hidden_sizes": [32],
        },
        "source": {"kind": "on_policy", "num_envs": 16, "rollout_steps": 16, "epochs": 1},
        "learner": {"batch_size": 256, "optimizer": _ADAM, "schedule": {"kind": "linear"}},
        "stop": {"updates": 500},
    },
    "dqn": {
        "algorithm": {
            "import": "rayloom_agents.value_based.dqn:DQN",
            "gamma": GAMMA,
            "hidden_sizes": [32],
            "target_period": 10,
            "exploration_end": 1.0,  # both actions everywhere to the end: all action values are exact
        },
        "source": {
            "kind": "replay", "num_envs": 8, "capacity": 4000, "learning_starts": 256, "steps_per_update": 8,
        },
        "learner": {"batch_size": 64, "optimizer": _ADAM, "schedule": {"kind": "linear"}},
        "stop": {"updates": 500},
    },
}  # fmt: skip
VALUES = ["ValueProbe", "DiscountProbe", "TruncationProbe"]
CHOICES = ["ActionProbe", "DelayedCreditProbe"]


def train(agent: str, probe: str, **algorithm: Any) -> tuple[Any, Probe]:
    """Return the trained algorithm and the probe."""
    tree = AGENTS[agent]
    source = {**tree["source"], "env": f"rayloom.testing.probes:rayloom/{probe}-v0"}
    if probe == "DelayedCreditProbe":
        source["env_options"] = {"steps": 4}
    tree = {**tree, "name": f"{agent}_{probe}", "source": source, "algorithm": {**tree["algorithm"], **algorithm}}
    config = from_tree(
        {**tree, "tracking": {"enabled": False, "pictures": False}, "checkpoint": {"every": "10_000 updates"}}
    )
    role = LearnerRole(config)
    try:
        schedule = make_schedule(config, None)
        while not role.advance(schedule).exhausted:
            pass
        role.algorithm.after_publish()
    finally:
        role.close()
    made = gym.make(f"rayloom/{probe}-v0", **source.get("env_options", {})).unwrapped
    assert isinstance(made, Probe)
    return role.algorithm, made


def state_values(algorithm: Any, probe: Probe) -> np.ndarray:
    with torch.no_grad():
        values: np.ndarray = algorithm.value(torch.from_numpy(probe.observations())).squeeze(1).numpy()
    return values


def greedy(algorithm: Any, probe: Probe) -> np.ndarray:
    with torch.no_grad():
        chosen: np.ndarray = algorithm.act(torch.from_numpy(probe.observations()), None, None).action.numpy()
    return chosen


@pytest.mark.parametrize("probe", VALUES + CHOICES)
def test_dqn_learns_exact_action_values(probe: str) -> None:
    algorithm, made = train("dqn", probe)
    with torch.no_grad():
        found = algorithm.online(torch.from_numpy(made.observations())).numpy()
    np.testing.assert_allclose(found, made.action_values(GAMMA), atol=0.05)


def pairs(agents: list[str], probes: list[str], quick: set[tuple[str, str]]) -> list[Any]:
    """Return all pairs; of agents that share what the others have only some are quick."""
    return [
        pytest.param(
            agent, probe, marks=() if agent in ("ppo", "impala") or (agent, probe) in quick else pytest.mark.full
        )
        for agent in agents
        for probe in probes
    ]


ACTOR_CRITICS = ["ppo", "impala", "a2c", "reinforce"]


@pytest.mark.parametrize(("agent", "probe"), pairs(ACTOR_CRITICS, VALUES, {("reinforce", "TruncationProbe")}))
def test_actor_critics_learn_exact_values(agent: str, probe: str) -> None:
    algorithm, made = train(agent, probe)
    np.testing.assert_allclose(state_values(algorithm, made), made.values(GAMMA), atol=0.05)


@pytest.mark.parametrize(
    ("agent", "probe"), pairs(ACTOR_CRITICS, CHOICES, {("reinforce", "DelayedCreditProbe"), ("a2c", "ActionProbe")})
)
def test_actor_critics_choose_the_better_action(agent: str, probe: str) -> None:
    algorithm, made = train(agent, probe)
    best = made.best_actions()
    if best is None:  # only the first action matters
        assert greedy(algorithm, made)[0] == 1
    else:
        assert greedy(algorithm, made).tolist() == best.tolist()
    # The policy explores to the end, so that its value lies a little below the best one.
    right = made.values(GAMMA) > 0
    np.testing.assert_allclose(state_values(algorithm, made)[right], made.values(GAMMA)[right], atol=0.12)


def test_a_gaussian_policy_finds_the_best_action() -> None:
    algorithm, made = train("ppo", "ContinuousProbe")
    np.testing.assert_allclose(greedy(algorithm, made), made.best_actions(), atol=0.1)
    variance = float(algorithm.log_std.detach().exp().square())
    np.testing.assert_allclose(state_values(algorithm, made), np.full(2, -variance), atol=0.1)
