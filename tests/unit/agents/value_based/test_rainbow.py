"""The parts of Rainbow: projections and losses against plain loops, noise, dueling heads, masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rayloom.contract import TensorSpec
from rayloom_agents.equations.distributions import categorical_projection, discounted_sums, quantile_huber
from rayloom_agents.networks.noisy import NoisyLinear, signed_root
from rayloom_agents.networks.q_network import QNetwork
from rayloom_agents.value_based.dqn import DQN

VECTOR = TensorSpec(shape=(3,), dtype=torch.float32)
ACTION = TensorSpec(shape=(), dtype=torch.int64, num_values=4)
SPEC = {"observation": VECTOR, "action": ACTION}
MASKED = {
    "observation.observation": VECTOR,
    "observation.action_mask": TensorSpec(shape=(4,), dtype=torch.int8),
    "action": ACTION,
}


def made(spec: dict[str, TensorSpec] = SPEC, **settings: Any) -> DQN:
    torch.manual_seed(0)
    given = {"gamma": 0.5, "hidden_sizes": (8,), "exploration_start": 0.0, "exploration_end": 0.0, **settings}
    algorithm = DQN(DQN.Config(**given), spec)
    with torch.no_grad():
        for parameter in algorithm.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return algorithm


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "observation": torch.randn(5, 3, generator=generator),
        "next_observation": torch.randn(5, 3, generator=generator),
        "action": torch.tensor([0, 1, 2, 3, 1]),
        "reward": torch.tensor([[1.0, 2.0], [0.0, 3.0], [1.0, 0.0], [4.0, 0.0], [0.5, 0.5]]),
        "length": torch.tensor([2, 2, 1, 1, 2]),
        "terminated": torch.tensor([False, True, False, True, False]),
    }


def loop_projection(support: np.ndarray, p: np.ndarray, returns: np.ndarray, discounts: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. 2017, atom by atom."""
    spacing, found = support[1] - support[0], np.zeros_like(p)
    for row in range(len(p)):
        for j, atom in enumerate(support):
            b = (min(max(returns[row] + discounts[row] * atom, support[0]), support[-1]) - support[0]) / spacing
            low, high = int(np.floor(b)), int(np.ceil(b))
            if low == high:
                found[row, low] += p[row, j]
            else:
                found[row, low] += p[row, j] * (high - b)
                found[row, high] += p[row, j] * (b - low)
    return found


def test_the_projection_is_the_paper_s_loop() -> None:
    chance = np.random.default_rng(0)
    support = np.linspace(-3, 5, 9)
    p = chance.dirichlet(np.ones(9), 40)
    returns, discounts = chance.normal(0, 4, 40), chance.choice([0.0, 0.5, 0.9, 1.0], 40)
    found = categorical_projection(*(torch.from_numpy(x) for x in (support, p, returns, discounts)))
    np.testing.assert_allclose(found.numpy(), loop_projection(support, p, returns, discounts), atol=1e-12)
    np.testing.assert_allclose(found.sum(1).numpy(), 1, atol=1e-12)
    same = categorical_projection(torch.from_numpy(support), torch.from_numpy(p), torch.zeros(40), torch.ones(40))
    np.testing.assert_allclose(same.numpy(), p, atol=1e-12)


