"""Bellman's equations of finite Markov decision processes, and returns that bootstrap from tables.

S states, A actions. A model is `transitions` [S, A, S], the probability of going on in each successor (what ends the
episode is missing from the sum), and `rewards` [S, A], the expected reward.
"""

from __future__ import annotations

import torch
from torch import Tensor


def action_values(transitions: Tensor, rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    """Return q(s, a) = r(s, a) + gamma * sum_s' p(s' | s, a) v(s'), [..., A] for rows [..., A, S] of a model.

    Sutton & Barto 2018, equation 4.6.
    """
    expected: Tensor = rewards + gamma * transitions @ values
    return expected


def policy_values(transitions: Tensor, rewards: Tensor, gamma: float) -> Tensor:
    """Return the values [S] of a policy by the linear equations v = r + gamma P v (Sutton & Barto 2018, equation 4.4).

    `transitions` [S, S] and `rewards` [S] are those under the policy; gamma < 1, or every episode must end.
    """
    identity = torch.eye(len(rewards), dtype=transitions.dtype, device=transitions.device)
    values: Tensor = torch.linalg.solve(identity - gamma * transitions, rewards)
    return values


def under_policy(transitions: Tensor, rewards: Tensor, policy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the transitions [S, S] and rewards [S] under a policy [S, A] of probabilities."""
    return torch.einsum("sa,sat->st", policy, transitions), (policy * rewards).sum(1)


def greedy(values: Tensor, present: Tensor | None = None, tolerance: float = 1e-9) -> Tensor:
    """Return the best actions [S] for action values [S, A].

    The `present` action stays where it is as good but for `tolerance`: policy iteration would go round in circles
    among equal ones.
    """
    best = values.argmax(1)
    if present is None:
        return best
    kept = values.gather(1, present.unsqueeze(1)).squeeze(1) >= values.amax(1) - tolerance
    return torch.where(kept, present, best)


def optimal_values(transitions: Tensor, rewards: Tensor, gamma: float) -> Tensor:
    """Return the optimal values [S] by policy iteration (Howard 1960), exact but for rounding; gamma < 1."""
    policy = torch.zeros(len(rewards), dtype=torch.int64, device=rewards.device)
    while True:
        chosen = torch.nn.functional.one_hot(policy, rewards.shape[1]).to(rewards)
        values = policy_values(*under_policy(transitions, rewards, chosen), gamma)
        better = greedy(action_values(transitions, rewards, values, gamma), policy)
        if torch.equal(better, policy):
            return values
        policy = better


def lambda_returns(rewards: Tensor, discounts: Tensor, bootstraps: Tensor, continues: Tensor, lambda_: float) -> Tensor:
    """Return truncated lambda-returns [T, N] (Sutton & Barto 2018, equations 12.18 and 12.19).

    G_t = r_t + discount_t ((1 - lambda_t) b_t + lambda_t G_{t+1}), with lambda_t = lambda * continues_t.

    `bootstraps` [T, N] are the values of the successors, `discounts` [T, N] gamma or 0 after a terminal state,
    `continues` [T, N] 1 where row t+1 goes on with the same episode and its action may be counted. Row T-1 bootstraps.
    """
    following, returns = bootstraps[-1], []
    for reward, discount, bootstrap, mixed in zip(
        rewards.flip(0), discounts.flip(0), bootstraps.flip(0), (lambda_ * continues).flip(0), strict=True
    ):
        following = reward + discount * ((1 - mixed) * bootstrap + mixed * following)
        returns.append(following)
        # Where row t - 1 does not go on here, its own weight of this is 0.
    return torch.stack(returns[::-1])


def n_step_returns(rewards: Tensor, discounts: Tensor, bootstraps: Tensor, continues: Tensor, steps: int) -> Tensor:
    """Return n-step returns [T, N] (Sutton & Barto 2018, equation 7.4), shorter where an episode or the rows end.

    G^1_t = r_t + discount_t b_t;  G^k_t = r_t + discount_t G^(k-1)_{t+1}, or with b_t where row t+1 does not go on.
    Arguments as in `lambda_returns`.
    """
    found = rewards + discounts * bootstraps
    goes_on = continues.clone()
    goes_on[-1] = 0
    for _ in range(steps - 1):
        following = torch.cat((found[1:], bootstraps[-1:]))
        found = rewards + discounts * torch.where(goes_on > 0, following, bootstraps)
    return found
