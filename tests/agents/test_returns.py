"""Return estimates against numbers worked out by hand and against the definitions written as plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom_agents.returns import double_q_values, generalized_advantages, n_step_discounts, n_step_targets


def test_gae_by_hand() -> None:
    # One environment, gamma 0.5, lambda 0.5. The episode terminates at t = 1; t = 3 is cut off by a time limit.
    rewards = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    values = torch.tensor([[10.0], [20.0], [30.0], [40.0]])
    next_values = torch.tensor([[20.0], [99.0], [40.0], [8.0]])
    discounts = torch.tensor([[0.5], [0.0], [0.5], [0.5]])
    continues = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    # t=3: 4 + 0.5 * 8 - 40 = -32            t=2: 3 + 0.5 * 40 - 30 + 0.25 * -32 = -15
    # t=1: 2 + 0 - 20 = -18 (terminal)       t=0: 1 + 0.5 * 20 - 10 + 0.25 * -18 = -3.5
    advantages = generalized_advantages(rewards, discounts, values, next_values, continues, 0.5)
    assert advantages.flatten().tolist() == [-3.5, -18.0, -15.0, -32.0]


def test_gae_cuts_at_a_truncation_but_bootstraps_from_it() -> None:
    ones = torch.ones(2, 1)
    cut = generalized_advantages(ones, 0.9 * ones, 0 * ones, 5 * ones, torch.zeros(2, 1), 0.95)
    assert cut.flatten().tolist() == pytest.approx([1 + 0.9 * 5] * 2)
    joined = generalized_advantages(ones, 0.9 * ones, 0 * ones, 5 * ones, ones, 0.95)
    assert joined.flatten().tolist() == pytest.approx([5.5 + 0.9 * 0.95 * 5.5, 5.5])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10_000))
def test_gae_is_the_discounted_sum_of_deltas(steps: int, number: int, gamma: float, lambda_: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards, values, next_values = torch.randn(3, steps, number, generator=generator, dtype=torch.float64).unbind()
    kind = torch.randint(0, 3, (steps, number), generator=generator)  # 0 goes on, 1 terminated, 2 truncated
    discounts, continues = gamma * (kind != 1).double(), (kind == 0).double()
    found = generalized_advantages(rewards, discounts, values, next_values, continues, lambda_)
    for n in range(number):
        for t in range(steps):
            expected, factor = 0.0, 1.0
            for k in range(t, steps):
                bootstrap = 0.0 if kind[k, n] == 1 else gamma * float(next_values[k, n])
                expected += factor * (float(rewards[k, n]) + bootstrap - float(values[k, n]))
                if kind[k, n] != 0:
                    break
                factor *= gamma * lambda_
            assert float(found[t, n]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_n_step_targets_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    lengths = torch.tensor([3, 2, 1, 1])
    terminated = torch.tensor([False, False, False, True])
    values = torch.tensor([8.0, 8.0, 8.0, 8.0])
    # 1 + 1 + 1 + 0.125 * 8;  1 + 1 + 0.25 * 8 (cut off);  3 + 0.5 * 8;  3 (terminal)
    assert n_step_targets(rewards, lengths, terminated, values, 0.5).tolist() == [4.0, 4.0, 7.0, 3.0]
    assert n_step_discounts(lengths, terminated, 0.5).tolist() == [0.125, 0.25, 0.5, 0.0]


def test_double_q_takes_the_online_choice_and_the_target_value() -> None:
    online = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 0.0]])
    target = torch.tensor([[10.0, 20.0, 30.0], [7.0, 8.0, 9.0]])
    assert double_q_values(online, target).tolist() == [20.0, 7.0]
    assert target.max(dim=1).values.tolist() == [30.0, 9.0], "the single-network target differs on this example"
