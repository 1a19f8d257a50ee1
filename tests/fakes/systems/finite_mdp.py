"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

_VALUE: dict[str, Any] = {"import": "rayloom_agents.finite_mdp.evaluation:PolicyValue", "gamma": 0.9}
_MODEL: dict[str, Any] = {
    "import": "rayloom_agents.finite_mdp.model:ModelSource",
    "env": "rayloom_agents.finite_mdp.random_mdp:RandomMDP-v0",
    "env_options": {"states": 12},
}


def _planning(name: str) -> dict[str, Any]:
    return {
        "algorithm": {"import": f"rayloom_agents.finite_mdp.planning:{name}", "gamma": 0.9},
        "source": _MODEL,
        "learner": {"batch_size": 12},
        "evaluate": {**_VALUE, "every": "4 updates"},
        "stop": {"updates": 12},
    }


def _control(name: str, **settings: Any) -> dict[str, Any]:
    return {
        "algorithm": {"import": f"rayloom_agents.finite_mdp.control:{name}", "gamma": 0.9, **settings},
        "source": {"kind": "on_policy", "env": "FrozenLake-v1", "num_envs": 4, "rollout_steps": 8, "epochs": 1},
        "learner": {"batch_size": 32},
        "evaluate": {**_VALUE, "every": "256 env_steps"},
        "stop": {"env_steps": 1024},
    }


TREES: dict[str, dict[str, Any]] = {
    "value_iteration": _planning("ValueIteration"),
    "policy_iteration": _planning("PolicyIteration"),
    "q_learning": _control("QLearning"),
    "sarsa_lambda": _control("Sarsa", lambda_=0.5),
    "monte_carlo": _control("MonteCarlo"),
}
