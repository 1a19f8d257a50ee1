"""How environments, batches and replay are shared among learners and rollout workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rayloom.config.schema import RunConfig
from rayloom.config.sources import DatasetSourceConfig, EnvironmentSourceConfig, ReplaySourceConfig
from rayloom.errors import UserError


def environment_share(config: RunConfig, index: int) -> tuple[int, int]:
    """Return (number, first index) of the environments of rollout worker `index`."""
    source: Any = config.source
    learners = config.learner.count
    workers = source.rollout_workers or learners
    if workers % learners:
        raise UserError(
            f"source.rollout_workers: {workers} rollout workers cannot be shared evenly by {learners} learners; make "
            f"it a multiple of learner.count, or 0"
        )
    if source.num_envs % workers:
        raise UserError(
            f"source.num_envs: {source.num_envs} environments cannot be shared evenly by {workers} rollout workers; "
            f"make it a multiple of {'source.rollout_workers' if source.rollout_workers else 'learner.count'}"
        )
    share = source.num_envs // workers
    return share, share * index


def learner_share(config: RunConfig) -> tuple[EnvironmentSourceConfig, int]:
    """Return one learner's share of a source with environments, and of the batch.

    UserError where they cannot be shared evenly.
    """
    source, count = config.source, config.learner.count
    assert not isinstance(source, DatasetSourceConfig)
    if config.learner.batch_size % count:
        raise UserError(f"learner.batch_size: {config.learner.batch_size} is no multiple of the {count} learners")
    environment_share(config, 0)
    share: EnvironmentSourceConfig = replace(
        source, num_envs=source.num_envs // count, rollout_workers=source.rollout_workers // count
    )
    if isinstance(share, ReplaySourceConfig):
        share = replace(
            share,
            capacity=max(1, share.capacity // count),
            learning_starts=-(-share.learning_starts // count),
            steps_per_update=share.steps_per_update / count,
        )
    return share, config.learner.batch_size // count
