"""SAC, TD3 and DDPG: densities against torch.distributions, targets by hand, what explores, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import AffineTransform, Independent, Normal, TanhTransform, TransformedDistribution

from rayloom.contract import TensorSpec, UserError
from rayloom_agents.continuous.sac import SAC, squashed_log_density
from rayloom_agents.continuous.td3 import DDPG, TD3
from rayloom_agents.networks.ensemble import Ensemble
from rayloom_agents.policies.bounded import BoundedActor

SPEC = {
    "observation": TensorSpec(shape=(3,), dtype=torch.float32),
    "action": TensorSpec(shape=(2,), dtype=torch.float32, low=(-1.0, 0.0), high=(1.0, 4.0)),
}


def made(kind: type[BoundedActor], **settings: Any) -> Any:
    torch.manual_seed(0)
    return kind(kind.Config(hidden_sizes=(8,), gamma=0.5, random_steps=100, **settings), SPEC)


def segments(**changes: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "observation": torch.randn(4, 3, generator=generator),
        "next_observation": torch.randn(4, 3, generator=generator),
        "action": torch.tensor([[0.0, 2.0], [1.0, 4.0], [-1.0, 0.0], [0.5, 1.0]]),
        "reward": torch.tensor([[1.0], [2.0], [3.0], [4.0]]),
        "length": torch.ones(4, dtype=torch.int64),
        "terminated": torch.tensor([False, True, False, False]),
        **changes,
    }


def test_the_density_of_a_squashed_action_is_that_of_torch_s_distributions() -> None:
    mean, log_std = torch.randn(50, 2, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    noise = torch.randn(50, 2, dtype=torch.float64)
    raw = mean + log_std.exp() * noise
    squashed = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform(cache_size=1)])
    inside = raw.abs().amax(1) < 5  # beyond, torch's own inverse loses digits
    expected = squashed.log_prob(torch.tanh(raw))[inside]
    torch.testing.assert_close(squashed_log_density(noise, log_std, raw)[inside], expected, rtol=1e-6, atol=1e-6)
    far = squashed_log_density(torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), 50.0))
    assert bool(far.isfinite().all())
    # And integrates to one: over a grid of the whole range.
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64).unsqueeze(1)
    density = squashed_log_density(grid, torch.zeros_like(grid), grid).exp()
    slope = 1 - torch.tanh(grid).square().squeeze(1)
    assert float((density * slope).sum() * 24 / 200_000) == pytest.approx(1.0, abs=1e-6)


def test_an_ensemble_is_its_members_one_by_one() -> None:
    ensemble, rows = Ensemble(3, (4, 5, 2)), torch.randn(6, 4)
    for member in range(3):
        hidden = torch.relu(rows @ ensemble.weights[0][member] + ensemble.biases[0][member])
        expected = hidden @ ensemble.weights[1][member] + ensemble.biases[1][member]
        torch.testing.assert_close(ensemble(rows)[member], expected)
    for weight, bias, inputs in zip(ensemble.weights, ensemble.biases, (4, 5), strict=True):
        largest = max(float(weight.detach().abs().max()), float(bias.detach().abs().max()))
        assert 0.7 / inputs**0.5 < largest <= 1 / inputs**0.5  # as torch's own linear layers


@pytest.mark.parametrize("kind", [SAC, TD3, DDPG])
def test_actions_are_stretched_to_the_environment_s_range_and_back(kind: type[BoundedActor]) -> None:
    algorithm = made(kind)
    rows = algorithm.prepare(segments())
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, -1.0], [0.5, -0.5]])
    torch.testing.assert_close(rows["action"], expected)
    torch.testing.assert_close(algorithm._stretched(expected).action, segments()["action"])
    observation = torch.randn(500, 3)
    plain = algorithm.act(observation, None, None).action
    algorithm.after_publish()  # the same by the NumPy path
    torch.testing.assert_close(algorithm.act(observation, None, None).action, plain)
    torch.testing.assert_close(algorithm.inference_module()(observation), plain)
    early = algorithm.act(observation, None, torch.Generator().manual_seed(0)).action
    assert early[:, 1].min() < 0.1 and early[:, 1].max() > 3.9  # uniform over the whole range
    algorithm.progress.env_steps = 100
    late = algorithm.act(observation, None, torch.Generator().manual_seed(0)).action
    assert bool(((late >= algorithm.middle - algorithm.scale) & (late <= algorithm.middle + algorithm.scale)).all())
    assert float((late - plain).abs().mean()) > 0.01 and not torch.equal(late, early)


def test_sac_s_targets_by_hand() -> None:
    algorithm = made(SAC, temperature=0.3)
    batch = algorithm.prepare(segments())
    fixed = (torch.full((4, 2), 0.25), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    algorithm.propose = lambda observation: fixed
    said = algorithm.target_critics(torch.cat((batch["next_observation"], fixed[0]), 1)).squeeze(2).min(0).values
    target = batch["reward"][:, 0] + 0.5 * (~batch["terminated"]) * (said - 0.3 * fixed[1])
    values = algorithm.critics(torch.cat((batch["observation"], batch["action"]), 1)).squeeze(2)
    loss = algorithm.critics_loss(batch)
    torch.testing.assert_close(loss.per_example, ((values - target) ** 2).sum(0))
    torch.testing.assert_close(loss.priorities, (values[0] - target).abs().detach())


def test_the_temperature_rises_where_the_policy_is_too_sure() -> None:
    algorithm, observation = made(SAC), segments()
    assert algorithm.target_entropy == -2.0
    for log_probability, sign in ((5.0, -1), (-5.0, 1)):
        algorithm.propose = lambda _, value=log_probability: (torch.zeros(4, 2), torch.full((4,), value))
        algorithm.log_alpha.grad = None
        algorithm.actor_loss(algorithm.prepare(observation)).per_example.sum().backward()
        assert float(algorithm.log_alpha.grad) * sign > 0
    fixed = made(SAC, learn_temperature=False)
    assert not any(fixed.log_alpha is parameter for phase in fixed.phases() for parameter in phase.parameters)


def test_td3_s_targets_by_hand() -> None:
    algorithm = made(TD3, target_noise=0.0)
    with torch.no_grad():
        for parameter in algorithm.target_actor.parameters():
            parameter.add_(0.1)  # so that it matters which actor is asked
    batch = algorithm.prepare(segments())
    action = torch.tanh(algorithm.target_actor(batch["next_observation"]))
    said = algorithm.target_critics(torch.cat((batch["next_observation"], action), 1)).squeeze(2).min(0).values
    target = batch["reward"][:, 0] + 0.5 * (~batch["terminated"]) * said
    values = algorithm.critics(torch.cat((batch["observation"], batch["action"]), 1)).squeeze(2)
    torch.testing.assert_close(algorithm.critics_loss(batch).per_example, ((values - target.detach()) ** 2).sum(0))
    policy = torch.tanh(algorithm.actor(batch["observation"]))
    led = -algorithm.critics(torch.cat((batch["observation"], policy), 1))[0].squeeze(1)
    torch.testing.assert_close(algorithm.actor_loss(batch).per_example, led)


def test_the_noise_of_the_targets_is_cut_off() -> None:
    algorithm = made(TD3, target_noise=1e6, target_noise_limit=0.25)
    seen = []
    algorithm._next_values = lambda batch, action: (seen.append(action), torch.zeros(4))[1]
    batch = algorithm.prepare(segments())
    algorithm.critics_loss(batch)
    distance = (seen[0] - torch.tanh(algorithm.target_actor(batch["next_observation"]))).abs()
    assert bool((distance <= 0.25 + 1e-6).all()) and float(distance.max()) > 0.2
    assert float(seen[0].abs().max()) <= 1


def test_slow_networks_follow_as_often_as_the_policy_changes() -> None:
    algorithm = made(TD3, target_rate=0.5)
    with torch.no_grad():
        for parameter in algorithm.actor.parameters():
            parameter.add_(1.0)
        before = [parameter.clone() for parameter in algorithm.target_actor.parameters()]
        algorithm.after_update(1)
        assert all(torch.equal(a, b) for a, b in zip(before, algorithm.target_actor.parameters(), strict=True))
        algorithm.after_update(2)
    for old, new in zip(before, algorithm.target_actor.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old + 0.5)
    assert made(DDPG).config.policy_delay == 1 and made(DDPG).critics.members == 1
    assert [phase.every for phase in algorithm.phases()] == [1, 2]


@pytest.mark.parametrize("kind", [SAC, TD3, DDPG])
def test_what_does_not_fit_is_refused(kind: type[BoundedActor]) -> None:
    discrete = {**SPEC, "action": TensorSpec(shape=(), dtype=torch.int64, num_values=3)}
    with pytest.raises(UserError, match=r"needs one vector of real actions; for discrete ones use .*dqn:DQN"):
        kind(kind.Config(), discrete)
    for low, high in ((None, None), ((-1.0, float("-inf")), (1.0, 1.0))):
        unbounded = {**SPEC, "action": TensorSpec(shape=(2,), dtype=torch.float32, low=low, high=high)}
        with pytest.raises(UserError, match="needs actions with bounds"):
            kind(kind.Config(), unbounded)


def test_an_affine_transform_is_the_stretching() -> None:
    algorithm = made(SAC)
    stretch = AffineTransform(algorithm.middle, algorithm.scale)
    action = torch.rand(5, 2) * 2 - 1
    torch.testing.assert_close(algorithm._stretched(action).action, stretch(action))
