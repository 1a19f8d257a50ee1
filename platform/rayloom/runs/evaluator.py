"""Held-out evaluation: whole greedy episodes in environments, one pass over a split of a data set, or the user's own.

An evaluation never changes the run: it draws from generators of its own, seeded by the seed tree and its number.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config.evaluations import import_evaluation
from rayloom.config.schema import RunConfig
from rayloom.config.sources import EnvironmentFields
from rayloom.contract import Algorithm, Batch, Budget, Evaluation, EvaluationContext, Figure, Findings, Table
from rayloom.datasets.dataset import Dataset
from rayloom.devices import device_of
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.making import make_environment
from rayloom.runs.isolation import isolated
from rayloom.seeding import derive_seed

Array = np.ndarray[Any, Any]


def evaluation_source(config: RunConfig) -> EnvironmentFields:
    """Return the settings of the evaluations' environments: the source's, with options and wrappers of their own."""
    source = config.source
    assert isinstance(source, EnvironmentFields)
    own = config.evaluate
    wrappers = source.wrappers if own.wrappers is None else own.wrappers
    return replace(source, env_options={**source.env_options, **own.env_options}, wrappers=wrappers)


class Evaluator:
    """Evaluates one algorithm object, which it shares with its owner. Used by one thread."""

    def __init__(self, config: RunConfig, algorithm: Algorithm, dataset: Dataset | None) -> None:
        self._config = config
        self._algorithm = algorithm
        self._dataset = dataset
        self._environment: Environment | None = None
        self._own = self._make_own()
        self._budget = Budget(config.evaluate.deadline_s)

    def _make_own(self) -> Evaluation | None:
        """Return the evaluation that the config imports; None for the engine's own two."""
        own = self._config.evaluate.own
        if own is None:
            return None
        context = EvaluationContext(source=self._config.source, data=self._dataset)
        return import_evaluation(own.path)(own.settings, context)

    @property
    def units(self) -> int:
        """Units of work that the newest evaluation has done."""
        return self._budget.units

    def evaluate(self, number: int, split: str | None = None, episodes: int | None = None) -> Findings:
        """Evaluate; `number` addresses the seeds, so that equal numbers meet equal episodes."""
        config = self._config.evaluate
        with isolated(self._algorithm, self._config.seed, number):
            self._budget = Budget(config.deadline_s, episodes)
            if self._own is not None:
                self._algorithm.after_publish()
                result = self._own.run(
                    self._algorithm, derive_seed(self._config.seed, "evaluate", number), self._budget
                )
            elif self._dataset is not None:
                result = self._evaluate_data(split or config.split)
            elif self._config.source_class().uses_environments:
                result = self._evaluate_episodes(number, episodes or config.episodes)
            else:
                result = Findings({})
        return replace(result, metrics={f"evaluate/{name}": float(value) for name, value in result.metrics.items()})

    def close(self) -> None:
        """Close the evaluation environments."""
        if self._own is not None:
            self._own.close()
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    # --- environments ----------------------------------------------------------------------------------------------

    def _evaluate_episodes(self, number: int, episodes: int) -> Findings:
        algorithm, config = self._algorithm, self._config.evaluate
        num_envs = min(config.num_envs or episodes, episodes)
        if self._environment is None or self._environment.num_envs != num_envs:
            self.close()
            self._environment = make_environment(evaluation_source(self._config), num_envs)
        environment = self._environment
        # Every environment owes a fixed number of episodes: taking whichever end first would favour short ones.
        owed = np.array([episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)])
        finished: list[tuple[float, int]] = []
        algorithm.after_publish()
        address: tuple[str | int, ...] = ("evaluate", number, "environment")
        rounds = 0
        while owed.any():
            seed = derive_seed(self._config.seed, *address, *([rounds] if rounds else []))
            self._play(environment, seed, owed, finished)
            rounds += 1
        totals = np.array([total for total, _ in finished])
        return Findings(
            {
                "return_mean": float(totals.mean()),
                "return_std": float(totals.std()),
                "return_min": float(totals.min()),
                "return_max": float(totals.max()),
                "episode_length_mean": float(np.mean([length for _, length in finished])),
            }
        )

    def _play(self, environment: Environment, seed: int, owed: Array, finished: list[tuple[float, int]]) -> None:
        """Play episodes from a reset until each environment has given those that it owes, or had one cut off.

        Environments restart by themselves where an episode ends, but not where we cut it off after
        `max_episode_steps`: one that owes more then waits for the next reset of all.
        """
        algorithm, longest = self._algorithm, self._config.evaluate.max_episode_steps
        num_envs = environment.num_envs
        returns, lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
        plays = owed > 0
        observation = environment.reset(seed)
        acting = ActingAlgorithm(algorithm)
        acting.begin(num_envs)
        while plays.any():
            step = environment.step(acting.choose(observation, None)[0])
            acting.observe_ends(step.begins)
            self._budget.done()
            returns += step.reward * step.valid
            lengths += step.valid
            done = (step.terminated | step.truncated) & step.valid
            cut = ~done & (lengths >= longest)
            for n in np.flatnonzero(done | cut):
                if plays[n]:
                    finished.append((float(returns[n]), int(lengths[n])))
                    owed[n] -= 1
                    plays[n] = owed[n] > 0 and not cut[n]
                returns[n], lengths[n] = 0.0, 0
            observation = step.observation

    # --- data ------------------------------------------------------------------------------------------------------

    def _evaluate_data(self, split: str) -> Findings:
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
            self._budget.done()
            if number == 0:
                figures.update(algorithm.figures(prepared))
        metrics = {name: float(total) / count for name, total in sums.items()}
        scalars, more = algorithm.summarize({name: torch.cat(values) for name, values in outputs.items()})
        metrics.update({name: float(value) for name, value in scalars.items()})
        figures.update(more)
        return Findings(metrics, figures)
