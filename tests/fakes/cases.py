"""One small complete run for every algorithm and every option that changes its data flow."""

from __future__ import annotations

from typing import Any

from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from systems import (
    adversarial,
    alphago,
    autoencoders,
    continuous,
    energy,
    finite_mdp,
    graphical,
    mixtures,
    policy_gradient,
    sequences,
    structures,
    supervised,
    texts,
    value_based,
)

CHAPTERS = (
    adversarial, alphago, autoencoders, continuous, energy, finite_mdp, graphical, mixtures, policy_gradient, sequences,
    structures, supervised, texts, value_based,
)  # fmt: skip
"""Where the systems of each chapter have their small runs."""

_PPO: dict[str, Any] = {
    "algorithm": {"import": "rayloom_agents.policy_gradient.ppo:PPO", "hidden_sizes": [16]},
    "source": {"kind": "on_policy", "env": "CartPole-v1", "num_envs": 4, "rollout_steps": 32, "epochs": 2},
    "learner": {"batch_size": 32, "max_grad_norm": 0.5, "schedule": {"kind": "linear"}},
    "evaluate": {"every": "256 env_steps", "episodes": 4},
    "stop": {"env_steps": 1024},
}
_DQN: dict[str, Any] = {
    "algorithm": {"import": "rayloom_agents.value_based.dqn:DQN", "hidden_sizes": [16], "target_period": 7},
    "source": {
        "kind": "replay",
        "env": "CartPole-v1",
        "num_envs": 4,
        "capacity": 512,
        "learning_starts": 64,
        "steps_per_update": 4,
    },
    "learner": {"batch_size": 32, "max_grad_norm": 10.0},
    "evaluate": {"every": "300 env_steps", "episodes": 4},
    "stop": {"env_steps": 1200},
}
_IMPALA: dict[str, Any] = {
    "algorithm": {"import": "rayloom_agents.policy_gradient.impala:IMPALA", "hidden_sizes": [16]},
    # 24 rows come at a time and 32 are learnt from, so that every batch but the third has rows of two versions.
    "source": {"kind": "asynchronous", "env": "CartPole-v1", "num_envs": 24, "rollout_steps": 4},
    "learner": {"batch_size": 32, "max_grad_norm": 10.0},
    "evaluate": {"every": "500 env_steps", "episodes": 4},
    "stop": {"env_steps": 2000},
}
_CLASSIFIER: dict[str, Any] = {
    "algorithm": {"import": "rayloom_supervised.tasks.classification:Classifier", "network": "softmax_regression"},
    "source": {"kind": "dataset", "dataset": "digits"},
    "learner": {"batch_size": 64, "optimizer": {"kind": "adam", "learning_rate": 1e-3}},
    "evaluate": {"every": "1 epochs"},
    "stop": {"epochs": 3},
}
_VAE: dict[str, Any] = {
    "algorithm": {"import": "rayloom_generative.autoencoders.vae:VAE", "hidden_sizes": [32], "latent_size": 4},
    "source": {"kind": "dataset", "dataset": "digits"},
    "learner": {"batch_size": 64},
    "evaluate": {"every": "1 epochs"},
    "stop": {"epochs": 3},
}
_WGAN: dict[str, Any] = {
    "algorithm": {"import": "rayloom_generative.adversarial.wgan_gp:WGANGP", "critic_steps": 3},
    "source": {"kind": "dataset", "dataset": "gaussian-grid"},
    "learner": {"batch_size": 64, "optimizer": {"learning_rate": 1e-3}},
    "evaluate": {"every": "20 updates"},
    "stop": {"updates": 60},
}


def _with(tree: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    return {**tree, **{name: {**tree.get(name, {}), **values} for name, values in sections.items()}}


TREES: dict[str, dict[str, Any]] = {
    "ppo": _PPO,
    "ppo_continuous": _with(_PPO, source={"env": "Pendulum-v1"}),
    "dqn": _DQN,
    "dqn_single": _with(_DQN, algorithm={"double": False, "target_period": 1, "target_rate": 0.05}),
    "dqn_prioritized_n_step": _with(_DQN, source={"prioritized": True, "n_step": 3}),
    "dqn_acrobot": _with(_DQN, source={"env": "Acrobot-v1"}),
    "dqn_ahead": _with(
        _DQN,
        algorithm={"exploration_spread": 7.0},
        source={"prioritized": True, "n_step": 3, "in_flight": 2, "collect_steps": 4},
    ),
    "impala": _IMPALA,
    "impala_continuous": _with(_IMPALA, source={"env": "Pendulum-v1"}),
    "softmax_regression": _CLASSIFIER,
    "lenet5": _with(_CLASSIFIER, algorithm={"network": "lenet5"}),
    "cnn": _with(_CLASSIFIER, algorithm={"network": {"kind": "cnn", "channels": [8, 16], "hidden_sizes": [32]}}),
    "rnn": _with(
        _CLASSIFIER, algorithm={"network": {"kind": "rnn", "cell": "lstm", "cell_size": 32, "cell_layers": 2}}
    ),
    "rnn_gru": _with(_CLASSIFIER, algorithm={"network": {"kind": "rnn", "cell": "gru", "cell_size": 16}}),
    "mlp_dropout": _with(
        _CLASSIFIER, algorithm={"network": {"kind": "mlp", "dropout": 0.2}}, source={"augment": ["shift"]}
    ),
    "vae": _VAE,
    "wgan_gp": _WGAN,
    **{name: tree for chapter in CHAPTERS for name, tree in chapter.TREES.items()},
}


def case(name: str, output: str = "rayloom-runs", **sections: dict[str, Any]) -> RunConfig:
    """Return the typed config of a case, with sections overridden."""
    tree = _with(TREES[name], **sections)
    tracking = {"enabled": False, "system_metrics": False, "pictures": False, **tree.get("tracking", {})}
    return from_tree({"name": name, "output": output, **tree, "tracking": tracking})
