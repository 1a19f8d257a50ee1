"""The command `rayloom match`."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rayloom.contract import Command, CommandHost, UserError
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.gtp.command import positive
from rayloom_agents.alphago.gtp.contestants import Contestant, Searcher
from rayloom_agents.alphago.gtp.match_journal import MatchJournal
from rayloom_agents.alphago.gtp.naming import CHOICES, Tables, file_name, is_external, make_contestant
from rayloom_agents.alphago.gtp.referee import MatchResult, PlayedGame, Referee
from rayloom_agents.alphago.gtp.reports import figures, pictures, policy_png, records, summary, table
from rayloom_agents.alphago.players import TrainedPlayer, go_of, load_player

_OF_ALL_GAMES = ("run_id", "a", "b", "simulations", "opening_plies", "seed")
"""What all games of a match have in common; how many there are may grow."""
_TABLES = 64
"""Games at once where no engine runs in a process of its own."""


class MatchCommand(Command):
    """Lets two players play: `rayloom match RUN A B`."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("run_id", metavar="RUN", help="run or shipped player whose board is played on; a run gets "
                            "the match among its artifacts")  # fmt: skip
        for side in ("A", "B"):
            parser.add_argument(side.lower(), metavar=side, help=CHOICES)
        parser.add_argument("--games", type=_even, default=200, metavar="N", help="an even number (default: 200)")
        parser.add_argument("--simulations", type=positive, default=400, metavar="N", help="per move of networks "
                            "(default: 400)")  # fmt: skip
        parser.add_argument("--opening-plies", type=_whole, default=2, metavar="N", help="random moves with which a "
                            "pair of games begins (default: 2)")  # fmt: skip
        parser.add_argument("--komi", type=float, metavar="POINTS", help="(default: as the run has it)")
        parser.add_argument("--seed", type=_whole, default=0, metavar="N", help="of openings and chance (default: 0)")
        parser.add_argument("--parallel", type=positive, metavar="N", help="games at once (default: a process for each "
                            f"core, or {_TABLES} where no engine takes part)")  # fmt: skip
        parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of networks (default: 1)")
        parser.add_argument("--deadline", type=positive, default=120, metavar="SECONDS", help="for one answer of an "
                            "engine (default: 120)")  # fmt: skip
        parser.add_argument("--pictures", type=_whole, default=8, metavar="N", help="games to draw (default: 8)")
        parser.add_argument("--destination", type=Path, metavar="FOLDER", help="(default: OUTPUT/matches/TIME-A-B)")

    def run(self, options: Namespace, host: CommandHost) -> Mapping[str, Any]:
        """Play, and leave what there is to see in the folder and at the run."""
        torch.set_num_threads(options.threads)
        networks = Networks(host, options.simulations)
        board = networks.load(options.run_id)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{file_name(options.a)}-{file_name(options.b)}"
        folder = options.destination or Path(options.output) / "matches" / name
        result, game, sides = play(options, networks, host, folder)
        count = min(options.pictures, len(result.games))
        files = {**records(result, game), **pictures(result, game, count)}
        for side, letter in zip(sides, "ab", strict=True) if count else ():
            if isinstance(side, Searcher) and not side.name.startswith("search:"):
                files[f"policy_{letter}.png"] = policy_png(result.games[0], game, side.infer, side.name)
        write(folder, files)
        print(table(result), end="", file=host.people, flush=True)
        print(f"  games and pictures   {folder}", file=host.people, flush=True)
        drawn = {f"match/{title}": figure for title, figure in figures(result, game, count).items()}
        hindrance = host.record(board.learnt, f"matches/{name}", files, drawn)
        if hindrance is not None and board.learnt.run_dir is not None:
            print(f"  not recorded at the run: {hindrance}", file=host.people, flush=True)
        return {"run_id": options.run_id, "folder": str(folder), **summary(result)}


class Networks:
    """Trained players by name, each loaded once."""

    def __init__(self, host: CommandHost, simulations: int) -> None:
        self._host, self._simulations = host, simulations
        self._known: dict[tuple[str, int], TrainedPlayer] = {}

    def load(self, name: str, simulations: int | None = None) -> TrainedPlayer:
        """Return a player; UserError where there is none."""
        key = (name, simulations or self._simulations)
        if key not in self._known:
            self._known[key] = load_player(self._host, name, simulations=key[1])
        return self._known[key]


def play(
    options: Namespace, networks: Networks, host: CommandHost, folder: Path
) -> tuple[MatchResult, Go, tuple[Contestant, Contestant]]:
    """Play the match; return what came out, the game it was in, and both sides, which are closed.

    Every game is kept in the folder as it ends, and the games that are there already are not played again.
    """
    game = go_of(networks.load(options.run_id))
    if options.komi is not None:
        game.komi = options.komi
    engines = is_external(options.a) or is_external(options.b)
    count = options.parallel or (len(os.sched_getaffinity(0)) if engines else _TABLES)
    tables = Tables(game, min(count, options.games), options.seed, options.deadline)
    journal: MatchJournal | None = None
    done = 0

    def told(played: PlayedGame) -> None:
        nonlocal done
        done += 1
        if journal is not None:
            journal.add(played)
        fault = f" ({played.fault})" if played.fault else ""
        print(f"game {done} of {options.games}: {played.result}{fault}", file=host.people, flush=True)

    first = make_contestant(options.a, tables, networks.load)
    try:
        second = make_contestant(options.b, tables, networks.load)
        try:
            if first.name == second.name:
                first.name, second.name = f"{first.name} (A)", f"{second.name} (B)"
            of_all = {name: getattr(options, name) for name in _OF_ALL_GAMES}
            journal = MatchJournal(folder, {**of_all, "komi": game.komi})
            done = len(journal.games)
            before = f"{done} games were played before; " if done else ""
            print(f"{before}if interrupted, the same command with --destination {folder} goes on", file=host.people)
            referee = Referee(game, (first, second), tables.count, told)
            result = referee.play(options.games, options.opening_plies, options.seed, journal.games)
            return result, game, (first, second)
        finally:
            second.close()
    finally:
        first.close()


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files into a folder; UserError where it cannot be written."""
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); name another with --destination") from None


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def _even(text: str) -> int:
    if _whole(text) < 2 or int(text) % 2:
        raise ArgumentTypeError(f"must be an even number, since openings are played in pairs, not {text!r}")
    return int(text)
