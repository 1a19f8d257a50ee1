"""IMPALA: what acting records, what `prepare` hands over, and the loss against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from rayloom.config.load import from_tree
from rayloom.contract import Batch, Spec, TensorSpec, Trajectory
from rayloom.errors import UserError
from rayloom_agents.policy_gradient.impala import IMPALA

OBSERVATION = TensorSpec(shape=(3,), dtype=torch.float32)
DISCRETE: Spec = {"observation": OBSERVATION, "action": TensorSpec(shape=(), dtype=torch.int64, num_values=4)}
CONTINUOUS: Spec = {
    "observation": OBSERVATION,
    "action": TensorSpec(shape=(2,), dtype=torch.float32, low=(-1.0, -2.0), high=(1.0, 2.0)),
}
STEPS, NUMBER, GAMMA = 5, 3, 0.9


def _impala(spec: Spec, **settings: Any) -> IMPALA:
    torch.manual_seed(0)
    impala = IMPALA(IMPALA.Config(gamma=GAMMA, **settings), spec)
    with torch.no_grad():
        for parameter in impala.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return impala


def _trajectory(impala: IMPALA) -> Trajectory:
    """Return a rollout [T, N] with one termination, one truncation and a dead step behind each."""
    generator = torch.Generator().manual_seed(1)
    observation = torch.randn(STEPS + 1, NUMBER, 3, generator=generator)
    following = observation[1:].clone()
    following[2, 1] = torch.randn(3, generator=generator)  # the truncated episode's true last observation
    flags = torch.zeros(3, STEPS, NUMBER, dtype=torch.bool)
    flags[0, 1, 0], flags[1, 2, 1] = True, True
    flags[2, 2, 0], flags[2, 3, 1] = True, True
    steps = [impala.act(row, None, generator) for row in observation[:-1]]
    return {
        "observation": observation[:-1],
        "next_observation": following,
        "action": torch.stack([step.action for step in steps]),
        **{name: torch.stack([step.extras[name] for step in steps]) for name in steps[0].extras},
        "reward": torch.randn(STEPS, NUMBER, generator=generator),
        "terminated": flags[0],
        "truncated": flags[1],
        "valid": ~flags[2],
    }


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS])
@pytest.mark.parametrize("published", [False, True])
def test_acting_records_the_log_probability_of_the_action(spec: Spec, published: bool) -> None:
    impala = _impala(spec)
    if published:
        impala.after_publish()
    observation = torch.randn(50, 3)
    action = impala.act(observation, None, torch.Generator().manual_seed(0))
    outputs = impala.policy(observation)
    if impala.log_std is None:
        expected = Categorical(logits=outputs).log_prob(action.action)
    else:
        oracle = Independent(Normal(outputs, impala.log_std.exp()), 1)
        expected = oracle.log_prob(action.extras["unclipped_action"])
        assert not torch.equal(action.action, action.extras["unclipped_action"]), "some action is clipped"
    torch.testing.assert_close(action.extras["log_probability"], expected.detach())
    assert not action.extras["log_probability"].requires_grad


def test_rows_are_trajectories_of_one_environment() -> None:
    impala = _impala(CONTINUOUS)
    trajectory = _trajectory(impala)
    rows = impala.prepare(trajectory)
    assert all(value.shape[:2] == (NUMBER, STEPS) for value in rows.values())
    for n in range(NUMBER):
        assert torch.equal(rows["observation"][n], trajectory["observation"][:, n])
        assert torch.equal(rows["next_observation"][n], trajectory["next_observation"][:, n])
        assert torch.equal(rows["action"][n], trajectory["unclipped_action"][:, n])
        for name in ("reward", "terminated", "truncated", "valid", "log_probability"):
            assert torch.equal(rows[name][n], trajectory[name][:, n])


def _by_definition(impala: IMPALA, rows: Batch, behaviour: torch.Tensor) -> torch.Tensor:
    """Return the loss of each row, step by step from the paper's formulas."""
    config = impala.config
    losses = []
    for n in range(len(behaviour)):
        observation, action = rows["observation"][n], rows["action"][n]
        outputs = impala.policy(observation)
        if impala.log_std is None:
            distribution: Any = Categorical(logits=outputs)
        else:
            distribution = Independent(Normal(outputs, impala.log_std.exp()), 1)
        log_probability, entropy = distribution.log_prob(action), distribution.entropy()
        value = impala.value(observation).squeeze(1)
        known, following = value.detach(), impala.value(rows["next_observation"][n]).squeeze(1).detach()
        ratio = (log_probability.detach() - behaviour[n]).exp()
        rho, c = ratio.clamp(max=config.rho_bar), config.lambda_ * ratio.clamp(max=config.c_bar)
        total, target, beyond = torch.zeros(()), torch.zeros(()), False
        for t in reversed(range(STEPS)):
            if not rows["valid"][n, t]:
                beyond = False
                continue
            discount = 0.0 if rows["terminated"][n, t] else GAMMA
            joined = beyond and not (rows["terminated"][n, t] or rows["truncated"][n, t])
            reward = rows["reward"][n, t]
            delta = rho[t] * (reward + discount * following[t] - known[t])
            back = target if joined else following[t]
            correction = discount * c[t] * (target - known[t + 1]) if joined else 0.0
            advantage = rho[t] * (reward + discount * back - known[t])
            target, beyond = known[t] + delta + correction, True
            step = config.value_coefficient * (value[t] - target).square() - log_probability[t] * advantage
            total = total + step - config.entropy_coefficient * entropy[t]
        losses.append(total / STEPS)
    return torch.stack(losses)


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS])
@pytest.mark.parametrize("settings", [{}, {"lambda_": 0.8, "rho_bar": 1.5, "c_bar": 0.9, "entropy_coefficient": 0.2}])
def test_loss_and_gradient_are_those_of_the_definition(spec: Spec, settings: dict[str, Any]) -> None:
    impala = _impala(spec, **settings)
    rows = impala.prepare(_trajectory(impala))
    with torch.no_grad():  # the learner is ahead of the behaviour
        for parameter in impala.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loss = impala.loss(rows)
    expected = _by_definition(impala, rows, rows["log_probability"])
    torch.testing.assert_close(loss.per_example, expected)
    found = torch.autograd.grad(loss.per_example.sum(), list(impala.parameters()))
    for mine, theirs in zip(found, torch.autograd.grad(expected.sum(), list(impala.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_nothing_of_a_dead_step_reaches_the_loss() -> None:
    impala = _impala(DISCRETE)
    trajectory = _trajectory(impala)
    before = impala.loss(impala.prepare(trajectory))
    dead = ~trajectory["valid"]
    trajectory["reward"][dead] = 1e9
    trajectory["observation"][dead] = 77.0
    trajectory["next_observation"][dead] = -77.0
    trajectory["log_probability"][dead] = -50.0
    trajectory["action"][dead] = 3
    after = impala.loss(impala.prepare(trajectory))
    torch.testing.assert_close(before.per_example, after.per_example)
    torch.testing.assert_close(before.metrics, after.metrics)


def test_on_policy_the_ratio_is_one_and_the_weights_move_it() -> None:
    impala = _impala(DISCRETE)
    trajectory = _trajectory(impala)
    trajectory["valid"][:] = True
    rows = impala.prepare(trajectory)
    torch.testing.assert_close(impala.loss(rows).metrics["importance_ratio"], torch.ones(NUMBER))
    with torch.no_grad():
        list(impala.policy.children())[-1].bias[0] += 1.0  # type: ignore[index, operator, union-attr]
    assert not torch.allclose(impala.loss(rows).metrics["importance_ratio"], torch.ones(NUMBER), atol=1e-3)


def test_an_action_that_has_become_improbable_hardly_counts() -> None:
    impala = _impala(DISCRETE, entropy_coefficient=0.0, value_coefficient=0.0)
    rows = impala.prepare(_trajectory(impala))
    certain = {**rows, "log_probability": rows["log_probability"] + 20.0}  # the behaviour was far more sure of it
    gradient = torch.autograd.grad(impala.loss(certain).per_example.sum(), list(impala.policy.parameters()))
    assert max(float(value.abs().max()) for value in gradient) < 1e-6
    doubtful = {**rows, "log_probability": rows["log_probability"] - 20.0}  # truncated at rho_bar, c_bar
    plain = {**rows, "log_probability": rows["log_probability"] - 1e-3}
    torch.testing.assert_close(impala.loss(doubtful).per_example, impala.loss(plain).per_example)


def test_image_shaped_actions_are_refused_by_name() -> None:
    spec = {"observation": OBSERVATION, "action": TensorSpec(shape=(2, 2), dtype=torch.float32)}
    with pytest.raises(UserError, match="IMPALA needs discrete or vector actions"):
        _impala(spec)


def test_other_sources_are_refused() -> None:
    tree = {
        "name": "refused",
        "algorithm": {"import": "rayloom_agents.policy_gradient.impala:IMPALA"},
        "source": {"kind": "on_policy", "env": "CartPole-v1"},
        "stop": {"updates": 1},
    }
    with pytest.raises(UserError, match="asynchronous"):
        from_tree(tree)
