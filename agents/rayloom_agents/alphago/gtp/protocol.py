"""The form of GTP 2: lines to commands, answers to text, and a server that never mixes anything else in between.

Section numbers are those of the draft of version 2 (Farnebäck 2002).
"""

from __future__ import annotations

import queue
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TextIO

from rayloom.contract import UserError

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LONGEST_LINE = 100_000


class GtpError(Exception):
    """A command cannot be carried out; the text is the answer behind the question mark."""


@dataclass(frozen=True)
class Request:
    """One command that was sent."""

    number: str
    """Its id in digits, or nothing."""
    name: str
    arguments: list[str]


def parse(line: str) -> Request | None:
    """Read a line (sections 2.2 and 3.1); None for one that holds no command."""
    line = _CONTROL.sub("", line.partition("#")[0].replace("\t", " "))[:_LONGEST_LINE]
    words = line.split()
    number = words.pop(0) if words and re.fullmatch(r"[0-9]+", words[0]) else ""
    if not words:
        return Request(number, "", []) if number else None
    return Request(number, words[0], words[1:])


def answer(request: Request, text: str, failed: bool = False) -> str:
    """Return what is written: the text cannot hold an empty line, which would end it (section 2.6)."""
    lines = [line.rstrip() or " " for line in text.splitlines()]
    body = "\n".join(lines)
    return f"{'?' if failed else '='}{request.number}{' ' if body.strip() else ''}{body}\n\n"


class Lines:
    """Lines of a stream, read by a thread, so that an analysis can see whether another one has come."""

    def __init__(self, stream: Iterable[str]) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._ahead: str | None = None
        self._looked = False
        threading.Thread(target=self._read, args=(stream,), daemon=True, name="gtp-input").start()

    def _read(self, stream: Iterable[str]) -> None:
        try:
            for line in stream:
                self._lines.put(line)
        finally:
            self._lines.put(None)

    def next(self) -> str | None:
        """Wait for the next line; None at the end of the stream, and ever after."""
        line, self._looked = self._ahead if self._looked else self._lines.get(), False
        if line is None:
            self._lines.put(None)
        return line

    def wait(self, seconds: float) -> bool:
        """Wait for a line at most so long, and return whether there is one, or the stream has ended."""
        if not self._looked:
            try:
                self._ahead = self._lines.get(timeout=max(seconds, 1e-4))
            except queue.Empty:
                return False
            self._looked = True
        return True


Writer = Callable[[str], None]


class Commands(ABC):
    """What a server can do."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all commands."""

    @abstractmethod
    def carry_out(self, request: Request, write: Writer, lines: Lines) -> str:
        """Return the answer. A command that answers bit by bit calls `write` with each, and returns the rest.

        GtpError, UserError and ValueError become errors of GTP.
        """


def serve(commands: Commands, stream: Iterable[str], out: TextIO) -> None:
    """Answer commands until `quit`, the end of the input, or until nobody reads the answers any more."""
    lines = Lines(stream)
    try:
        while (line := lines.next()) is not None:
            request = parse(line)
            if request is None:
                continue
            _serve_one(commands, request, lines, out)
            if request.name == "quit":
                return
    except BrokenPipeError:
        return


def _serve_one(commands: Commands, request: Request, lines: Lines, out: TextIO) -> None:
    begun = False

    def write(text: str) -> None:
        nonlocal begun
        out.write(text if begun else f"={request.number}\n{text}")
        begun = True
        out.flush()

    try:
        text = commands.carry_out(request, write, lines)
    except (GtpError, UserError, ValueError) as error:
        if not begun:
            out.write(answer(request, " ".join(str(error).split()) or "failed", failed=True))
            out.flush()
            return
        text = ""  # what has begun as an answer can only end as one
    if begun:
        out.write(f"{text}\n\n" if text else "\n")
    else:
        out.write(answer(request, text))
    out.flush()
