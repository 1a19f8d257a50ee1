"""Analysis while the engine thinks, in the words of Leela Zero (`lz-`, for Lizzie) and KataGo (`kata-`, for Sabaki).

    = 1
    info move D4 visits 61 winrate 5490 prior 2211 lcb 4211 order 0 pv D4 C3 info move ...
    info move ...
                                                        <- an empty line: another command has come

Win rates are those of whose turn it is: in ten-thousandths for `lz-`, as shares for `kata-`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rayloom_agents.alphago.gtp.board import Board
from rayloom_agents.alphago.gtp.coordinates import RESIGN, action_of, colour_of, vertex
from rayloom_agents.alphago.gtp.protocol import GtpError, Lines, Writer
from rayloom_agents.alphago.gtp.thinking import Candidate, Thinker

_DEFAULT_INTERVAL_S = 1.0
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Options:
    """What a command of analysis was told."""

    colour: int | None = None
    """Whose turn it is to be; None: as it is."""
    interval_s: float = _DEFAULT_INTERVAL_S
    """Time between two reports."""
    least: int = 0
    most: int = 1_000_000
    """How many moves are reported."""
    only: frozenset[int] | None = None
    """Moves that are reported and played; None: all."""
    never: frozenset[int] = field(default_factory=frozenset)
    """Moves that are not."""


@dataclass(frozen=True)
class Analysis:
    """One command of analysis."""

    kata: bool
    """Whether it speaks as KataGo does."""
    plays: bool
    """Whether it ends with a move that is played."""

    def options(self, words: Sequence[str], board: Board) -> Options:
        """Read the arguments, in any of the orders that programs send; GtpError for others."""
        values: dict[str, object] = {}
        rest = [word.lower() for word in words]
        if rest and rest[0] in ("b", "w", "black", "white"):
            values["colour"] = colour_of(rest.pop(0))
        elif self.plays:
            raise GtpError("syntax error: whose move is it?")
        if rest and rest[0].replace(".", "", 1).isdecimal():
            values["interval_s"] = _centiseconds(rest.pop(0))
        moves: dict[str, set[int]] = {"allow": set(), "avoid": set()}
        while rest:
            key = rest.pop(0)
            if key in moves:
                moves[key] |= _moves(_argument(rest, key), _argument(rest, key), _argument(rest, key), board)
            elif key in ("minmoves", "maxmoves"):
                values["least" if key == "minmoves" else "most"] = _count(_argument(rest, key), key)
            elif key == "interval":
                values["interval_s"] = _centiseconds(_argument(rest, key))
            elif key in ("ownership", "ownershipstdev", "movesownership", "pvvisits", "pvedgevisits", "rootinfo",
                         "nomctsinfo"):  # fmt: skip
                _argument(rest, key)  # what this network cannot tell is left out
            else:
                raise GtpError(f"syntax error: unknown option {key[:30]!r}")
        only = frozenset(moves["allow"]) if moves["allow"] else None
        return Options(**values, only=only, never=frozenset(moves["avoid"]))  # type: ignore[arg-type]

    def line(self, found: Sequence[Candidate], size: int) -> str:
        """Return one report."""
        return " ".join(self._about(order, each, size) for order, each in enumerate(found))

    def _about(self, order: int, each: Candidate, size: int) -> str:
        line = " ".join(vertex(action, size) for action in each.line)
        head = f"info move {vertex(each.action, size)} visits {each.visits}"
        if not self.kata:
            rate, prior, low = (round(10_000 * share) for share in (each.win_rate, each.prior, each.lower_bound))
            return f"{head} winrate {rate} prior {prior} lcb {low} order {order} pv {line}"
        utility = 2 * each.win_rate - 1
        return (
            f"{head} utility {utility:.6f} winrate {each.win_rate:.6f} scoreMean 0 scoreStdev 0 scoreLead 0 "
            f"scoreSelfplay 0 prior {each.prior:.6f} lcb {each.lower_bound:.6f} "
            f"utilityLcb {2 * each.lower_bound - 1:.6f} order {order} pv {line}"
        )


ANALYSES: dict[str, Analysis] = {
    "analyze": Analysis(kata=False, plays=False),
    "lz-analyze": Analysis(kata=False, plays=False),
    "kata-analyze": Analysis(kata=True, plays=False),
    "genmove_analyze": Analysis(kata=False, plays=True),
    "lz-genmove_analyze": Analysis(kata=False, plays=True),
    "kata-genmove_analyze": Analysis(kata=True, plays=True),
}


def moves_of(thinker: Thinker, options: Options) -> list[Candidate]:
    """Return the candidates that the options leave, or all where they leave none."""
    found = thinker.candidates()
    left = [
        each
        for each in found
        if each.action not in options.never and (options.only is None or each.action in options.only)
    ]
    return left or found


def report(
    thinker: Thinker, options: Options, analysis: Analysis, lines: Lines, write: Writer, seconds: float | None
) -> Iterator[None]:
    """Think and report, at least once; yield after each report.

    Where a move is to be played it ends by itself: after the settings' simulations, or after `seconds`.
    """
    began = reported = time.perf_counter()

    def interrupted() -> bool:
        if analysis.plays:
            return seconds is not None and time.perf_counter() - began >= seconds
        return lines.wait(0)

    def tell() -> None:
        nonlocal reported
        write(analysis.line(moves_of(thinker, options)[: options.most], thinker.board.size) + "\n")
        reported = time.perf_counter()

    for _ in thinker.portions(interrupted, thinker.simulations if analysis.plays else None):
        if time.perf_counter() - reported >= options.interval_s:
            tell()
            yield
    tell()
    yield
    while not analysis.plays and not lines.wait(_PAUSE_S):  # there is no room for more: the last word stands
        if time.perf_counter() - reported >= options.interval_s:
            tell()
            yield


def _argument(rest: list[str], key: str) -> str:
    if not rest:
        raise GtpError(f"syntax error: {key} lacks an argument")
    return rest.pop(0)


def _centiseconds(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise GtpError(f"syntax error: {word[:20]!r} is no interval in centiseconds")
    return max(number, 1.0) / 100


def _count(word: str, key: str) -> int:
    if not word.isdecimal() or len(word) > 6:
        raise GtpError(f"syntax error: {key} takes a whole number, not {word[:20]!r}")
    return int(word)


def _moves(colour: str, points: str, until: str, board: Board) -> set[int]:
    """Read the arguments of `allow` and `avoid`: COLOUR VERTEX,VERTEX,... UNTIL_DEPTH; they hold at the root alone."""
    _count(until, "until-depth")
    try:
        of = colour_of(colour)
        actions = {action_of(word, board.size) for word in points.split(",")} - {RESIGN}
    except ValueError as error:
        raise GtpError(f"syntax error: {error}") from None
    return actions if of == board.mover else set()
