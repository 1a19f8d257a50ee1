"""Running statistics of observations and rewards, and what is scaled by them.

    collected: see(rows)  -->  prepare: merge(sum over learners)  -->  forward: (x - mean) / standard deviation

Statistics change in `merge` only, so that what acted and what is learnt from agree, and evaluations and exported models
have them frozen. Blocks are merged as Chan et al. 1983 do it (Welford's recursion for blocks), in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import Spec, TensorSpec, Trajectory, UserError, gather_parts
from rayloom_agents.networks.encoder import MASK, is_image

_LARGEST = 10.0
_LEAST_VARIANCE = 1e-8


class RunningStatistics(nn.Module):
    """Mean and variance of each column of all rows [B, size] that were seen, over all learners."""

    count: Tensor
    mean: Tensor
    squares: Tensor
    shift: Tensor
    factor: Tensor

    def __init__(self, size: int) -> None:
        """Begin with nothing: until the first `merge`, `forward` changes nothing but numbers beyond ten."""
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))  # of deviations from the mean
        self.register_buffer("shift", torch.zeros(size))  # the mean and 1 / deviation, as `forward` needs them
        self.register_buffer("factor", torch.ones(size))
        # Empty between two updates, which is where checkpoints are written.
        self._pending: Tensor | None = None

    def see(self, rows: Tensor) -> None:
        """Remember rows [B, size] for the next `merge`."""
        deviation = rows.to(torch.float64) - self.mean
        sums = torch.stack((torch.full_like(self.mean, len(rows)), deviation.sum(0), deviation.square().sum(0)))
        self._pending = sums if self._pending is None else self._pending + sums

    def merge(self, sum_over_learners: Callable[[Tensor], Tensor]) -> None:
        """Take in what all learners have seen since the last call; they must call it alike."""
        seen = torch.zeros(3, len(self.mean), dtype=torch.float64, device=self.mean.device)
        numbers, sums, squares = sum_over_learners(seen if self._pending is None else self._pending)
        self._pending = None
        number = numbers[0]
        if float(number) == 0.0:
            return
        total = self.count + number
        distance = sums / number  # of the new rows' mean from the old mean
        self.squares += squares - sums * distance + distance.square() * self.count * number / total
        self.mean += distance * number / total
        self.count.copy_(total)
        self.shift.copy_(self.mean)
        self.factor.copy_((self.variance() + _LEAST_VARIANCE).rsqrt())

    def variance(self) -> Tensor:
        """Return the variance [size] (division by the count) of everything merged so far."""
        return self.squares / self.count

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows [B, size] with mean 0 and standard deviation 1, cut off at ten."""
        return ((rows.to(torch.float32) - self.shift) * self.factor).clamp(-_LARGEST, _LARGEST)


class ObservationNormalizer(nn.Module):
    """Normalises the real parts of an observation; images, categories and action masks stay as they are."""

    def __init__(self, spec: Spec) -> None:
        """Raise UserError where the observation has no real part."""
        super().__init__()
        found = gather_parts(spec, "observation")
        self._plain = isinstance(found, TensorSpec)
        parts: Mapping[str, TensorSpec] = {"": found} if self._plain else found
        self._names = [
            name for name, part in parts.items() if name != MASK and part.num_values is None and not is_image(part)
        ]
        if not self._names:
            raise UserError("algorithm.normalize_observation: the observations have no real numbers; set it to false")
        self._columns = [RunningStatistics(math.prod(parts[name].shape)) for name in self._names]
        self.statistics = nn.ModuleList(self._columns)

    def forward(self, observation: Any) -> Any:
        """Return an observation [B, ...] with its real parts as normalised rows [B, D]."""
        if self._plain:
            return self._columns[0](observation.reshape(len(observation), -1))
        changed = {
            name: statistics(observation[name].reshape(len(observation[name]), -1))
            for name, statistics in zip(self._names, self._columns, strict=True)
        }
        return {**observation, **changed}

    def see(self, trajectory: Trajectory) -> None:
        """Remember the observations of a chunk [T, N, ...], dead steps left out."""
        found, valid = gather_parts(trajectory, "observation"), trajectory["valid"].flatten()
        for name, statistics in zip(self._names, self._columns, strict=True):
            part = found if self._plain else found[name]
            statistics.see(part.flatten(0, 1).flatten(1)[valid] if part.ndim > 2 else part.flatten()[valid, None])

    def merge(self, sum_over_learners: Callable[[Tensor], Tensor]) -> None:
        """Take in what all learners have seen since the last call."""
        for statistics in self._columns:
            statistics.merge(sum_over_learners)


class RewardScale(nn.Module):
    """Divides rewards by the standard deviation of the discounted sum of rewards since an episode's start.

    As published implementations of PPO do it. The running sums of the episodes are no state: every checkpoint restarts
    the environments. Only for sources that show every environment's steps in order (on_policy).
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.statistics = RunningStatistics(1)
        self._gamma = gamma
        self._running: Tensor | None = None

    def see(self, trajectory: Trajectory) -> None:
        """Remember the discounted sums of a rollout [T, N]."""
        rewards, goes_on = trajectory["reward"].to(torch.float64), ~trajectory["first"]
        running = self._running
        if running is None or running.shape != rewards.shape[1:]:
            running = torch.zeros_like(rewards[0])
        sums = []
        for reward, keeps in zip(rewards.unbind(), goes_on.unbind(), strict=True):
            running = reward + self._gamma * keeps * running
            sums.append(running)
        self._running = running
        self.statistics.see(torch.stack(sums)[trajectory["valid"]].unsqueeze(1))

    def merge(self, sum_over_learners: Callable[[Tensor], Tensor]) -> None:
        """Take in what all learners have seen since the last call."""
        self.statistics.merge(sum_over_learners)

    def forward(self, reward: Tensor) -> Tensor:
        """Return scaled rewards, cut off at ten."""
        return (reward * self.statistics.factor).clamp(-_LARGEST, _LARGEST)
