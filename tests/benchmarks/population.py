"""Sixteen trials of one small network as a population, against the same trials one after the other.

    python tests/benchmarks/population.py [ROUNDS]

Both sides train to the end of the config's budget and evaluate whenever the config says so; neither writes anything.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

from bench import Comparison, measure

from rayloom.config.load import load
from rayloom.config.schema import RunConfig
from rayloom.runs.learner_role import Advance, LearnerRole
from rayloom.runs.loop import make_schedule
from rayloom.search.population import Population

TRIALS = 16


def _trials(name: str) -> list[RunConfig]:
    """Return configs that differ in the numbers that a search would vary, and in their seeds."""
    return [
        load(name, (f"learner.optimizer.learning_rate={5e-4 * 1.2**k}", f"algorithm.l2={1e-5 * k}", f"seed={k}"))
        for k in range(TRIALS)
    ]


def _handle(role: LearnerRole, advance: Advance) -> None:
    """Do what a run's loop does when something is due, without writing."""
    if advance.due & {"log", "evaluate"} or advance.exhausted:
        role.metrics()
    if "evaluate" in advance.due or advance.exhausted:
        role.evaluate()


def _together(name: str) -> float:
    """Return the updates per second of all members, from building them to their last evaluation."""
    configs = _trials(name)
    start = time.perf_counter()
    population = Population(configs)
    roles = population.roles
    running = {k: make_schedule(config, roles[k].updates_per_epoch()) for k, config in enumerate(configs)}
    while running:
        for k, advance in population.advance(running).items():
            _handle(roles[k], advance)
            if advance.exhausted:
                del running[k]
    return sum(role.learner.updates for role in roles) / (time.perf_counter() - start)


def _one_by_one(name: str) -> float:
    """Return the updates per second of runs alone, from building the first to the last evaluation of the last."""
    configs = _trials(name)
    start = time.perf_counter()
    updates = 0
    for config in configs:
        role = LearnerRole(config)
        schedule = make_schedule(config, role.updates_per_epoch())
        exhausted = None
        while not exhausted:
            advance = role.advance(schedule)
            exhausted = advance.exhausted
            _handle(role, advance)
        updates += role.learner.updates
    return updates / (time.perf_counter() - start)


def population() -> list[Comparison]:
    """16 trials of the small networks on the digits, batch 32, Adam."""
    return [
        Comparison(
            f"{TRIALS} trials of {name} together",
            "updates/s of all",
            1,
            partial(_together, name),
            partial(_one_by_one, name),
            "one by one",
            target,
        )
        for name, target in (("mlp_digits", "3"), ("softmax_regression_digits", "-"))
    ]


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {"population": population}

if __name__ == "__main__":
    for comparison in population():
        print(measure(comparison, int(sys.argv[1]) if len(sys.argv) > 1 else 3), flush=True)
