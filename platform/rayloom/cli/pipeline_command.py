"""The command `rayloom pipeline`: the stages of a pipeline, each with a display of its own."""

from __future__ import annotations

import argparse

from rayloom.cli.run_display import Display, make_observer
from rayloom.cli.terminal import human_stream, own_stdout, print_json
from rayloom.launch.pipeline import run_pipeline
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

    try:
        with own_stdout(options):
            done = run_pipeline(
                options.config, *options.overrides, local=options.local, job=options.job, observe=observe
            )
    except (KeyboardInterrupt, Terminated):
        options.continue_with = "the same command"
        raise
    finally:
        for display in displays:
            display.close()
            options.of_run = display.known_id
    print(f"\npipeline {done.run_id}: {', '.join(done.stages)}", file=human)
    if options.json:
        runs = {
            name: {"run_id": each.run_id, "run_dir": str(each.run_dir), "metrics": each.metrics}
            for name, each in done.stages.items()
        }
        print_json({"run_id": done.run_id, "status": "FINISHED", "job": done.job, "stages": runs})
    return 0
