"""Commands that families add, by import path; what lies there is imported only when its command is asked for."""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

from rayloom.cli.terminal import human_stream, own_stdout, print_json


class FamilyCommand(NamedTuple):
    """A command of a family."""

    path: str
    """Where its `rayloom.contract.Command` lies, "module:Name"."""
    summary: str


FAMILY_COMMANDS: dict[str, FamilyCommand] = {
    "gtp": FamilyCommand(
        "rayloom_agents.alphago.gtp.command:Gtp", "let a trained network play Go with any program that speaks GTP"
    ),
    "match": FamilyCommand(
        "rayloom_agents.alphago.gtp.match_command:MatchCommand", "let two players of Go play a match, and record it"
    ),
    "player": FamilyCommand(
        "rayloom_agents.alphago.players.command:SavePlayer", "write a run's network as a player that needs no run"
    ),
}


def add_family_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Let a family's command declare its arguments, and remember it."""
    from rayloom.config.import_path import import_object

    command = import_object(FAMILY_COMMANDS[name].path, name)()
    command.add_arguments(parser)
    if command.writes_json:
        parser.add_argument("--json", action="store_true", help="end with one JSON line on standard output")
    parser.set_defaults(family_command=command)


def family_command(options: argparse.Namespace) -> int:
    """Carry out a family's command."""
    from rayloom.launch.hosting import RunHost

    command = options.family_command
    people = human_stream(options) if command.writes_json else sys.stderr
    with own_stdout(options):
        told = command.run(options, RunHost(options.output, people))
    if options.json:
        print_json({"status": "FINISHED", **told})
    return 0
