"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

TREES: dict[str, dict[str, Any]] = {
    "alphazero": {
        "algorithm": {"import": "rayloom_agents.alphago.alphazero:AlphaZero", "blocks": 1, "channels": 8},
        "source": {
            "import": "rayloom_agents.alphago.self_play:SelfPlay",
            "game": "tic_tac_toe",
            "num_envs": 8,
            "search": {"simulations": 6, "leaves": 2},
            "full_share": 0.5,
            "fast_simulations": 3,
            "plies": 3,
            "window": 200,
        },
        "learner": {"batch_size": 32},
        "evaluate": {
            "import": "rayloom_agents.alphago.matches:Matches",
            "every": "20 updates",
            "games": 4,
            "search": {"simulations": 4},
        },
        "stop": {"updates": 60},
    },
}
