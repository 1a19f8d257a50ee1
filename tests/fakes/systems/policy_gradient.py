"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any


def _run(name: str, **settings: Any) -> dict[str, Any]:
    return {
        "algorithm": {"import": f"rayloom_agents.policy_gradient.{name}", "hidden_sizes": [16], **settings},
        "source": {"kind": "on_policy", "env": "CartPole-v1", "num_envs": 4, "rollout_steps": 32, "epochs": 1},
        "learner": {"batch_size": 128, "max_grad_norm": 0.5},
        "evaluate": {"every": "256 env_steps", "episodes": 4},
        "stop": {"env_steps": 1024},
    }


def _with(tree: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    return {**tree, **{name: {**tree.get(name, {}), **values} for name, values in sections.items()}}


TREES: dict[str, dict[str, Any]] = {
    "a2c": _run("a2c:A2C"),
    "a2c_memory": _with(_run("a2c:A2C", memory_size=8), learner={"batch_size": 8}),
    "ppo_all_options": _run(
        "ppo:PPO",
        value_clip_range=0.2,
        entropy_coefficient=0.1,
        entropy_end=0.0,
        normalize_observation=True,
        normalize_reward=True,
    ),
    "ppo_target_kl": _with(
        _run("ppo:PPO", target_kl=0.003),
        source={"epochs": 4},
        learner={"batch_size": 64, "optimizer": {"kind": "adam", "learning_rate": 0.01}},
    ),
    "reinforce": _run("reinforce:REINFORCE"),
    "reinforce_mean": _run("reinforce:REINFORCE", baseline="mean"),
}
