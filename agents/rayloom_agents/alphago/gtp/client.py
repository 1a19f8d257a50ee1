"""A client of an external engine that speaks GTP 2 over its standard input and output.

The engine is a process group of its own, without a shell. Every wait has a deadline; an engine that exceeds it, dies or
says what is no answer is killed with all that it started, and `EngineLost` tells its last words.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from rayloom.contract import UserError

_CHUNK = 1 << 16
_LONGEST_ANSWER = 1 << 22
_LAST_WORDS = 4
"""Lines of standard error that a message quotes."""
_LONGEST_WORDS = 200
"""Characters of each."""
_LOOK_S = 0.5
"""How often it is looked whether a silent engine is still there."""
_GRACE_S = 1.0
"""How long an engine has to end after `quit`, and a process that was killed to be gone."""
_ANSWER = re.compile(rb"([=?])(\d*)(?:[ \t]+|(?=\n)|$)")


class EngineError(UserError):
    """An engine could not do what it was asked to."""


class EngineRefused(EngineError):  # noqa: N818  (named as what happened)
    """The engine answered with an error, `? ...`; it is still there."""


class EngineLost(EngineError):  # noqa: N818  (named as what happened)
    """The engine died, exceeded its deadline or said what is no answer; it has been killed."""


class Engine:
    """One running engine. Not thread-safe: one command at a time."""

    def __init__(self, command: Sequence[str], *, deadline_s: float = 60, name: str | None = None) -> None:
        """Start `command` (program and arguments). UserError where there is no such program.

        `deadline_s`: how long an answer may take; `name`: what messages call the engine (default: the program).
        """
        if not command:
            raise UserError("an engine's command is empty")
        self.command, self.deadline_s = list(command), deadline_s
        self.name = name or os.path.basename(self.command[0])
        self._start()

    def _start(self) -> None:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(f"engine {self.name}: {self.command[0]} cannot be started: {why}") from None
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._process: subprocess.Popen[bytes] | None = process
        self._in, self._out, self._err = (stream.fileno() for stream in (process.stdin, process.stdout, process.stderr))
        for stream in (self._in, self._out, self._err):
            os.set_blocking(stream, False)
        self._answer = bytearray()
        self._stderr: deque[bytes] = deque([b""], maxlen=_LAST_WORDS + 1)
        self._ended = {self._out: False, self._err: False}
        self._number = 0

    def ask(self, command: str, deadline_s: float | None = None) -> str:
        """Send one command and return the text of the answer, lines joined by newlines.

        EngineRefused for an answer that is an error, EngineLost where there is none before the deadline.
        """
        if "\n" in command or "\r" in command or not command.strip():
            raise ValueError(f"{command!r} is no command of one line")
        if self._process is None:
            raise EngineLost(f"engine {self.name} is not running")
        self._number += 1
        sent = bytearray(f"{self._number} {command}\n".encode())
        until = time.monotonic() + (self.deadline_s if deadline_s is None else deadline_s)
        while (end := self._end_of_answer()) is None:
            left = until - time.monotonic()
            if left <= 0:
                self._lose(f"did not answer {command!r} in time")
            dead = self._ended[self._out] or self._has_exited()
            if not self._exchange(sent, min(left, 0.0 if dead else _LOOK_S)) and dead:
                self._lose(f"died when it was asked {command!r}")
        text = bytes(self._answer[:end]).lstrip(b"\n")
        del self._answer[: end + 2]
        return self._parsed(command, text)

    def _parsed(self, command: str, text: bytes) -> str:
        found = _ANSWER.match(text)
        if found is None or found[2] not in (b"", str(self._number).encode()):
            said = text[:80].decode(errors="replace")
            self._lose(f"answered {command!r} with {said!r}, which is no answer of GTP")
        assert found is not None
        answer = text[found.end() :].decode(errors="replace").strip("\n").rstrip()
        if found[1] == b"?":
            raise EngineRefused(f"engine {self.name} refuses {command!r}: {answer or 'without a reason'}")
        return answer

    def _end_of_answer(self) -> int | None:
        """Return where the first whole answer ends: at an empty line behind something."""
        if len(self._answer) > _LONGEST_ANSWER:
            self._lose("says more than an answer can hold")
        begin = len(self._answer) - len(self._answer.lstrip(b"\n"))
        end = self._answer.find(b"\n\n", begin)
        return None if end < 0 else end

    def _has_exited(self) -> bool:
        """Return whether the process has ended. Its number is not given back yet, nor are its children (who may hold
        its output open) looked for."""
        assert self._process is not None
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:  # whoever started us lets children go at once
            return True

    def _exchange(self, sent: bytearray, wait_s: float) -> bool:
        """Wait for the engine to take or say something, at most `wait_s`; return whether it said something."""
        said = False
        with selectors.DefaultSelector() as selector:
            for stream, ended in self._ended.items():
                if not ended:
                    selector.register(stream, selectors.EVENT_READ)
            if sent:
                selector.register(self._in, selectors.EVENT_WRITE)
            for key, _ in selector.select(wait_s):
                if key.fd == self._in:
                    self._write(sent)
                else:
                    said = self._read(key.fd) or said
        return said

    def _write(self, sent: bytearray) -> None:
        try:
            del sent[: os.write(self._in, sent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            sent.clear()  # it has closed its input; what it still says, or that it says nothing, is seen at its output

    def _read(self, stream: int) -> bool:
        """Take what a stream holds, without waiting; return whether that was anything."""
        try:
            chunk = os.read(stream, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._ended[stream] = True
        elif stream == self._out:
            self._answer += chunk.replace(b"\r", b"")
        else:
            first, *more = chunk.split(b"\n")
            self._stderr[-1] = (self._stderr[-1] + first)[-_LONGEST_WORDS:]
            self._stderr.extend(line[-_LONGEST_WORDS:] for line in more)
        return bool(chunk)

    def _lose(self, why: str) -> None:
        """Kill the engine and raise EngineLost."""
        self._kill()
        words = [line.decode(errors="replace").strip() for line in self._stderr]
        said = " / ".join(word for word in words if word)
        raise EngineLost(f"engine {self.name} {why}" + (f"; its last words: {said}" if said else ""))

    def _kill(self) -> None:
        """Kill the process and all that it started, and read its last words."""
        process, self._process = self._process, None
        if process is None:
            return
        # Before the process is waited for: until then nobody else can have the group's number.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that the kernel does not let go of
            process.wait(_GRACE_S)
        while self._read(self._err):
            pass
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def restart(self) -> None:
        """Kill the engine, if it is there, and start it anew."""
        self._kill()
        self._start()

    def close(self) -> None:
        """Ask the engine to quit, and kill it where it does not at once. Idempotent."""
        if self._process is None:
            return
        sent, until = bytearray(b"quit\n"), time.monotonic() + _GRACE_S
        while not (self._ended[self._out] or self._has_exited()) and (left := until - time.monotonic()) > 0:
            self._exchange(sent, min(left, _LOOK_S))
        self._kill()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
