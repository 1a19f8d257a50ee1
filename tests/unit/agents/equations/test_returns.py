"""Return estimates against numbers worked out by hand and against the definitions written as plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayloom_agents.equations.returns import (
    double_q_values,
    generalized_advantages,
    n_step_discounts,
    n_step_targets,
    vtrace,
)


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


def test_vtrace_by_hand() -> None:
    # One environment, gamma 0.5; the first action is twice as probable now, the second half as probable.
    log_ratios = torch.tensor([[2.0], [0.5]]).log()
    rewards, discounts = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.5]])
    values, next_values = torch.tensor([[4.0], [6.0]]), torch.tensor([[6.0], [12.0]])
    continues = torch.ones(2, 1)
    arguments = (log_ratios, rewards, discounts, values, next_values, continues)
    # t=1: delta = 0.5 * (2 + 0.5 * 12 - 6) = 1, v = 7          t=0: delta = 1 + 0.5 * 6 - 4 = 0, v = 4 + 0.5 * (7 - 6)
    targets, advantages = vtrace(*arguments)
    assert targets.flatten().tolist() == pytest.approx([4.5, 7.0])
    # t=1: 0.5 * (2 + 6 - 6)                                    t=0: 1 + 0.5 * 7 - 4
    assert advantages.flatten().tolist() == pytest.approx([0.5, 1.0])
    # rho_bar 2 doubles the first step's own terms, c_bar 2 what comes back from the second, lambda 0.5 halves that.
    targets, advantages = vtrace(*arguments, rho_bar=2.0)
    assert (targets[0, 0], advantages[0, 0]) == (pytest.approx(4.5), pytest.approx(1.0))
    assert vtrace(*arguments, c_bar=2.0)[0][0, 0] == pytest.approx(5.0)
    assert vtrace(*arguments, lambda_=0.5)[0][0, 0] == pytest.approx(4.25)


_VTRACE_SIZES = (st.integers(1, 7), st.integers(1, 3), st.integers(0, 10_000))


@settings(max_examples=60, deadline=None)
@given(*_VTRACE_SIZES, st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 3), st.floats(0.1, 3))
def test_vtrace_is_the_double_sum_of_the_paper(
    steps: int, number: int, seed: int, gamma: float, lambda_: float, rho_bar: float, c_bar: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4, steps, number, generator=generator, dtype=torch.float64)
    log_ratios, rewards, values, next_values = noise.unbind()
    kind = torch.randint(0, 4, (steps, number), generator=generator)  # 0, 3 go on, 1 terminated, 2 truncated
    ended = (kind == 1) | (kind == 2)
    # Rows of one episode chain: the value of the next state is that of the next row.
    next_values[:-1] = torch.where(ended[:-1], next_values[:-1], values[1:])
    targets, advantages = vtrace(
        log_ratios,
        rewards,
        gamma * (kind != 1).double(),
        values,
        next_values,
        (~ended).double(),
        lambda_=lambda_,
        rho_bar=rho_bar,
        c_bar=c_bar,
    )

    def delta(t: int, n: int) -> float:
        bootstrap = 0.0 if kind[t, n] == 1 else gamma * float(next_values[t, n])
        rho = min(rho_bar, math.exp(float(log_ratios[t, n])))
        return rho * (float(rewards[t, n]) + bootstrap - float(values[t, n]))

    for n in range(number):
        expected = [0.0] * steps
        for s in range(steps):
            last = next((t for t in range(s, steps) if ended[t, n]), steps - 1)
            expected[s] = float(values[s, n])
            for t in range(s, last + 1):
                trace = math.prod(lambda_ * min(c_bar, math.exp(float(log_ratios[i, n]))) for i in range(s, t))
                expected[s] += gamma ** (t - s) * trace * delta(t, n)
        assert targets[:, n].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        for s in range(steps):
            goes_on = s + 1 < steps and not ended[s, n]
            following = expected[s + 1] if goes_on else float(next_values[s, n])
            following = 0.0 if kind[s, n] == 1 else following
            rho = min(rho_bar, math.exp(float(log_ratios[s, n])))
            advantage = rho * (float(rewards[s, n]) + gamma * following - float(values[s, n]))
            assert float(advantages[s, n]) == pytest.approx(advantage, rel=1e-9, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(*_VTRACE_SIZES, st.floats(0, 1))
def test_vtrace_on_policy_is_the_n_step_bellman_target(steps: int, number: int, seed: int, gamma: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, steps, number, generator=generator, dtype=torch.float64).unbind()
    last = torch.randn(1, number, generator=generator, dtype=torch.float64)
    ones = torch.ones(steps, number, dtype=torch.float64)
    next_values = torch.cat((values[1:], last))
    targets, advantages = vtrace(0 * ones, rewards, gamma * ones, values, next_values, ones)
    for t in range(steps):
        target = sum(gamma ** (k - t) * rewards[k] for k in range(t, steps)) + gamma ** (steps - t) * last[0]
        torch.testing.assert_close(targets[t], target)
        torch.testing.assert_close(advantages[t], target - values[t])
