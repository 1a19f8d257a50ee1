"""The command that starts GNU Go 3.8 under our rules."""

from __future__ import annotations

import os
import shutil

from rayloom.contract import UserError


def gnugo_program() -> str | None:
    """Return the path of GNU Go, which Debian installs where not every shell looks; None without one."""
    return shutil.which("gnugo") or shutil.which("gnugo", path=os.pathsep.join(("/usr/games", "/usr/local/games")))


def gnugo_command(size: int, level: int = 10, komi: float = 7.5, seed: int = 0) -> list[str]:
    """Return program and arguments: area scoring, stones left on the board alive, positional superko, no resignation.

    UserError where GNU Go is not installed. Equal seeds (0: a new one each time) give equal moves.
    """
    program = gnugo_program()
    if program is None:
        raise UserError("GNU Go is not installed; install the system package gnugo (Debian: apt install gnugo)")
    rules = ["--chinese-rules", "--capture-all-dead", "--positional-superko", "--never-resign"]
    settings = ["--boardsize", str(size), "--komi", f"{komi:g}", "--level", str(level), "--seed", str(seed)]
    return [program, "--mode", "gtp", *settings, *rules]
