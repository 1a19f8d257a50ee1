"""Held-out evaluation: whole greedy episodes in environments, or one pass over a split of a data set.

An evaluation never changes the run: it draws from generators of its own, seeded by the seed tree and its number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config.schema import RunConfig
from rayloom.config.sources import DatasetSourceConfig
from rayloom.contract import Algorithm, Batch, Figure, Table
from rayloom.datasets.dataset import Dataset
from rayloom.devices import device_of
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.making import make_environment
from rayloom.seeding import derive_seed


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found."""

    metrics: dict[str, float]
    """By full name, evaluate/..."""
    figures: dict[str, Figure] = field(default_factory=dict)


class Evaluator:
    """Evaluates one algorithm object, which it shares with its owner. Used by one thread."""

    def __init__(self, config: RunConfig, algorithm: Algorithm, dataset: Dataset | None) -> None:
        self._config = config
        self._algorithm = algorithm
        self._dataset = dataset
        self._environment: Environment | None = None

    def evaluate(self, number: int, split: str | None = None, episodes: int | None = None) -> Evaluation:
        """Evaluate; `number` addresses the seeds, so that equal numbers meet equal episodes."""
        algorithm = self._algorithm
        training = algorithm.training
        algorithm.eval()
        device = device_of(algorithm)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(derive_seed(self._config.seed, "evaluate", number, "torch"))
            if isinstance(self._config.source, DatasetSourceConfig):
                result = self._evaluate_data(split or self._config.evaluate.split)
            else:
                result = self._evaluate_episodes(number, episodes or self._config.evaluate.episodes)
        algorithm.train(training)
        return result

    def close(self) -> None:
        """Close the evaluation environments."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    # --- environments ----------------------------------------------------------------------------------------------

    def _evaluate_episodes(self, number: int, episodes: int) -> Evaluation:
        algorithm, config = self._algorithm, self._config.evaluate
        num_envs = min(config.num_envs or episodes, episodes)
        if self._environment is None or self._environment.num_envs != num_envs:
            self.close()
            self._environment = make_environment(self._config.source, num_envs)  # type: ignore[arg-type]
        environment = self._environment
        # Every environment owes a fixed number of episodes: taking whichever end first would favour short ones.
        owed = np.array([episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)])
        returns, lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
        finished: list[tuple[float, int]] = []
        algorithm.after_publish()
        observation = environment.reset(derive_seed(self._config.seed, "evaluate", number, "environment"))
        acting = ActingAlgorithm(algorithm)
        acting.begin(num_envs)
        while owed.any():
            step = environment.step(acting.choose(observation, None)[0])
            acting.observe_ends(step.begins)
            returns += step.reward * step.valid
            lengths += step.valid
            done = (step.terminated | step.truncated) & step.valid
            if done.any():
                for n in np.flatnonzero(done):
                    if owed[n]:
                        finished.append((float(returns[n]), int(lengths[n])))
                        owed[n] -= 1
                    returns[n], lengths[n] = 0.0, 0
            if (lengths * (owed > 0)).max() >= config.max_episode_steps:
                raise RuntimeError(
                    f"an evaluation episode did not end within {config.max_episode_steps} steps "
                    f"(evaluate.max_episode_steps)"
                )
            observation = step.observation
        totals = np.array([total for total, _ in finished])
        return Evaluation(
            {
                "evaluate/return_mean": float(totals.mean()),
                "evaluate/return_std": float(totals.std()),
                "evaluate/return_min": float(totals.min()),
                "evaluate/return_max": float(totals.max()),
                "evaluate/episode_length_mean": float(np.mean([length for _, length in finished])),
            }
        )

    # --- data ------------------------------------------------------------------------------------------------------

    def _evaluate_data(self, split: str) -> Evaluation:
        assert self._dataset is not None
        algorithm = self._algorithm
        device = device_of(algorithm)
        table: Table = getattr(self._dataset, split)
        count = len(table)
        sums: dict[str, Any] = {}
        outputs: dict[str, list[Tensor]] = {}
        figures: dict[str, Figure] = {}
        for number, read in enumerate(table.batches(self._config.evaluate.batch_size)):
            batch: Batch = {name: value.to(device) for name, value in read.items()}
            rows = len(next(iter(batch.values())))
            prepared = algorithm.prepare(batch)
            for name, value in algorithm.evaluate(prepared).items():
                if name.startswith("_"):
                    outputs.setdefault(name, []).append(value)
                else:
                    total = value.double().sum() if value.ndim else value.double() * rows
                    sums[name] = sums.get(name, 0.0) + total
            if number == 0:
                figures.update(algorithm.figures(prepared))
        metrics = {f"evaluate/{name}": float(total) / count for name, total in sums.items()}
        scalars, more = algorithm.summarize({name: torch.cat(values) for name, values in outputs.items()})
        metrics.update({f"evaluate/{name}": float(value) for name, value in scalars.items()})
        figures.update(more)
        return Evaluation(metrics, figures)
