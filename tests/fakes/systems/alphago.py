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
            "groups": 2,
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
    "alphazero_go": {
        "algorithm": {
            "import": "rayloom_agents.alphago.alphazero:AlphaZero",
            "blocks": 1,
            "channels": 8,
            "inference": {"precision": "bfloat16"},
        },
        "source": {
            "import": "rayloom_agents.alphago.self_play:SelfPlay",
            "game": {"kind": "go", "size": 3, "komi": 0.5, "max_plies": 12},
            "num_envs": 8,
            "search": {"simulations": 6},
            "komi_spread": 1.0,
            "stagger": 5,
            "plies": 3,
            "window": 100,
            "window_exponent": 0.75,
        },
        "learner": {"batch_size": 32},
        "evaluate": {
            "import": "rayloom_agents.alphago.matches:Matches",
            "every": "20 updates",
            "games": 4,
            "search": {"simulations": 4},
        },
        "stop": {"updates": 40},
    },
    "policy_gradient_self_play": {
        "algorithm": {
            "import": "rayloom_agents.alphago.policy_gradient_self_play:PolicyGradientSelfPlay",
            "blocks": 1,
            "channels": 8,
            "pool_every": 7,
            "pool_size": 3,
        },
        "source": {"import": "rayloom_agents.alphago.policy_games:PolicyGames", "game": "tic_tac_toe", "num_envs": 8},
        "learner": {"batch_size": 16},
        "evaluate": {
            "import": "rayloom_agents.alphago.matches:Matches",
            "every": "20 updates",
            "games": 4,
            "raw": True,
            "sampled": True,
            "opponent": "first",
        },
        "stop": {"updates": 60},
    },
}

_EXPERTS = {"import": "rayloom_agents.alphago.experts.source:ExpertGames", "size": 5}
TREES |= {
    "supervised_policy": {
        "algorithm": {
            "import": "rayloom_agents.alphago.supervised_policy:SupervisedPolicy",
            "blocks": 1,
            "channels": 8,
            "value_weight": 0.5,
        },
        "source": _EXPERTS,
        "learner": {"batch_size": 32},
        "evaluate": {"every": "20 updates"},
        "stop": {"updates": 60},
    },
    "rollout_policy": {
        "algorithm": {"import": "rayloom_agents.alphago.rollout_policy:RolloutPolicy"},
        "source": _EXPERTS,
        "learner": {"batch_size": 32},
        "evaluate": {"every": "20 updates"},
        "stop": {"updates": 60},
    },
    "value_network": {
        "algorithm": {"import": "rayloom_agents.alphago.value_network:ValueNetwork", "blocks": 1, "channels": 8},
        "source": {**_EXPERTS, "one_position_per_game": True},
        "learner": {"batch_size": 32},
        "evaluate": {"every": "5 epochs"},
        "stop": {"updates": 60},
    },
    "alphago": {
        "algorithm": {
            "import": "rayloom_agents.alphago.alphago_player:AlphaGo",
            "policy": {"blocks": 0, "channels": 4},
            "value": {"blocks": 0, "channels": 4},
        },
        "source": {**_EXPERTS, "one_position_per_game": True},
        "learner": {"batch_size": 40},
        "evaluate": {"every": "2 epochs"},
        "stop": {"epochs": 4},
    },
}
