"""The engine's own evaluations: whole greedy episodes in environments, and one pass over a split of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rayloom.config.evaluations import DataConfig, EpisodesConfig, NoEvaluationConfig
from rayloom.config.sources import EnvironmentFields
from rayloom.contract import (
    Algorithm,
    Batch,
    Budget,
    Evaluation,
    EvaluationContext,
    Figure,
    Findings,
    Metric,
    Table,
    UserError,
)
from rayloom.devices import device_of
from rayloom.learner.checks import check_evaluated
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.filming import check_pictures, film, small_pictures
from rayloom.rollouts.making import check_alike, make_environment
from rayloom.seeding import derive_seed

Array = np.ndarray[Any, Any]
_MOST_PICTURES = 60
"""Of an episode's animation."""


class NoEvaluation(Evaluation):
    """Finds nothing."""

    Config = NoEvaluationConfig

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Return no metrics."""
        return Findings({})


class EpisodesEvaluation(Evaluation):
    """Plays whole greedy episodes in environments of its own."""

    Config = EpisodesConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "return_mean": Metric(better="max", unit="return", meaning="mean over episodes"),
        "return_std": Metric(unit="return", meaning="standard deviation over episodes"),
        "return_min": Metric(better="max", unit="return", meaning="worst episode"),
        "return_max": Metric(better="max", unit="return", meaning="best episode"),
        "episode_length_mean": Metric(unit="steps", meaning="mean over episodes"),
    }

    def __init__(self, config: EpisodesConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        source = context.source
        if not isinstance(source, EnvironmentFields):
            raise UserError("evaluate.kind: episodes need a source with environments, and this run's has none")
        wrappers = source.wrappers if config.wrappers is None else config.wrappers
        self.source = replace(source, env_options={**source.env_options, **config.env_options}, wrappers=wrappers)
        """Settings of the environments: the source's, with options and wrappers of their own."""
        self._environment: Environment | None = None
        if config.film_steps:
            check_pictures(self.source)

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Play as many episodes as the settings or the budget say."""
        episodes = budget.count or self.config.episodes
        num_envs = min(self.config.num_envs or episodes, episodes)
        if self._environment is None or self._environment.num_envs != num_envs:
            self.close()
            self._environment = make_environment(self.source, num_envs)
            # Options and wrappers of its own may give them other bounds.
            check_alike(self._environment, policy.spec, "evaluate", "its environments", bounds=False)
        # Every environment owes a fixed number of episodes: taking whichever end first would favour short ones.
        owed = np.array([episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)])
        finished: list[tuple[float, int]] = []
        rounds = 0
        while owed.any():
            self._play(policy, budget, derive_seed(seed, rounds) if rounds else seed, owed, finished)
            rounds += 1
        totals = np.array([total for total, _ in finished])
        return Findings(
            {
                "return_mean": float(totals.mean()),
                "return_std": float(totals.std()),
                "return_min": float(totals.min()),
                "return_max": float(totals.max()),
                "episode_length_mean": float(np.mean([length for _, length in finished])),
            },
            self._film(policy, seed),
        )

    def _film(self, policy: Algorithm, seed: int) -> dict[str, Figure]:
        """Return an animation of one more episode, where the settings ask for it."""
        if not self.config.film_steps:
            return {}
        frames = film(self.source, policy, seed, self.config.film_steps)
        return {"episode": Figure("animation", small_pictures(frames, _MOST_PICTURES))}

    def _play(
        self, policy: Algorithm, budget: Budget, seed: int, owed: Array, finished: list[tuple[float, int]]
    ) -> None:
        """Play episodes from a reset until each environment has given those that it owes, or had one cut off.

        Environments restart by themselves where an episode ends, but not where we cut it off after
        `max_episode_steps`: one that owes more then waits for the next reset of all.
        """
        environment, longest = self._environment, self.config.max_episode_steps
        assert environment is not None
        num_envs = environment.num_envs
        returns, lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
        plays = owed > 0
        observation = environment.reset(seed)
        acting = ActingAlgorithm(policy)
        acting.begin(num_envs)
        while plays.any():
            step = environment.step(acting.choose(observation, None)[0])
            acting.observe_ends(step.begins)
            budget.done()
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

    def close(self) -> None:
        """Close the environments."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None


class DataEvaluation(Evaluation):
    """Lets the algorithm judge itself on a split of the run's data set; the metrics are the algorithm's."""

    Config = DataConfig

    def __init__(self, config: DataConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        if context.data is None:
            raise UserError("evaluate.kind: data needs a data set, and this run's source has none")
        self._checked = False

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Return the means of the algorithm's metrics over all examples, or over the elements for which they count."""
        device = device_of(policy)
        table: Table = getattr(self.context.data, self.config.split)
        sums: dict[str, Any] = {}
        counts: dict[str, Any] = {}
        outputs: dict[str, list[Tensor]] = {}
        figures: dict[str, Figure] = {}
        for number, read in enumerate(table.batches(self.config.batch_size)):
            batch: Batch = {name: value.to(device) for name, value in read.items()}
            rows = len(next(iter(batch.values())))
            prepared = policy.prepare(batch)
            found = policy.evaluate(prepared)
            if not self._checked:
                self._checked = True
                check_evaluated(policy, found, rows)
            for name, value in found.items():
                if isinstance(value, Tensor) and name.startswith("_"):
                    outputs.setdefault(name, []).append(value)
                    continue
                total, count = _summed(value, rows)
                sums[name], counts[name] = sums.get(name, 0.0) + total, counts.get(name, 0.0) + count
            budget.done()
            if number == 0:
                figures.update(policy.figures(prepared))
        for name, count in counts.items():
            if not float(count):
                raise UserError(f"{type(policy).__name__}.evaluate: the count of {name!r} is 0 over the whole split")
        metrics = {name: float(total) / float(counts[name]) for name, total in sums.items()}
        scalars, more = policy.summarize({name: torch.cat(values) for name, values in outputs.items()})
        metrics.update({name: float(value) for name, value in scalars.items()})
        figures.update(more)
        return Findings(metrics, figures)


def _summed(value: Tensor | tuple[Tensor, Tensor], rows: int) -> tuple[Tensor, Tensor | int]:
    """Return the sum of a metric over a batch of `rows` examples, and the count by which it is to be divided."""
    if isinstance(value, tuple):
        return value[0].double().sum(), value[1].double().sum()
    return (value.double().sum() if value.ndim else value.double() * rows), rows
