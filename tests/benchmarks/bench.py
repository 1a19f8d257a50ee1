"""Speed ratios against peers and hand-written loops: interleaved rounds in one run, medians, one Markdown table.

    python tests/benchmarks/bench.py            all benchmarks
    python tests/benchmarks/bench.py ppo dqn    some of them      [--rounds N]

Nothing here asserts a time: the table is read by people. Threads are stated in every row. rayloom's side is the whole
product wherever the row says "run": tracking, checkpoints and evaluations are on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same work."""

    name: str
    unit: str
    threads: int
    ours: Callable[[], float]
    """Does the work once and returns its rate, or its time when `lower_is_better`."""
    peer: Callable[[], float]
    peer_name: str
    target: str
    lower_is_better: bool = False
    rounds: int | None = None
    """So many rounds whatever the command line says."""


def measure(comparison: Comparison, rounds: int) -> str:
    """Alternate the two sides and return the table row of medians and the median of the ratios by round."""
    ours, peers = [], []
    for _ in range(comparison.rounds or rounds):
        ours.append(comparison.ours())
        peers.append(comparison.peer())
    ratios = [a / b for a, b in zip(ours, peers, strict=True)]
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return (
        f"| {comparison.name} | {statistics.median(ours):,.4g} | {statistics.median(peers):,.4g} "
        f"({comparison.peer_name}) | {comparison.unit} | **{statistics.median(ratios):.2f}** ({spread}) | "
        f"{comparison.target} | {comparison.threads} |"
    )


def main() -> None:
    """Run the benchmarks named on the command line."""
    import engine
    import generative
    import go_search
    import image_folders
    import population
    import reinforcement
    import rollouts
    import search
    import sequences
    import supervised

    modules = (
        *(reinforcement, supervised, image_folders, sequences, generative),
        *(engine, search, population, rollouts, go_search),
    )
    groups = {name: group for module in modules for name, group in module.COMPARISONS.items()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*groups, []], help=", ".join(groups))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| benchmark | rayloom | peer | unit | ratio (spread) | target | torch threads |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in options.names or groups:
        for comparison in groups[name]():
            print(measure(comparison, options.rounds), flush=True)


if __name__ == "__main__":
    main()
