"""A2C and PPO's further options: losses by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayloom.contract import TensorSpec
from rayloom_agents.equations.objectives import clipped_squared_error
from rayloom_agents.policies.advantages import ENTROPY_WEIGHT
from rayloom_agents.policy_gradient.a2c import A2C
from rayloom_agents.policy_gradient.ppo import PPO

SPEC = {
    "observation": TensorSpec(shape=(2,), dtype=torch.float32),
    "action": TensorSpec(shape=(), dtype=torch.int64, num_values=3),
}


def rows(**more: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "observation": torch.randn(4, 2, generator=generator),
        "action": torch.tensor([0, 1, 2, 1]),
        "advantage": torch.tensor([1.0, -2.0, 0.5, 3.0]),
        "return": torch.tensor([0.0, 1.0, 2.0, 3.0]),
        **more,
    }


def test_a2c_s_loss_by_hand() -> None:
    torch.manual_seed(0)
    algorithm = A2C(A2C.Config(value_coefficient=0.25, entropy_coefficient=0.1), SPEC)
    batch = rows()
    found = algorithm.loss(batch).per_example
    probabilities = algorithm.policy(batch["observation"]).softmax(1)
    chosen = probabilities[torch.arange(4), batch["action"]].log()
    entropy = torch.distributions.Categorical(probabilities).entropy()
    value = algorithm.value(batch["observation"]).squeeze(1)
    expected = -batch["advantage"] * chosen + 0.25 * (value - batch["return"]) ** 2 - 0.1 * entropy
    torch.testing.assert_close(found, expected)


def test_values_are_held_back() -> None:
    value, old = torch.tensor([1.0, 3.0, -3.0, 0.5]), torch.zeros(4)
    target = torch.tensor([5.0, 2.0, -1.0, 0.0])
    # Held at 1, 1 and -1: the first is where it is, the second would be nearer if held, the third is worse outside.
    expected = torch.tensor([16.0, 1.0, 4.0, 0.25])
    torch.testing.assert_close(clipped_squared_error(value, old, target, 1.0), expected)


def test_ppo_holds_values_near_those_of_the_rollout() -> None:
    torch.manual_seed(0)
    algorithm = PPO(PPO.Config(value_clip_range=0.01, value_coefficient=1.0), SPEC)
    batch = rows(log_probability=torch.zeros(4), value=torch.full((4,), 5.0))
    value = algorithm.value(batch["observation"]).squeeze(1).detach()
    error = algorithm.loss(batch).metrics["value_loss"]
    torch.testing.assert_close(error, torch.maximum((value - batch["return"]) ** 2, (4.99 - batch["return"]) ** 2))


@pytest.mark.parametrize(("fraction", "weight"), [(0.0, 0.4), (0.25, 0.3), (1.0, 0.0)])
def test_the_entropy_bonus_fades(fraction: float, weight: float) -> None:
    torch.manual_seed(0)
    algorithm = A2C(A2C.Config(entropy_coefficient=0.4, entropy_end=0.0), SPEC)
    algorithm.progress.fraction = fraction
    flags = {name: torch.zeros(3, 2, dtype=torch.bool) for name in ("terminated", "truncated", "first")}
    trajectory = {
        "observation": torch.randn(3, 2, 2),
        "next_observation": torch.randn(3, 2, 2),
        "action": torch.zeros(3, 2, dtype=torch.int64),
        "reward": torch.ones(3, 2),
        "valid": torch.ones(3, 2, dtype=torch.bool),
        **flags,
    }
    with torch.no_grad():
        batch = algorithm.prepare(trajectory)
    torch.testing.assert_close(batch[ENTROPY_WEIGHT], torch.full((6,), weight))
    without = algorithm.loss({**batch, ENTROPY_WEIGHT: torch.zeros(6)})
    difference = without.per_example - algorithm.loss(batch).per_example
    torch.testing.assert_close(difference, weight * without.metrics["entropy"])
