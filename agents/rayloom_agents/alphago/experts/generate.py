"""Games of GNU Go against itself as SGF files:

    python -m rayloom_agents.alphago.experts.generate --games 1000 --level 8 --size 9 --processes 2 FOLDER

Every game is its own process of GNU Go with a seed of its own, begins with random plies and depends on nothing but its
number and `--seed`, so that any number of processes writes the same files. What is there already is not played again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayloom.contract import UserError
from rayloom_agents.alphago.experts.records import save_table
from rayloom_agents.alphago.experts.sgf import read_folder, write_game
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.gtp.client import Engine
from rayloom_agents.alphago.gtp.coordinates import action_of, vertex
from rayloom_agents.alphago.gtp.gnugo import gnugo_command

_LARGEST_SEED = 2**30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be played."""

    folder: Path
    games: int
    """Games that the folder holds in the end."""
    size: int = 9
    """Lines of the board."""
    komi: float = 7.5
    levels: tuple[int, ...] = (8,)
    """Levels of GNU Go; every game draws one, which both sides play at."""
    openings: tuple[int, int] = (2, 8)
    """Fewest and most random plies at the beginning."""
    seed: int = 0
    processes: int = 1
    """Games that are played at once, each by a process of GNU Go."""
    deadline_s: float = 120.0
    """Longest wait for one move."""

    def path(self, number: int) -> Path:
        """Return the file of a game."""
        return self.folder / f"game-{number:06d}.sgf"


def random_opening(game: Go, plies: int, generator: np.random.Generator) -> list[int]:
    """Return random legal actions without a pass."""
    state, actions = game.start(1), list[int]()
    for _ in range(plies):
        legal = np.flatnonzero(game.legal(state)[0, :-1])
        if not len(legal):
            break
        actions.append(int(generator.choice(legal)))
        game.play(state, np.array(actions[-1:]))
    return actions


def play_game(plan: Plan, number: int) -> bytes:
    """Play one game and return its record; UserError where the program dies, hangs or breaks the rules."""
    game, generator = Go(plan.size, plan.komi), np.random.default_rng([plan.seed, number])
    level = int(generator.choice(plan.levels))
    opening = random_opening(game, int(generator.integers(plan.openings[0], plan.openings[1] + 1)), generator)
    command = gnugo_command(plan.size, level, plan.komi, int(generator.integers(1, _LARGEST_SEED)))
    state = game.start(1)
    actions: list[int] = []
    with Engine(command, deadline_s=plan.deadline_s) as engine:
        for text in (f"boardsize {plan.size}", "clear_board", f"komi {plan.komi:g}"):
            engine.ask(text)
        while not game.is_over(state)[0]:
            colour = "bw"[len(actions) % 2]
            if len(actions) < len(opening):
                action = opening[len(actions)]
                engine.ask(f"play {colour} {vertex(action, plan.size)}")
            else:
                action = action_of(engine.ask(f"genmove {colour}"), plan.size)
            try:
                game.play(state, np.array([action]))
            except ValueError as error:
                raise UserError(f"game {number}: GNU Go has played what our rules forbid ({error})") from None
            actions.append(action)
    name = f"GNU Go level {level}"
    return write_game(actions, plan.size, plan.komi, float(game.score(state)[0]), len(opening), (name, name))


def generate(plan: Plan) -> int:
    """Play what the folder lacks and return how many games that were."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(plan.games) if not plan.path(number).exists()]

    def play(number: int) -> None:
        path = plan.path(number)
        draft = path.with_suffix(".part")
        draft.write_bytes(play_game(plan, number))
        os.replace(draft, path)

    with ThreadPoolExecutor(max(1, plan.processes)) as pool:
        try:
            for count, _ in enumerate(pool.map(play, missing), start=1):
                _report(count, len(missing))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return len(missing)


def _report(count: int, total: int) -> None:
    """Say how far it is: on one line of a terminal, else after every hundred games."""
    terminal = sys.stderr.isatty()
    if terminal or count % 100 == 0 or count == total:
        print(f"{count} of {total} games", end="\r" if terminal and count < total else "\n", file=sys.stderr)


def _plan(words: Sequence[str]) -> tuple[Plan, Path | None]:
    parser = argparse.ArgumentParser(
        prog="python -m rayloom_agents.alphago.experts.generate",
        description="Let GNU Go play against itself and write the games as SGF files; what is there is kept.",
    )
    parser.add_argument("folder", type=Path, help="where the files lie")
    parser.add_argument("--games", type=int, required=True, help="games that the folder holds in the end")
    parser.add_argument("--size", type=int, default=9, help="lines of the board (%(default)s)")
    parser.add_argument("--komi", type=float, default=7.5, help="points that White gets (%(default)s)")
    parser.add_argument("--level", type=int, nargs="+", default=[8], help="levels, of which each game draws one (8)")
    parser.add_argument("--opening", type=int, nargs=2, default=[2, 8], metavar=("FEWEST", "MOST"),
                        help="random plies at the beginning (2 8)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="root of all chance (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="games that are played at once (%(default)s)")
    parser.add_argument("--table", type=Path, help="also write all games as one compact table (.npz)")
    given: Any = parser.parse_args(words)
    if not 0 <= given.opening[0] <= given.opening[1] or not given.seed >= 0 or not given.games >= 1:
        parser.error("--opening FEWEST MOST, --seed and --games must be whole numbers in this order, none below 0")
    return Plan(
        folder=given.folder, games=given.games, size=given.size, komi=given.komi, levels=tuple(given.level),
        openings=(given.opening[0], given.opening[1]), seed=given.seed, processes=given.processes,
    ), given.table  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 for a mistake of the user, in one sentence."""
    plan, table = _plan(sys.argv[1:] if words is None else words)
    try:
        played = generate(plan)
        found = read_folder(plan.folder, Go(plan.size, plan.komi)).table
        if table is not None:
            save_table(found, table)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(found)} games in {plan.folder}, of which {played} are new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
