"""The commands of our GTP server: one game of Go between a network with search and whoever sends commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from rayloom_agents.alphago.gtp.analysis import ANALYSES, Analysis, moves_of, report
from rayloom_agents.alphago.gtp.board import Board, score_text
from rayloom_agents.alphago.gtp.clock import Clock
from rayloom_agents.alphago.gtp.coordinates import RESIGN, action_of, colour_of, vertex
from rayloom_agents.alphago.gtp.protocol import Commands, GtpError, Lines, Request, Writer
from rayloom_agents.alphago.gtp.records import read_position
from rayloom_agents.alphago.gtp.thinking import Thinker

Handler = Callable[[list[str]], str]
_LARGEST_KOMI = 1000.0


def engine_version() -> str:
    """Return the version of this package."""
    try:
        return version("rayloom")
    except PackageNotFoundError:
        return "0"


class Session(Commands):
    """A game, its clock, and the player."""

    def __init__(self, board: Board, thinker: Thinker, name: str) -> None:
        """`name`: what the engine calls itself."""
        self.board, self.thinker, self.name = board, thinker, name
        self.clock = Clock(board.size)
        self.last_win_rate = math.nan
        """What the player thought of its last move."""
        self._simple: dict[str, Handler] = {
            "protocol_version": lambda _: "2",
            "name": lambda _: self.name,
            "version": lambda _: engine_version(),
            "known_command": self._known_command,
            "list_commands": lambda _: "\n".join(self.names()),
            "quit": lambda _: "",
            "boardsize": self._boardsize,
            "query_boardsize": lambda _: str(self.board.size),
            "clear_board": self._clear_board,
            "komi": self._komi,
            "get_komi": lambda _: f"{self.board.komi:g}",
            "play": self._play,
            "genmove": self._genmove,
            "reg_genmove": self._reg_genmove,
            "undo": self._undo,
            "set_free_handicap": self._set_free_handicap,
            "showboard": lambda _: f"\n{self.board}",
            "final_score": lambda _: score_text(self.board.score()),
            "final_status_list": self._final_status_list,
            "time_settings": self._time_settings,
            "time_left": self._time_left,
            "loadsgf": self._loadsgf,
        }

    def names(self) -> list[str]:
        """Return the names of all commands."""
        return [*self._simple, *ANALYSES]

    def carry_out(self, request: Request, write: Writer, lines: Lines) -> str:
        """Carry one command out."""
        if request.name in ANALYSES:
            return self._analyse(ANALYSES[request.name], request.arguments, write, lines)
        handler = self._simple.get(request.name)
        if handler is None:
            raise GtpError("unknown command")
        return handler(request.arguments)

    # --- about the engine -------------------------------------------------------------------------------------------

    def _known_command(self, words: list[str]) -> str:
        (name,) = _take(words, 1)
        return "true" if name in self.names() else "false"

    # --- setting up -------------------------------------------------------------------------------------------------

    def _boardsize(self, words: list[str]) -> str:
        (size,) = _numbers(words, 1, whole=True)
        if size != self.board.size:
            raise GtpError(f"unacceptable size: this network was made for {self.board.size} lines, not {size:.0f}")
        return self._clear_board([])

    def _clear_board(self, words: list[str]) -> str:
        self.board.clear()
        self.clock.start()
        self.thinker.forget()
        return ""

    def _komi(self, words: list[str]) -> str:
        (komi,) = _numbers(words, 1)
        if abs(komi) > _LARGEST_KOMI:
            raise GtpError(f"komi: write a number between -{_LARGEST_KOMI:g} and {_LARGEST_KOMI:g}")
        self.board.set_komi(komi)
        self.thinker.forget()  # its values belong to another komi
        return ""

    def _set_free_handicap(self, words: list[str]) -> str:
        points = [self._point(word) for word in words]
        if self.board.moves or self.board.stones().any():
            raise GtpError("board not empty")
        if len(points) < 2 or not self.board.set_up(points, [], mover=-1):
            raise GtpError("bad vertex list")
        self.thinker.forget()
        return ""

    def _loadsgf(self, words: list[str]) -> str:
        if not words:
            raise GtpError("loadsgf takes a file, and perhaps the number of a move")
        number = int(_numbers(words[-1:], 1, whole=True)[0]) if len(words) > 1 and words[-1].isdecimal() else None
        path = " ".join(words if number is None else words[:-1])
        position, board = read_position(path, self.board.size, number), Board(self.board.game)
        board.set_komi(self.board.komi if position.komi is None else position.komi)
        if not board.set_up(position.black, position.white, position.mover):
            raise GtpError("cannot load file: its stones make no position")
        for index, (colour, action) in enumerate(position.moves, 1):
            if not board.play(colour, action):
                raise GtpError(f"cannot load file: move {index}, {vertex(action, board.size)}, is illegal")
        if position.mover_after is not None:
            board.turn_to(position.mover_after)
        self.board.become(board)
        self.thinker.forget()
        return ""

    # --- playing ----------------------------------------------------------------------------------------------------

    def _play(self, words: list[str]) -> str:
        colour, action = _colour(words[:1]), self._point(*_take(words[1:], 1))
        if action == RESIGN:
            raise GtpError("invalid vertex: resign is no move that can be played")
        self._put(colour, action)
        return ""

    def _put(self, colour: int, action: int) -> None:
        in_turn = colour == self.board.mover and not self.board.is_over()
        if not self.board.play(colour, action):
            raise GtpError("illegal move")
        if in_turn:
            self.thinker.follow(action)
        else:
            self.thinker.forget()

    def _turn(self, colour: int) -> bool:
        """Make it a colour's turn; return whether the game goes on."""
        if colour != self.board.mover:
            self.board.turn_to(colour)
            self.thinker.forget()
        return not self.board.is_over()

    def _genmove(self, words: list[str]) -> str:
        colour = _colour(words)
        action = self._choose(colour)
        if action != RESIGN and not self.board.is_over():
            self._put(colour, action)
        return vertex(action, self.board.size)

    def _reg_genmove(self, words: list[str]) -> str:
        return vertex(self._choose(_colour(words)), self.board.size)

    def _choose(self, colour: int) -> int:
        """Return what a colour should play; a pass where the game has ended."""
        if not self._turn(colour):
            return self.board.size**2
        action, self.last_win_rate = self.thinker.choose(self.clock.seconds(colour, len(self.board.moves)))
        return action

    def _undo(self, words: list[str]) -> str:
        if not self.board.undo():
            raise GtpError("cannot undo")
        self.thinker.forget()
        return ""

    # --- the end ----------------------------------------------------------------------------------------------------

    def _final_status_list(self, words: list[str]) -> str:
        """Return chains that are so: all stones that are left count as alive, as under our rules."""
        (status,) = _take(words, 1)
        if status not in ("alive", "dead", "seki"):
            raise GtpError("syntax error: final_status_list takes alive, dead or seki")
        chains = self.board.chains() if status == "alive" else []
        return "\n".join(" ".join(vertex(point, self.board.size) for point in chain) for chain in chains)

    # --- time -------------------------------------------------------------------------------------------------------

    def _time_settings(self, words: list[str]) -> str:
        main_s, period_s, stones = _numbers(words, 3)
        if min(main_s, period_s, stones) < 0:
            raise GtpError("syntax error: times and stones are not negative")
        self.clock.set(main_s, period_s, int(stones))
        return ""

    def _time_left(self, words: list[str]) -> str:
        colour = _colour(words[:1])
        seconds, stones = _numbers(words[1:], 2)
        self.clock.set_left(colour, max(0.0, seconds), int(max(0.0, stones)))
        return ""

    # --- analysis ---------------------------------------------------------------------------------------------------

    def _analyse(self, analysis: Analysis, words: list[str], write: Writer, lines: Lines) -> str:
        """Report on candidates until another line comes, or, where a move is to be played, until it is found."""
        options = analysis.options(words, self.board)
        colour = self.board.mover if options.colour is None else options.colour
        if not self._turn(colour):
            if not analysis.plays:
                raise GtpError("the game has ended")
            write("")
            return "play pass"
        seconds = self.clock.seconds(colour, len(self.board.moves)) if analysis.plays else None
        for _ in report(self.thinker, options, analysis, lines, write, seconds):
            pass
        if not analysis.plays:
            return ""
        best = moves_of(self.thinker, options)[0]
        self.last_win_rate = best.win_rate
        give_up = self.thinker.resign_below
        if give_up is not None and len(self.board.moves) >= self.board.size and best.win_rate < give_up:
            return "play resign"
        self._put(colour, best.action)
        return f"play {vertex(best.action, self.board.size)}"

    # --- words ------------------------------------------------------------------------------------------------------

    def _point(self, word: str) -> int:
        try:
            return action_of(word, self.board.size)
        except ValueError:
            raise GtpError(f"invalid vertex {word!r} on {self.board.size} lines") from None


def _take(words: Sequence[str], count: int) -> Sequence[str]:
    if len(words) < count:
        raise GtpError(f"syntax error: {count} more arguments are missing" if count > 1 else "syntax error: one more "
                       "argument is missing")  # fmt: skip
    return words[:count]


def _colour(words: Sequence[str]) -> int:
    (word,) = _take(words, 1)
    try:
        return colour_of(word)
    except ValueError:
        raise GtpError(f"invalid color {word!r}") from None


def _numbers(words: Sequence[str], count: int, whole: bool = False) -> list[float]:
    """Return the first `count` words as finite numbers."""
    found = []
    for word in _take(words, count):
        try:
            number = float(int(word)) if whole else float(word)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise GtpError(f"syntax error: {word[:20]!r} is no {'whole ' if whole else ''}number")
        found.append(number)
    return found
