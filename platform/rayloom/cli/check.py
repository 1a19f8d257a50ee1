"""`rayloom check`: does an algorithm hold to the contract? A line for each promise."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rayloom.cli.terminal import human_stream, own_stdout, print_json

if TYPE_CHECKING:
    from rayloom.testing import CheckResult


def check_command(options: argparse.Namespace) -> int:
    """Return 0 when every promise is kept, else 1."""
    from rayloom.config.load import load

    config = load(options.config, options.overrides)  # before torch: a mistake is told at once
    from rayloom.testing import check_algorithm

    human = human_stream(options)
    with own_stdout(options):
        results = check_algorithm(config, lambda result: print(_line(result), file=human, flush=True))
    return _ended(options, results, {result.name: (result.skipped and "skipped") or "ok" for result in results})


def check_env_command(options: argparse.Namespace) -> int:
    """Return 0 when the environment can be learnt from, else 1."""
    from rayloom.config.load import apply_overrides

    env_options = apply_overrides({}, options.overrides)
    from rayloom.testing.environments import check_environment

    human = human_stream(options)
    with own_stdout(options):
        told = check_environment(options.env, env_options, lambda found: print(_line(found), file=human, flush=True))
    return _ended(options, told, {result.name: result.promise for result in told})


def _ended(options: argparse.Namespace, results: Sequence[CheckResult], told: Mapping[str, str]) -> int:
    """Return the exit code; `told`: what the JSON line says of each check that has not failed."""
    failures = {result.name: result.failure for result in results if result.failure}
    if options.json:
        status = "FAILED" if failures else "FINISHED"
        print_json({"status": status, "failed": list(failures), "checks": {**told, **failures}})
    return 1 if failures else 0


def _line(result: CheckResult) -> str:
    if result.failure:
        return f"failed   {result.name}: {result.failure}"
    if result.skipped:
        return f"skipped  {result.name}: {result.skipped}"
    return f"ok       {result.name}: {result.promise}"
