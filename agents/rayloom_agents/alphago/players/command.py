"""The command `rayloom player`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayloom.contract import Command, CommandHost
from rayloom_agents.alphago.alphazero import player as judge
from rayloom_agents.alphago.players import game_of


class SavePlayer(Command):
    """Writes a run's network as a player that needs no run: `rayloom player RUN FOLDER`."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("run_id", metavar="RUN", help="name that `rayloom run` printed, or MLflow's id of the run")
        parser.add_argument("folder", metavar="FOLDER", type=Path, help="new folder; its name is the player's")
        parser.add_argument("--weights", metavar="WHICH", help="best, last or an update (default: best, if kept)")
        parser.add_argument("--made-by", action="append", default=[], metavar="COMMAND", help="a command that made it, "
                            "as a note; may be repeated")  # fmt: skip
        parser.add_argument("--note", metavar="TEXT", help="what is to be known about it, as its measured strength")

    def run(self, options: Namespace, host: CommandHost) -> Mapping[str, Any]:
        """Write it, after a look whether it is one."""
        learnt = host.load(options.run_id, options.weights)
        judge(learnt.algorithm)
        game_of(learnt)
        about = {"run": learnt.name, "made_by": options.made_by, "note": options.note}
        written = host.save_parcel(
            options.run_id, options.weights, options.folder, {key: value for key, value in about.items() if value}
        )
        print(f"{options.folder} ({written.weights})", file=host.people)
        return {"run_id": options.run_id, "folder": str(options.folder), "weights": written.weights}
