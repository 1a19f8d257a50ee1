"""PPO and DQN on CartPole-v1 against Stable-Baselines3 on the same settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from bench import Comparison
from timing import run_rate

# Long enough that the writer's start, which takes seconds of the other core, is over for most of the run.
PPO_STEPS = 163_840
DQN_STEPS = 60_000

PPO: dict[str, Any] = {
    "algorithm": {"import": "rayloom_agents.policy_gradient.ppo:PPO"},
    "source": {"kind": "on_policy", "env": "CartPole-v1", "num_envs": 8, "rollout_steps": 256, "epochs": 10},
    "learner": {"batch_size": 256, "optimizer": {"learning_rate": 3e-4, "eps": 1e-5}, "max_grad_norm": 0.5},
    "stop": {"env_steps": PPO_STEPS},
}
DQN: dict[str, Any] = {
    "algorithm": {"import": "rayloom_agents.value_based.dqn:DQN", "double": False},
    "source": {"kind": "replay", "env": "CartPole-v1", "num_envs": 8, "capacity": 50_000, "steps_per_update": 4},
    "learner": {"batch_size": 64, "optimizer": {"learning_rate": 1e-4}, "max_grad_norm": 10.0},
    "stop": {"env_steps": DQN_STEPS},
}


def _compiled(tree: dict[str, Any]) -> dict[str, Any]:
    return {**tree, "learner": {**tree["learner"], "compile": True}}


def _peer_rate(make: Callable[[], Any], steps: int) -> float:
    """Return steps per second of `learn`, after a fifth of the steps as warm-up."""
    torch.set_num_threads(1)
    model = make()
    model.learn(steps // 5)
    start = time.perf_counter()
    before = model.num_timesteps
    model.learn(steps, reset_num_timesteps=False)
    return float((model.num_timesteps - before) / (time.perf_counter() - start))


def _peer_ppo() -> Any:
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    network = {"net_arch": [64, 64], "activation_fn": torch.nn.Tanh}
    envs = make_vec_env("CartPole-v1", n_envs=8)
    return stable_baselines3.PPO(
        "MlpPolicy", envs, n_steps=256, batch_size=256, n_epochs=10, policy_kwargs=network, device="cpu"
    )


def _peer_dqn(num_envs: int) -> Any:
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    envs = make_vec_env("CartPole-v1", n_envs=num_envs)
    schedule: dict[str, Any] = (
        {"train_freq": 4, "gradient_steps": 1} if num_envs == 1 else {"train_freq": 1, "gradient_steps": num_envs // 4}
    )
    return stable_baselines3.DQN(
        "MlpPolicy",
        envs,
        batch_size=64,
        buffer_size=50_000,
        learning_starts=1_000,
        policy_kwargs={"net_arch": [128, 128]},
        device="cpu",
        **schedule,
    )


def ppo() -> list[Comparison]:
    """8 environments, 256 steps, 10 epochs, minibatch 256, 2x64 tanh."""
    peer = lambda: _peer_rate(_peer_ppo, PPO_STEPS // 4)  # noqa: E731
    settings = {"unit": "env steps/s", "threads": 1, "peer": peer, "peer_name": "SB3"}
    return [
        Comparison("PPO run, CartPole", ours=lambda: run_rate(PPO, "env_steps"), target="-", **settings),
        Comparison(
            "PPO run, CartPole, compiled", ours=lambda: run_rate(_compiled(PPO), "env_steps"), target="3", **settings
        ),
    ]


def dqn() -> list[Comparison]:
    """One gradient step of 64 per 4 environment steps, 2x128."""
    rows = []
    for label, tree, num_envs in (("", DQN, 1), (", compiled", _compiled(DQN), 1), (", compiled", _compiled(DQN), 8)):
        rows.append(
            Comparison(
                f"DQN run, CartPole{label}",
                "env steps/s",
                1,
                lambda tree=tree: run_rate(tree, "env_steps"),
                lambda num_envs=num_envs: _peer_rate(lambda: _peer_dqn(num_envs), DQN_STEPS // 8),
                f"SB3, {num_envs} env",
                "3" if num_envs == 1 else "-",
            )
        )
    return rows


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {"ppo": ppo, "dqn": dqn}
