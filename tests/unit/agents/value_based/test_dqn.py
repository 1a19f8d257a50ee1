"""DQN: targets, the target network, exploration, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from rayloom.contract import Spec, TensorSpec
from rayloom.errors import UserError
from rayloom_agents.value_based.dqn import DQN

SPEC: Spec = {
    "observation": TensorSpec(shape=(3,), dtype=torch.float32),
    "action": TensorSpec(shape=(), dtype=torch.int64, num_values=4),
}


def _dqn(**settings: object) -> DQN:
    torch.manual_seed(0)
    dqn = DQN(DQN.Config(**settings), SPEC)  # type: ignore[arg-type]
    with torch.no_grad():  # let the two networks disagree
        for parameter in dqn.target.parameters():
            parameter.add_(torch.randn_like(parameter))
    return dqn


def _batch(rows: int = 6, steps: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "observation": torch.randn(rows, 3, generator=generator),
        "next_observation": torch.randn(rows, 3, generator=generator),
        "action": torch.randint(0, 4, (rows,), generator=generator),
        "reward": torch.randn(rows, steps, generator=generator),
        "length": torch.tensor([2, 2, 1, 1, 2, 2]),
        "terminated": torch.tensor([False, True, False, True, False, False]),
    }


@pytest.mark.parametrize("double", [False, True])
def test_targets_row_by_row(double: bool) -> None:
    dqn, batch = _dqn(double=double, gamma=0.9), _batch()
    with torch.no_grad():
        targets = dqn.targets(batch)
        for row in range(6):
            successor = batch["next_observation"][row]
            choice = (dqn.online if double else dqn.target)(successor).argmax()
            bootstrap = 0.0 if batch["terminated"][row] else float(dqn.target(successor)[choice])
            expected = float(batch["reward"][row, 0]) + 0.9 * float(batch["reward"][row, 1])
            expected += 0.9 ** int(batch["length"][row]) * bootstrap
            assert float(targets[row]) == pytest.approx(expected, rel=1e-5)


def test_single_and_double_targets_differ() -> None:
    batch = _batch()
    with torch.no_grad():
        assert not torch.allclose(_dqn(double=True).targets(batch), _dqn(double=False).targets(batch))


def test_the_loss_trains_the_chosen_action_of_the_online_network_only() -> None:
    dqn, batch = _dqn(), _batch()
    loss = dqn.loss(batch)
    loss.per_example.sum().backward()
    assert all(parameter.grad is None for parameter in dqn.target.parameters())
    chosen = dqn.online(batch["observation"])[torch.arange(6), batch["action"]]
    with torch.no_grad():
        error = chosen - dqn.targets(batch)
    torch.testing.assert_close(loss.priorities, error.abs())
    torch.testing.assert_close(
        loss.per_example, torch.nn.functional.huber_loss(chosen, chosen - error, reduction="none")
    )


def test_the_target_network_is_copied_every_period() -> None:
    dqn = _dqn(target_period=3)
    before = [parameter.clone() for parameter in dqn.target.parameters()]
    for update in (1, 2):
        dqn.after_update(update)
        assert all(torch.equal(a, b) for a, b in zip(before, dqn.target.parameters(), strict=True))
    dqn.after_update(3)
    assert all(torch.equal(a, b) for a, b in zip(dqn.online.parameters(), dqn.target.parameters(), strict=True))
    with torch.no_grad():
        next(dqn.online.parameters()).add_(1.0)
    assert not torch.equal(next(dqn.online.parameters()), next(dqn.target.parameters())), "a copy, not the same memory"


def test_a_slow_target_moves_by_its_rate() -> None:
    dqn = _dqn(target_period=1, target_rate=0.25)
    online, target = next(dqn.online.parameters()), next(dqn.target.parameters())
    expected = 0.75 * target.detach() + 0.25 * online.detach()
    with torch.no_grad():
        dqn.after_update(1)
    torch.testing.assert_close(target, expected)


def test_exploration_falls_by_a_line_and_is_uniform() -> None:
    dqn = _dqn(exploration_start=0.8, exploration_end=0.2, exploration_steps=100)
    rates = []
    for steps in (0, 50, 100, 1000):
        dqn.progress.env_steps = steps
        rates.append(dqn.exploration_rate())
    assert rates == pytest.approx([0.8, 0.5, 0.2, 0.2])
    observation = torch.zeros(20_000, 3)
    best = int(dqn.act(observation[:1], None, None).action)
    action = dqn.act(observation, None, torch.Generator().manual_seed(0)).action
    found = torch.bincount(action, minlength=4) / len(action)
    for index in range(4):
        assert float(found[index]) == pytest.approx(0.8 + 0.05 if index == best else 0.05, abs=0.01)


def test_environments_explore_each_in_their_own_way() -> None:
    dqn = _dqn(exploration_start=0.4, exploration_end=0.4, exploration_spread=7.0)
    dqn.environments, dqn.num_environments = range(1, 3), 3
    # 0.4 ** (1 + 1 / 2 * 7) and 0.4 ** 8; environment 0 is another worker's.
    expected = [0.4**4.5, 0.00065536]
    assert dqn._exploration_rates().tolist() == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]
    dqn.environments, dqn.num_environments = [0, 1] * 10_000, 2
    observation = torch.zeros(20_000, 3)
    best = int(dqn.act(observation[:1], None, None).action)
    action = dqn.act(observation, None, torch.Generator().manual_seed(0)).action
    random = (action != best).float() / 0.75  # a quarter of the random actions is the best one
    assert float(random[::2].mean()) == pytest.approx(0.4, abs=0.02)
    assert float(random[1::2].mean()) == pytest.approx(0.00065536, abs=0.001)
    assert torch.equal(dqn.act(observation, None, None).action, torch.full((20_000,), best)), "not in evaluations"


def test_numpy_acting_equals_torch() -> None:
    dqn, observation = _dqn(), torch.randn(200, 3)
    slow = dqn.act(observation, None, None).action
    dqn.after_publish()
    assert torch.equal(dqn.act(observation, None, None).action, slow)


def test_continuous_actions_are_refused() -> None:
    spec = {**SPEC, "action": TensorSpec(shape=(1,), dtype=torch.float32)}
    with pytest.raises(UserError, match="discrete action space"):
        DQN(DQN.Config(), spec)
