"""PPO: what `prepare` hands to the loss, distributions against torch.distributions, acting."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from rayloom.contract import Spec, TensorSpec, Trajectory
from rayloom.errors import UserError
from rayloom_agents.policy_gradient.ppo import PPO

OBSERVATION = TensorSpec(shape=(3,), dtype=torch.float32)
DISCRETE: Spec = {"observation": OBSERVATION, "action": TensorSpec(shape=(), dtype=torch.int64, num_values=4)}
CONTINUOUS: Spec = {
    "observation": OBSERVATION,
    "action": TensorSpec(shape=(2,), dtype=torch.float32, low=(-1.0, -2.0), high=(1.0, 2.0)),
}


def _trajectory(spec: Spec, steps: int = 5, number: int = 2) -> Trajectory:
    generator = torch.Generator().manual_seed(0)
    action: torch.Tensor = (
        torch.randint(0, 4, (steps, number), generator=generator)
        if spec["action"].num_values
        else torch.randn(steps, number, 2, generator=generator)
    )
    return {
        "observation": torch.randn(steps, number, 3, generator=generator),
        "next_observation": torch.randn(steps, number, 3, generator=generator),
        "action": action,
        "reward": torch.randn(steps, number, generator=generator),
        "terminated": torch.zeros(steps, number, dtype=torch.bool),
        "truncated": torch.zeros(steps, number, dtype=torch.bool),
        "valid": torch.ones(steps, number, dtype=torch.bool),
    }


def _ppo(spec: Spec, **settings: object) -> PPO:
    torch.manual_seed(0)
    return PPO(PPO.Config(**settings), spec)  # type: ignore[arg-type]


def test_rows_bootstrap_truncations_and_stop_at_terminations() -> None:
    ppo = _ppo(DISCRETE, gamma=0.9, lambda_=0.8, normalize_advantages=False)
    trajectory = _trajectory(DISCRETE)
    trajectory["terminated"][1, 0] = True
    trajectory["truncated"][3, 1] = True
    with torch.no_grad():
        rows = ppo.prepare(trajectory)
        value = ppo.value(trajectory["observation"]).squeeze(-1)
        following = ppo.value(trajectory["next_observation"]).squeeze(-1)
    advantage = rows["advantage"].reshape(5, 2)
    reward = trajectory["reward"]
    assert advantage[1, 0] == pytest.approx(float(reward[1, 0] - value[1, 0]))
    assert advantage[3, 1] == pytest.approx(float(reward[3, 1] + 0.9 * following[3, 1] - value[3, 1]), rel=1e-5)
    delta = reward[2, 1] + 0.9 * following[2, 1] - value[2, 1]
    assert advantage[2, 1] == pytest.approx(float(delta + 0.9 * 0.8 * advantage[3, 1]), rel=1e-5)
    torch.testing.assert_close(rows["return"].reshape(5, 2), advantage + value)
    assert rows["observation"].shape == (10, 3)


def test_dead_steps_are_no_rows_and_stop_the_sum() -> None:
    ppo = _ppo(DISCRETE, normalize_advantages=False)
    trajectory = _trajectory(DISCRETE)
    trajectory["terminated"][1, 0] = True
    trajectory["valid"][2, 0] = False
    trajectory["reward"][2, 0] = 1e9  # must not reach anything
    with torch.no_grad():
        rows = ppo.prepare(trajectory)
    assert len(rows["advantage"]) == 9
    assert rows["advantage"].abs().max() < 1e3
    assert all(len(value) == 9 for value in rows.values())


def test_advantages_are_normalised_over_the_whole_rollout() -> None:
    with torch.no_grad():
        advantage = _ppo(DISCRETE).prepare(_trajectory(DISCRETE))["advantage"]
    assert float(advantage.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(advantage.std()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS])
def test_log_probabilities_and_entropies_are_those_of_the_distribution(spec: Spec) -> None:
    ppo = _ppo(spec)
    trajectory = _trajectory(spec)
    observation, action = trajectory["observation"].flatten(0, 1), trajectory["action"].flatten(0, 1)
    outputs = ppo.policy(observation)
    if ppo.log_std is None:
        oracle: torch.distributions.Distribution = Categorical(logits=outputs)
    else:
        torch.nn.init.normal_(ppo.log_std)
        oracle = Independent(Normal(outputs, ppo.log_std.exp()), 1)
    log_probability, entropy = ppo._distribution(observation, action)
    torch.testing.assert_close(log_probability, oracle.log_prob(action))
    torch.testing.assert_close(entropy, oracle.entropy())


def test_at_the_behaviour_policy_the_gradient_is_the_policy_gradient() -> None:
    ppo = _ppo(DISCRETE, value_coefficient=0.0)
    with torch.no_grad():
        rows = ppo.prepare(_trajectory(DISCRETE))
    ppo.loss(rows).per_example.mean().backward()
    found = [parameter.grad.clone() for parameter in ppo.policy.parameters() if parameter.grad is not None]
    ppo.zero_grad()
    log_probability = torch.log_softmax(ppo.policy(rows["observation"]), 1).gather(1, rows["action"][:, None])
    (-(log_probability.squeeze(1) * rows["advantage"]).mean()).backward()
    for mine, parameter in zip(found, ppo.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
def test_sampled_actions_follow_the_policy(fast: bool) -> None:
    ppo = _ppo(DISCRETE)
    with torch.no_grad():
        list(ppo.policy.children())[-1].bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))  # type: ignore[union-attr]
    if fast:
        ppo.after_publish()
    observation = torch.zeros(20_000, 3)
    action = ppo.act(observation, None, torch.Generator().manual_seed(0)).action
    expected = torch.softmax(ppo.policy(observation[:1]), 1).squeeze(0)
    found = torch.bincount(action, minlength=4) / len(action)
    torch.testing.assert_close(found, expected.detach(), atol=0.015, rtol=0.0)
    greedy = ppo.act(observation[:2], None, None).action
    assert greedy.tolist() == [int(expected.argmax())] * 2


def test_numpy_acting_follows_weight_changes_without_a_new_publication() -> None:
    ppo = _ppo(DISCRETE)
    ppo.after_publish()
    observation = torch.randn(6, 3)
    with torch.no_grad():
        for parameter in ppo.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        torch.testing.assert_close(ppo._policy_outputs(observation, None)[0], ppo.policy(observation))


def test_continuous_actions_stay_in_their_range_and_keep_the_sample() -> None:
    ppo = _ppo(CONTINUOUS)
    result = ppo.act(torch.zeros(500, 3), None, torch.Generator().manual_seed(0))
    unclipped = result.extras["unclipped_action"]
    assert (unclipped[:, 0].abs() > 1).any()
    torch.testing.assert_close(
        result.action, torch.stack((unclipped[:, 0].clamp(-1, 1), unclipped[:, 1].clamp(-2, 2)), 1)
    )


def test_image_shaped_actions_are_refused() -> None:
    spec = {"observation": OBSERVATION, "action": TensorSpec(shape=(2, 2), dtype=torch.float32)}
    with pytest.raises(UserError, match="discrete or vector actions"):
        _ppo(spec)
