"""How environments, batches and what else a source has are shared among learners and rollout workers."""

from __future__ import annotations

from typing import Any

from rayloom.config.schema import RunConfig
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


def learner_share(config: RunConfig, rank: int = 0) -> tuple[Any, int]:
    """Return the settings of a learner's source and the size of its part of the batch.

    UserError where they cannot be shared.
    """
    batch_size, count, source = config.learner.batch_size, config.learner.count, config.source_class()
    if source.equal_shares and batch_size % count:
        raise UserError(f"learner.batch_size: {batch_size} is no multiple of the {count} learners")
    if batch_size < count:
        raise UserError(f"learner.batch_size: {batch_size} is too small for the {count} learners; raise it")
    if config.workers() is not None:
        environment_share(config, 0)
    return source.share(config.source, rank, count), batch_size // count
