"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any


def _run(name: str, **settings: Any) -> dict[str, Any]:
    return {
        "algorithm": {
            "import": f"rayloom_agents.continuous.{name}", "hidden_sizes": [16], "random_steps": 80, **settings,
        },
        "source": {
            "kind": "replay", "env": "Pendulum-v1", "num_envs": 4, "capacity": 512, "learning_starts": 64,
            "steps_per_update": 4,
        },
        "learner": {"batch_size": 32},
        "evaluate": {"every": "300 env_steps", "episodes": 2},
        "stop": {"env_steps": 1000},
    }  # fmt: skip


_PRIORITIZED = _run("sac:SAC", learn_temperature=False, temperature=0.2)
_PRIORITIZED["source"] |= {"prioritized": True, "n_step": 3}

TREES: dict[str, dict[str, Any]] = {
    "sac": _run("sac:SAC"),
    "sac_prioritized": _PRIORITIZED,
    "td3": _run("td3:TD3", normalize_observation=True),
    "ddpg": _run("td3:DDPG"),
}
