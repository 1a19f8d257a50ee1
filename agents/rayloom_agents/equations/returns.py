"""Return estimates as pure functions of tensors. No environment, config or optimiser in sight.

T time steps, N environments. A discount [.] is gamma where the return bootstraps and 0 after a terminal state.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    next_values: Tensor,
    continues: Tensor,
    lambda_: float,
) -> Tensor:
    """Return GAE(lambda) advantages [T, N] (Schulman et al. 2016, equation 16).

    delta_t = r_t + discount_t * V(s'_t) - V(s_t);  A_t = delta_t + discount_t * lambda * continues_t * A_{t+1}.

    `values` [T, N] are V(s_t) and `next_values` [T, N] are V of the true successors, so that a truncated episode
    bootstraps from its own last observation. `continues` [T, N] is 1 where row t+1 goes on with the same episode and 0
    where the episode ended at t in either way. Row T-1 has no successor: its advantage is delta.
    """
    deltas = rewards + discounts * next_values - values  # [T, N]
    decays = discounts * continues * lambda_  # [T, N]
    advantage = torch.zeros_like(deltas[0])
    advantages = [advantage] * len(deltas)
    for t, (delta, decay) in reversed(list(enumerate(zip(deltas.unbind(), decays.unbind(), strict=True)))):
        advantage = torch.addcmul(delta, decay, advantage)
        advantages[t] = advantage
    return torch.stack(advantages)


def rewards_to_go(rewards: Tensor, discounts: Tensor, next_values: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """Return discounted returns [T, N] to the end of each episode, and whether that end is among the rows [T, N].

    G_t = r_t + discount_t * (V(s'_t) where the episode ends at t or the rows do, else G_{t+1}).

    `ended` [T, N] marks the last step of an episode, whether it terminated or was cut off; there a `discount` of 0, or
    not, decides whether the successor's value counts (Sutton & Barto 2018, equation 3.9).
    """
    following, known, returns, complete = next_values[-1], ended[-1], [], []
    for reward, discount, value, end in zip(
        rewards.flip(0), discounts.flip(0), next_values.flip(0), ended.flip(0), strict=True
    ):
        following = reward + discount * torch.where(end, value, following)
        known = known | end
        returns.append(following)
        complete.append(known)
    return torch.stack(returns[::-1]), torch.stack(complete[::-1])


def n_step_targets(
    rewards: Tensor, lengths: Tensor, terminated: Tensor, bootstrap_values: Tensor, gamma: float
) -> Tensor:
    """Return n-step targets [B]: sum_k gamma^k r_k + discount * bootstrap (Sutton & Barto 2018, equation 7.1).

    `rewards` [B, n] are 0 after the segment's end, `lengths` [B] its number of steps, `bootstrap_values` [B] the value
    of the state behind it; the discount is gamma^length, or 0 where the segment ended in a terminal state.
    """
    powers = gamma ** torch.arange(rewards.shape[1], device=rewards.device, dtype=rewards.dtype)
    return rewards @ powers + n_step_discounts(lengths, terminated, gamma) * bootstrap_values


def n_step_discounts(lengths: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """Return gamma^length [B], or 0 where the segment ended in a terminal state."""
    return gamma ** lengths.to(torch.float32) * (~terminated).to(torch.float32)


def double_q_values(online_next: Tensor, target_next: Tensor) -> Tensor:
    """Return the target network's value [B] of the online network's best action (van Hasselt et al. 2016, equation 4).

    Both arguments are action values [B, A] of the successor states.
    """
    best = online_next.argmax(dim=1, keepdim=True)
    return target_next.gather(1, best).squeeze(1)


def vtrace(
    log_ratios: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    next_values: Tensor,
    continues: Tensor,
    *,
    lambda_: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return V-trace targets v [T, N] and policy-gradient advantages [T, N] (Espeholt et al. 2018, equations 1 and 2).

    With the importance weights rho_t = min(rho_bar, pi / mu) and c_t = lambda * min(c_bar, pi / mu):

    delta_t = rho_t * (r_t + discount_t * V(s'_t) - V(s_t));
    v_t = V(s_t) + delta_t + discount_t * c_t * continues_t * (v_{t+1} - V(s_{t+1}));
    advantage_t = rho_t * (r_t + discount_t * v'_t - V(s_t)), where v'_t is v_{t+1}, or V(s'_t) where row t+1 does not
    go on with the same episode.

    `log_ratios` [T, N] are log pi - log mu of the actions taken; all else is as in `generalized_advantages`, so that a
    truncated episode bootstraps from its own last observation. On policy, with lambda = 1, v_t is the n-step Bellman
    target to the end of the rows. Nothing here is to be differentiated.
    """
    ratios = log_ratios.exp()
    weights = ratios.clamp(max=rho_bar)
    deltas = weights * (rewards + discounts * next_values - values)  # [T, N]
    decays = discounts * continues * lambda_ * ratios.clamp(max=c_bar)  # [T, N]
    correction = torch.zeros_like(deltas[0])  # v_t - V(s_t)
    corrections = [correction] * len(deltas)
    for t, (delta, decay) in reversed(list(enumerate(zip(deltas.unbind(), decays.unbind(), strict=True)))):
        correction = torch.addcmul(delta, decay, correction)
        corrections[t] = correction
    targets = values + torch.stack(corrections)
    # Row T-1 has no successor, as if its episode ended there.
    following = torch.cat((torch.where(continues[:-1] > 0, targets[1:], next_values[:-1]), next_values[-1:]))
    return targets, weights * (rewards + discounts * following - values)


_SLOPE = 1e-3


def rescale(values: Tensor) -> Tensor:
    """Return h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x (Pohlen et al. 2018, proposition A.1)."""
    return values.sign() * ((values.abs() + 1).sqrt() - 1) + _SLOPE * values


def unscale(values: Tensor) -> Tensor:
    """Return the inverse of `rescale`, in the form of the same proposition."""
    root = (1 + 4 * _SLOPE * (values.abs() + 1 + _SLOPE)).sqrt()
    return values.sign() * (((root - 1) / (2 * _SLOPE)).square() - 1)
