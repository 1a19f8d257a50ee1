"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any


def _run(source: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "algorithm": {
            "import": "rayloom_agents.value_based.dqn:DQN", "hidden_sizes": [16], "target_period": 7, **settings,
        },
        "source": {
            "kind": "replay", "env": "CartPole-v1", "num_envs": 4, "capacity": 512, "learning_starts": 64,
            "steps_per_update": 4, **source,
        },
        "learner": {"batch_size": 32, "max_grad_norm": 10.0},
        "evaluate": {"every": "300 env_steps", "episodes": 4},
        "stop": {"env_steps": 1000},
    }  # fmt: skip


TREES: dict[str, dict[str, Any]] = {
    "rainbow": _run(
        {"prioritized": True, "n_step": 3},
        dueling=True, noisy=True, distribution="categorical", atoms=11, value_range=[0, 20],
        exploration_start=0, exploration_end=0,
    ),
    "qr_dqn": _run({}, distribution="quantile", atoms=8),
    "r2d2": {
        **_run({"sequence_length": 6, "burn_in": 2, "prioritized": True, "steps_per_update": 8}),
        "algorithm": {"import": "rayloom_agents.value_based.r2d2:R2D2", "memory_size": 8, "hidden_sizes": [8]},
    },
}  # fmt: skip
