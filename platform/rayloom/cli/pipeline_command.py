"""The command `rayloom pipeline`: the stages of a pipeline, each with a display of its own."""

from __future__ import annotations

import argparse
from typing import Any

from rayloom.cli.run_display import Display, make_observer
from rayloom.cli.terminal import human_stream, own_stdout, print_json
from rayloom.launch.pipeline import PipelineResult, run_pipeline
from rayloom.launch.pipeline_seeds import PipelineSeeds, run_pipeline_seeds
from rayloom.runs.catalogue import SeedGroup, read_past_run
from rayloom.signals import Terminated


def run_pipeline_command(options: argparse.Namespace) -> int:
    """Train the stages that are not finished."""
    human, displays = human_stream(options), list[Display]()

    def observe(stage: str) -> Display:
        for earlier in displays:
            earlier.close()
        print(f"\nstage {stage}", file=human, flush=True)
        displays.append(make_observer(human, json=options.json, quiet=options.quiet, verbose=options.verbose))
        return displays[-1]

    given: dict[str, Any] = {"local": options.local, "job": options.job, "observe": observe}
    try:
        with own_stdout(options):
            if options.seeds is None:
                done = run_pipeline(options.config, *options.overrides, **given)
            else:
                seeded = run_pipeline_seeds(options.config, *options.overrides, seeds=options.seeds, **given)
    except (KeyboardInterrupt, Terminated):
        options.continue_with = "the same command"
        raise
    finally:
        for display in displays:
            display.close()
            options.of_run = display.known_id
    if options.seeds is not None:
        return _tell_seeds(seeded, options)
    print(f"\npipeline {done.run_id}: {', '.join(done.stages)}", file=human)
    if options.json:
        print_json({"run_id": done.run_id, "status": "FINISHED", "job": done.job, "stages": _stages(done)})
    return 0


def _stages(done: PipelineResult) -> dict[str, Any]:
    return {
        name: {"run_id": each.run_id, "run_dir": str(each.run_dir), "metrics": each.metrics}
        for name, each in done.stages.items()
    }


def _tell_seeds(done: PipelineSeeds, options: argparse.Namespace) -> int:
    """Print what the seeds of each stage reached together."""
    from rayloom.cli.seed_comparison import table, tree  # NumPy, which a pipeline of one seed does without

    names = list(done.pipelines[0].stages)
    groups = {
        name: SeedGroup(tuple(read_past_run(pipeline.stages[name].run_dir) for pipeline in done.pipelines))
        for name in names
    }
    print(f"\n{table(groups)}", file=human_stream(options))
    if options.json:
        pipelines = [{"run_id": each.run_id, "job": each.job, "stages": _stages(each)} for each in done.pipelines]
        seeds = {name: tree(group) for name, group in groups.items()}
        print_json({"run_id": done.group, "status": "FINISHED", "pipelines": pipelines, "seeds": seeds})
    return 0
