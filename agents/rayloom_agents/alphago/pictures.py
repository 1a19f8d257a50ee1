"""Pictures of board games: stones with the numbers of their moves, heat maps of a policy, ownership, win rates.

matplotlib is imported where something is drawn, never before: training does without it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayloom.contract import Figure
from rayloom_agents.alphago.games.game import Game, State
from rayloom_agents.alphago.gtp.coordinates import LETTERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WOOD, _LINE = "#e0b878", "#6b4f2a"
_STARS = {9: (2, 4, 6), 13: (3, 6, 9), 19: (3, 9, 15)}
_PIXELS = 192
"""Width and height of a board in a gallery."""


@dataclass(frozen=True)
class BoardPicture:
    """One position, and what is to be seen on it."""

    stones: NDArray[np.int8]
    """[rows, columns]: 1 the first player's (black), -1 the second's, 0 none."""
    numbers: NDArray[np.int64] | None = None
    """[rows, columns]: which ply put the stone there; 0 for none."""
    last: int | None = None
    """Point of the last move, which gets a mark where there are no numbers."""
    policy: NDArray[np.floating[Any]] | None = None
    """[rows, columns]: shares of the moves to come, drawn as squares in red."""
    ownership: NDArray[np.floating[Any]] | None = None
    """[rows, columns]: from 1, the first player's, to -1, the second's, drawn as small squares."""
    title: str = ""


def stones_of(game: Game, state: State) -> NDArray[np.int8]:
    """Return the stones of N games [N, rows, columns]."""
    board = getattr(game, "board", None)
    stones = board(state) if board is not None else state.board.reshape(-1, game.rows, game.columns)
    return np.asarray(stones, np.int8)


def replay(game: Game, actions: Sequence[int], plies: int | None = None, title: str = "") -> BoardPicture:
    """Return the position after the first `plies` (None: all) actions of a game, with the numbers of the moves.

    A stone that was taken off leaves no number; one that is played there again has its own.
    """
    state, numbers, last = game.start(1), np.zeros((game.rows, game.columns), np.int64), None
    before = stones_of(game, state)[0].copy()
    for ply, action in enumerate(actions[:plies], 1):
        game.play(state, np.array([action]))
        after = stones_of(game, state)[0].copy()
        placed = np.flatnonzero((before == 0) & (after != 0))
        numbers[after == 0] = 0
        last = int(placed[0]) if len(placed) else None
        if last is not None:
            numbers.reshape(-1)[last] = ply
        before = after
    return BoardPicture(before, numbers, last, title=title)


def draw_board(axes: Axes, picture: BoardPicture, coordinates: bool = True) -> None:
    """Draw a position."""
    rows, columns = picture.stones.shape
    axes.set_facecolor(_WOOD)
    axes.hlines(range(rows), 0, columns - 1, colors=_LINE, linewidth=0.6, zorder=1)
    axes.vlines(range(columns), 0, rows - 1, colors=_LINE, linewidth=0.6, zorder=1)
    stars = _STARS.get(rows, ()) if rows == columns else ()
    axes.scatter([c for _ in stars for c in stars], [r for r in stars for _ in stars], s=6, color=_LINE, zorder=1)
    axes.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6), aspect="equal")
    if coordinates:
        axes.set_xticks(range(columns), LETTERS[:columns])
        axes.set_yticks(range(rows), [str(rows - row) for row in range(rows)])
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.tick_params(length=0, labelsize=7)
    _draw_policy(axes, picture)
    _draw_stones(axes, picture)
    _draw_ownership(axes, picture)
    axes.set_title(picture.title, fontsize=8)


def _draw_policy(axes: Axes, picture: BoardPicture) -> None:
    from matplotlib.patches import Rectangle

    if picture.policy is None:
        return
    most = max(float(np.max(picture.policy)), 1e-9)
    for row, column in np.argwhere(picture.policy >= 0.005):
        shade = float(picture.policy[row, column])
        square = Rectangle((column - 0.5, row - 0.5), 1, 1, color="red", alpha=0.15 + 0.7 * shade / most, linewidth=0)
        axes.add_patch(square).set_zorder(2)
        if picture.stones[row, column] == 0:
            axes.text(column, row, f"{100 * shade:.0f}", ha="center", va="center", fontsize=6, zorder=4)


def _draw_stones(axes: Axes, picture: BoardPicture) -> None:
    from matplotlib.patches import Circle

    rows, columns = picture.stones.shape
    small = 5.5 if max(rows, columns) > 9 else 7
    for row, column in np.argwhere(picture.stones != 0):
        black = picture.stones[row, column] == 1
        face, ink = ("black", "white") if black else ("white", "black")
        axes.add_patch(Circle((column, row), 0.46, facecolor=face, edgecolor="black", linewidth=0.5, zorder=3))
        if picture.numbers is not None and picture.numbers[row, column]:
            number = str(picture.numbers[row, column])
            axes.text(column, row, number, color=ink, ha="center", va="center", fontsize=small, zorder=4)
        elif picture.last == row * columns + column:
            axes.add_patch(Circle((column, row), 0.2, facecolor="none", edgecolor=ink, linewidth=1.2, zorder=4))


def _draw_ownership(axes: Axes, picture: BoardPicture) -> None:
    from matplotlib.patches import Rectangle

    if picture.ownership is None:
        return
    for row, column in np.ndindex(*picture.ownership.shape):
        share = float(picture.ownership[row, column])
        if abs(share) < 0.1 or picture.stones[row, column] == np.sign(share):
            continue
        half = 0.22 * abs(share) ** 0.5
        colour = "black" if share > 0 else "white"
        square = Rectangle((column - half, row - half), 2 * half, 2 * half, facecolor=colour, edgecolor="grey")
        axes.add_patch(square).set(linewidth=0.3, zorder=5)


def board_png(pictures: Sequence[BoardPicture], columns: int = 4, file: Literal["png", "svg"] = "png") -> bytes:
    """Return positions side by side as a picture file."""
    from matplotlib.figure import Figure as Canvas

    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = Canvas(figsize=(3.2 * columns, 3.4 * rows), layout="constrained")
    for index, picture in enumerate(pictures):
        draw_board(canvas.add_subplot(rows, columns, index + 1), picture)
    return _file(canvas, file)


def win_rate_png(
    rates: Sequence[tuple[str, Sequence[float | None]]], file: Literal["png", "svg"] = "png", title: str = ""
) -> bytes:
    """Return the chances of Black over the plies of games, one curve for each name; None leaves a gap bridged."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, 3.6), layout="constrained")
    axes = canvas.add_subplot()
    axes.axhline(0.5, color="grey", linewidth=0.6)
    for name, values in rates:
        known = [(ply, value) for ply, value in enumerate(values, 1) if value is not None]
        axes.plot([ply for ply, _ in known], [value for _, value in known], label=name, linewidth=1.2, marker=".")
    axes.set(ylim=(0, 1), xlabel="move", ylabel="Black's win rate", title=title)
    if any(name for name, _ in rates):
        axes.legend(fontsize=7)
    return _file(canvas, file)


