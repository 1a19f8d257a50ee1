"""The command `rayloom gtp`."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

import torch

from rayloom.contract import Command, CommandHost
from rayloom_agents.alphago.gtp.board import Board
from rayloom_agents.alphago.gtp.protocol import serve
from rayloom_agents.alphago.gtp.session import Session
from rayloom_agents.alphago.gtp.thinking import Thinker
from rayloom_agents.alphago.players import go_of, load_player

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gtp(Command):
    """Plays Go over standard input and output: `rayloom gtp RUN`."""

    writes_json: ClassVar[bool] = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("run_id", metavar="RUN", help="a run, a shipped player, or the folder of one")
        parser.add_argument("--weights", metavar="WHICH", help="best, last or an update (default: best, if kept)")
        parser.add_argument("--simulations", type=positive, default=400, metavar="N", help="per move (default: 400)")
        parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of the network (default: 1)")
        parser.add_argument("--resign", type=share, metavar="RATE", help="give up below this win rate, as 0.05")

    def run(self, options: Namespace, host: CommandHost) -> Mapping[str, Any]:
        """Serve until `quit` or the end of the input."""
        with only_answers() as out:
            torch.set_num_threads(options.threads)
            session = make_session(host, options)
            told = f"rayloom: {session.name} is ready, {session.board.size} lines, {options.simulations} simulations"
            print(told, file=host.people, flush=True)
            serve(session, descriptor_lines(0), out)
        return {}


def make_session(host: CommandHost, options: Namespace) -> Session:
    """Return what answers, warm: the first move should not wait for compilers."""
    player = load_player(host, options.run_id, options.weights, options.simulations)
    board = Board(go_of(player))
    thinker = Thinker(board, player.infer, player.search, options.resign)
    thinker.search(2)
    thinker.forget()
    return Session(board, thinker, f"rayloom {player.name}")


@contextmanager
def only_answers() -> Iterator[TextIO]:
    """Return a stream to standard output that is for answers alone: whatever else prints goes to standard error.

    On the level of file descriptors, so that libraries in C are caught too.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        out = os.fdopen(kept, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        with redirect_stdout(sys.stderr):
            yield out
        with suppress(BrokenPipeError):  # the reader has gone
            out.close()
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def descriptor_lines(descriptor: int) -> Iterator[str]:
    """Yield lines of a file descriptor, without Python's own stream: its lock, held by a thread that waits for input
    when the program ends, would end it in an error."""
    rest = b""
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", errors="replace")
    if rest:
        yield rest.decode("utf-8", errors="replace")


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return number
