"""The command `rayloom run --seeds N`: one config with several seeds, and what they reached together."""

from __future__ import annotations

import argparse

from rayloom.cli.run_display import Display, make_observer
from rayloom.cli.seed_comparison import table, tree
from rayloom.cli.terminal import human_stream, own_stdout, print_json
from rayloom.errors import UserError
from rayloom.launch.seeds import run_seeds
from rayloom.runs.catalogue import SeedGroup, read_past_run
from rayloom.signals import Terminated


def run_seeds_command(options: argparse.Namespace) -> int:
    """Train with the seeds 0 to N - 1; each has a display of its own."""
    if options.chaos is not None:
        raise UserError("--chaos strikes one run: leave out --seeds")
    human, displays = human_stream(options), list[Display]()

    def observe(seed: int) -> Display:
        for earlier in displays:
            earlier.close()
        displays.append(make_observer(human, json=options.json, quiet=options.quiet, verbose=options.verbose))
        return displays[-1]

    try:
        with own_stdout(options):
            done = run_seeds(
                options.config,
                *options.overrides,
                seeds=options.seeds,
                local=options.local,
                group=options.job,
                observe=observe,
            )
    except (KeyboardInterrupt, Terminated):
        options.continue_with = "the same command"
        raise
    finally:
        for display in displays:
            display.close()
            options.of_run = display.known_id
    group = SeedGroup(tuple(read_past_run(result.run_dir) for result in done.results))
    print(f"\n{table({done.group: group})}", file=human)
    if options.json:
        runs = [{"run_id": each.run_id, "run_dir": str(each.run_dir), "metrics": each.metrics} for each in done.results]
        print_json({"run_id": done.group, "status": "FINISHED", "runs": runs, "seeds": tree(group)})
    return 0