def _file(canvas: Any, file: str) -> bytes:
    target = io.BytesIO()
    canvas.savefig(target, format=file, dpi=110)
    return target.getvalue()


def pixels(picture: BoardPicture, size: int = _PIXELS) -> Tensor:
    """Return a position as an image [3, size, size] in 0..1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(size / 100, size / 100), dpi=100)
    canvas.subplots_adjust(0.02, 0.02, 0.98, 0.9 if picture.title else 0.98)
    draw_board(canvas.add_subplot(), picture, coordinates=False)
    drawn = FigureCanvasAgg(canvas)
    drawn.draw()
    image = np.asarray(drawn.buffer_rgba())[:size, :size, :3]
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def gallery(game: Game, games: Sequence[Sequence[int]], titles: Sequence[str], size: int = _PIXELS) -> Figure:
    """Return the last positions of games as a figure, with the numbers of the moves."""
    boards = [pixels(replay(game, actions, title=title), size) for actions, title in zip(games, titles, strict=True)]
    return Figure("images", torch.stack(boards), columns=4)


def win_rate_curves(rates: Sequence[Sequence[float | None]], labels: Sequence[str]) -> Figure:
    """Return the chances of Black over the plies of games as a figure; a ply without one has the last that is known."""
    plies = max(len(each) for each in rates)
    curves = torch.full((len(rates), plies), 0.5)
    for row, values in enumerate(rates):
        latest = 0.5
        for ply in range(plies):
            value = values[ply] if ply < len(values) else None
            latest = latest if value is None else value
            curves[row, ply] = latest
    return Figure(
        "curves", curves, labels=tuple(labels), x=torch.arange(1, plies + 1.0), axes=("move", "Black's win rate")
    )


def policy_matrix(policy: NDArray[np.floating[Any]], size: int) -> Figure:
    """Return shares of moves [size^2 or more] as a figure with the names of rows and columns."""
    data = torch.from_numpy(np.asarray(policy[: size * size], np.float32).reshape(size, size).copy())
    rows = tuple(str(size - row) for row in range(size))
    return Figure("matrix", data, labels=rows, column_labels=tuple(LETTERS[:size]))
