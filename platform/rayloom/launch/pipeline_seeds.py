"""One pipeline with several seeds: pipelines one after the other, which a second call goes on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rayloom.config.load import find_config, read_mapping
from rayloom.errors import UserError
from rayloom.launch.pipeline import PipelineResult, pipeline_job, run_pipeline
from rayloom.runs.jobs import seed_job
from rayloom.runs.observer import Observer


@dataclass(frozen=True)
class PipelineSeeds:
    """What the pipelines of several seeds returned."""

    group: str
    """What they have in common: their jobs are GROUP-seed-0, GROUP-seed-1, ..."""
    pipelines: tuple[PipelineResult, ...]
    """Of the seeds 0, 1, ..."""


def run_pipeline_seeds(
    file: str,
    *overrides: str,
    seeds: int,
    local: bool = False,
    job: str | None = None,
    observe: Callable[[str], Observer] | None = None,
) -> PipelineSeeds:
    """Train a pipeline with the seeds 0 to `seeds` - 1, one after the other; a larger number adds seeds.

    A stage for which the pipeline itself sets a seed keeps it, and comes to the same bits each time: what all seeds
    are judged by. Other arguments are those of `run_pipeline`. UserError where `overrides` set the seed of all stages.
    """
    if any(word.partition("=")[0].strip() == "seed" for word in overrides):
        raise UserError("--seeds trains with the seeds 0, 1, ...: leave out seed=")
    kept = _seeds_of_stages(file)

    def words(seed: int) -> list[str]:
        return [*kept, *overrides, f"seed={seed}"]

    group = job or pipeline_job(file, *words(0))
    done = []
    for seed in range(seeds):

        def watch(stage: str, seed: int = seed) -> Observer:
            assert observe is not None
            return observe(f"{stage}, seed {seed}")

        watched = watch if observe else None
        done.append(run_pipeline(file, *words(seed), local=local, job=seed_job(group, seed), observe=watched))
    return PipelineSeeds(group, tuple(done))


def _seeds_of_stages(file: str) -> list[str]:
    """Return the seeds that a pipeline sets for some of its stages, as overrides."""
    stages = read_mapping(find_config(file)).get("stages")
    if not isinstance(stages, dict):
        return []  # `run_pipeline` says what is wrong
    found = []
    for name, stage in stages.items():
        settings = stage.get("settings") if isinstance(stage, dict) else None
        if isinstance(settings, dict) and "seed" in settings:
            found.append(f"{name}.seed={settings['seed']}")
    return found
