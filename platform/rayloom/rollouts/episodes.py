"""Returns and lengths of episodes: those that run, and statistics of those that ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class RunningEpisodes:
    """Returns and lengths of the episodes that have begun and not ended."""

    def __init__(self, num_envs: int) -> None:
        self._returns = np.zeros(num_envs, dtype=np.float64)
        self.lengths = np.zeros(num_envs, dtype=np.int64)

    def finish(self, storage: Mapping[str, np.ndarray], cut: Sequence[tuple[int, int]] = ()) -> list[tuple[float, int]]:
        """Add a chunk [T, N] and return the episodes that ended in it as (return, length), in order of time.

        `cut` lists (step, environment) at which an episode was lost: what it had collected until then is forgotten.
        """
        reward, valid = storage["reward"], storage["valid"]
        done = (storage["terminated"] | storage["truncated"]) & valid
        returns = self._returns + np.cumsum(reward * valid, axis=0, dtype=np.float64)
        lengths = self.lengths + np.cumsum(valid, axis=0)
        lost = set(cut)
        for t, n in lost:
            done[t, n] = True
        episodes: list[tuple[float, int]] = []
        if done.any():
            for t, n in zip(*np.nonzero(done), strict=True):
                if (int(t), int(n)) not in lost:
                    episodes.append((float(returns[t, n]), int(lengths[t, n])))
                returns[t:, n] -= returns[t, n]
                lengths[t:, n] -= lengths[t, n]
        self._returns, self.lengths = returns[-1], lengths[-1]
        return episodes


class EpisodeStatistics:
    """Sums over the episodes since the last report."""

    def __init__(self) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self.episodes = 0

    def add(self, episodes: list[tuple[float, int]]) -> None:
        """Count episodes given as (return, length)."""
        self.episodes += len(episodes)
        for total, length in episodes:
            self._returns.append(total)
            self._lengths.append(length)

    def drain(self) -> dict[str, float]:
        """Return means since the last call; nothing when no episode ended."""
        if not self._returns:
            return {}
        means = {
            "return_mean": float(np.mean(self._returns)),
            "return_max": float(np.max(self._returns)),
            "episode_length_mean": float(np.mean(self._lengths)),
        }
        self._returns, self._lengths = [], []
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the unreported episodes and their total number."""
        return {"returns": list(self._returns), "lengths": list(self._lengths), "episodes": self.episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._returns = [float(value) for value in state["returns"]]
        self._lengths = [int(value) for value in state["lengths"]]
        self.episodes = int(state["episodes"])