def test_the_quantile_loss_is_the_paper_s_sum() -> None:
    chance = np.random.default_rng(1)
    quantiles, targets = chance.normal(0, 2, (6, 4)), chance.normal(0, 2, (6, 3))
    expected = np.zeros(6)
    for row in range(6):
        for i in range(4):
            level, losses = (2 * i + 1) / 8, []
            for target in targets[row]:
                u = target - quantiles[row, i]
                huber = 0.5 * u * u if abs(u) <= 0.7 else 0.7 * (abs(u) - 0.35)
                losses.append(abs(level - (u < 0)) * huber / 0.7)
            expected[row] += np.mean(losses)
    found = quantile_huber(torch.from_numpy(quantiles), torch.from_numpy(targets), 0.7)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_quantiles_of_a_sample_are_found_by_descending_the_loss() -> None:
    torch.manual_seed(0)
    sample = torch.randn(1, 4000).sort().values
    quantiles = torch.zeros(1, 5, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        quantile_huber(quantiles, sample, 0.01).sum().backward()
        optimizer.step()
    expected = torch.quantile(sample[0], torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    torch.testing.assert_close(quantiles.detach()[0], expected, atol=0.06, rtol=0)


def test_the_noise_of_a_layer_is_that_of_its_weights() -> None:
    layer, rows = NoisyLinear(3, 2), torch.randn(4, 3)
    noise = torch.randn(4, 5)
    found = layer(rows, lambda count, size: noise[:count, :size])
    shaped = signed_root(noise)
    for row in range(4):
        before, after = shaped[row, :3], shaped[row, 3:]
        weight = layer.weight + layer.weight_deviation * after[:, None] * before[None]
        expected = weight @ rows[row] + layer.bias + layer.bias_deviation * after
        torch.testing.assert_close(found[row], expected)
    torch.testing.assert_close(layer(rows), torch.nn.functional.linear(rows, layer.weight, layer.bias))
    assert float(layer.weight_deviation.detach()[0, 0]) == pytest.approx(0.5 / 3**0.5)


@pytest.mark.parametrize("atoms", [0, 3])
def test_dueling_heads_have_advantages_of_mean_zero(atoms: int) -> None:
    torch.manual_seed(0)
    network = QNetwork(SPEC, 4, (8,), "relu", dueling=True, atoms=atoms)
    rows = torch.randn(6, 3)
    found = network(rows)
    assert found.shape == ((6, 4, atoms) if atoms else (6, 4))
    assert network.state_value is not None
    value = network.state_value(rows)
    torch.testing.assert_close(found.mean(1), value if atoms else value.squeeze(1))


def test_the_categorical_loss_by_hand() -> None:
    algorithm, given = made(distribution="categorical", atoms=5, value_range=(-2.0, 2.0)), batch()
    support = torch.linspace(-2, 2, 5)
    with torch.no_grad():
        online = algorithm.online(given["next_observation"]).softmax(2)
        best = (online @ support).argmax(1)
        following = algorithm.target(given["next_observation"]).softmax(2)[torch.arange(5), best]
        returns = torch.tensor([1 + 0.5 * 2, 0.5 * 3, 1.0, 4.0, 0.75])
        discounts = torch.tensor([0.25, 0.0, 0.5, 0.0, 0.25])
        wanted = categorical_projection(support, following, returns, discounts)
    taken = algorithm.online(given["observation"])[torch.arange(5), given["action"]]
    found = algorithm.loss(given)
    torch.testing.assert_close(found.per_example, -(wanted * taken.log_softmax(1)).sum(1))
    size = (taken.softmax(1) @ support - wanted @ support).abs().detach()
    torch.testing.assert_close(found.priorities, size)
    torch.testing.assert_close(discounted_sums(given["reward"], 0.5), returns)


def test_the_quantile_targets_by_hand() -> None:
    algorithm, given = made(distribution="quantile", atoms=3, double=False), batch()
    with torch.no_grad():
        following = algorithm.target(given["next_observation"])
        following = following[torch.arange(5), following.mean(2).argmax(1)]
        returns = torch.tensor([2.0, 1.5, 1.0, 4.0, 0.75])
        discounts = torch.tensor([0.25, 0.0, 0.5, 0.0, 0.25])
        targets = returns[:, None] + discounts[:, None] * following
    taken = algorithm.online(given["observation"])[torch.arange(5), given["action"]]
    torch.testing.assert_close(algorithm.loss(given).per_example, quantile_huber(taken, targets, 1.0))


@pytest.mark.parametrize("settings", [{}, {"dueling": True}, {"distribution": "quantile", "atoms": 3}])
def test_an_end_that_allows_nothing_is_worth_its_reward(settings: dict[str, Any]) -> None:
    algorithm, given = made(MASKED, **settings), batch()
    mask = torch.ones(5, 4, dtype=torch.int8)
    given["terminated"] = torch.tensor([False, True, False, False, False])
    rows = {name: value for name, value in given.items() if "observation" not in name}
    for part, value in {"observation": given["observation"], "action_mask": mask}.items():
        rows[f"observation.{part}"] = rows[f"next_observation.{part}"] = value
    expected = algorithm.targets(algorithm.prepare(dict(rows)))
    mask = mask.clone()
    mask[1] = 0
    found = algorithm.targets(algorithm.prepare({**rows, "next_observation.action_mask": mask}))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("settings", [{}, {"dueling": True}, {"distribution": "quantile", "atoms": 3}])
def test_what_a_mask_forbids_is_neither_taken_nor_hoped_for(settings: dict[str, Any]) -> None:
    algorithm, given = made(MASKED, **settings), batch()
    mask = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.int8)
    observation = {"observation": given["observation"], "action_mask": mask}
    rows = {name: value for name, value in given.items() if "observation" not in name}
    for part, value in observation.items():
        rows[f"observation.{part}"] = rows[f"next_observation.{part}"] = value
    assert mask[torch.arange(5), algorithm.act(observation, None, None).action].all()  # type: ignore[index]
    values = algorithm._means(algorithm.target(observation)).masked_fill(mask == 0, -torch.inf)
    judged = algorithm._means(algorithm.online(observation)).masked_fill(mask == 0, -torch.inf)
    bootstrap = values[torch.arange(5), judged.argmax(1)]
    expected = torch.tensor([2.0, 1.5, 1.0, 4.0, 0.75]) + torch.tensor([0.25, 0.0, 0.5, 0.0, 0.25]) * bootstrap
    torch.testing.assert_close(algorithm.targets(algorithm.prepare(rows)), expected)
    always = made(MASKED, exploration_start=1.0, exploration_end=1.0, **settings)
    generator, taken = torch.Generator().manual_seed(0), torch.zeros(5, 4)
    for _ in range(400):
        action = always.act(observation, None, generator).action
        taken[torch.arange(5), action] += 1  # type: ignore[index]
    assert not taken[mask == 0].any()
    shares = taken / 400
    torch.testing.assert_close(shares, mask / mask.sum(1, keepdim=True), atol=0.08, rtol=0)


def test_noise_explores_and_is_silent_in_evaluation() -> None:
    algorithm = made(noisy=True)
    observation = torch.randn(64, 3)
    greedy = algorithm.act(observation, None, None).action
    torch.testing.assert_close(algorithm.act(observation, None, None).action, greedy)
    moved = [algorithm.act(observation, None, torch.Generator().manual_seed(seed)).action for seed in range(3)]
    assert any(not torch.equal(action, greedy) for action in moved)  # type: ignore[arg-type]
    again = algorithm.act(observation, None, torch.Generator().manual_seed(0)).action
    assert torch.equal(again, moved[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{}, {"distribution": "categorical", "atoms": 5}, {"distribution": "quantile"}])
def test_what_is_deployed_says_the_values(settings: dict[str, Any]) -> None:
    algorithm, observation = made(**settings), torch.randn(7, 3)
    module = algorithm.inference_module()
    assert module is not None
    torch.testing.assert_close(module(observation), algorithm._means(algorithm.online(observation)))


def test_pixels_are_seen() -> None:
    spec = {"observation": TensorSpec(shape=(4, 84, 84), dtype=torch.uint8), "action": ACTION}
    algorithm = made(spec)
    images = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    algorithm.after_publish()
    assert algorithm.online(images).shape == (2, 4) and algorithm.act(images, None, None).action.shape == (2,)  # type: ignore[union-attr]


def test_a_range_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="the smaller one first"):
        DQN.Config(value_range=(1.0, 1.0))
