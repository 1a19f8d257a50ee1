"""What a match leaves behind: a table, the games as SGF, pictures, and figures for the tracker."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rayloom.contract import Figure
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.gtp.coordinates import vertex
from rayloom_agents.alphago.gtp.records import write_sgf
from rayloom_agents.alphago.gtp.referee import MatchResult, PlayedGame
from rayloom_agents.alphago.pictures import (
    BoardPicture,
    board_png,
    gallery,
    replay,
    stones_of,
    win_rate_curves,
    win_rate_png,
)
from rayloom_agents.alphago.search import Infer

_MOST_FAULTS = 20


def title_of(game: PlayedGame, names: tuple[str, str]) -> str:
    """Return who played and how it ended."""
    return f"{game.number}: {names[game.black]} - {names[1 - game.black]}, {game.result}"


def summary(result: MatchResult) -> dict[str, Any]:
    """Return a match as plain data, from the first player's side."""
    low, high = result.interval
    winners, scores = result.disagreements()
    return {
        "players": list(result.names),
        "games": len(result.games),
        "won": result.count(1),
        "drawn": result.count(0),
        "lost": result.count(-1),
        "score": result.score,
        "score_low": low,
        "score_high": high,
        "won_as_black": result.count(1, black=0),
        "won_as_white": result.count(1, black=1),
        "distinct": result.distinct,
        "seconds_per_move": [round(seconds, 4) for seconds in result.seconds_per_move],
        "faults": [result.faults(0), result.faults(1)],
        "restarts": list(result.restarts),
        "other_winner_by_engine": winners,
        "other_score_by_engine": scores,
    }


def table(result: MatchResult) -> str:
    """Return a match for people."""
    found, (first, second) = summary(result), result.names
    lines = [
        f"{first} against {second}: {found['won']} won, {found['drawn']} drawn, {found['lost']} lost of "
        f"{found['games']} games",
        f"  score                {100 * found['score']:.1f} %, 95 % interval {100 * found['score_low']:.1f} to "
        f"{100 * found['score_high']:.1f} %",
    ]
    for colour, black in (("Black", 0), ("White", 1)):
        counts = [result.count(outcome, black) for outcome in (1, 0, -1)]
        lines.append(f"  as {colour}             {counts[0]} won, {counts[1]} drawn, {counts[2]} lost")
    lines.append(f"  distinct games       {found['distinct']} of {found['games']}")
    for side, name in enumerate(result.names):
        lines.append(f"  {name}: {found['seconds_per_move'][side]:.3f} s a move, {found['faults'][side]} games lost by "
                     f"a fault, started anew {found['restarts'][side]} times")  # fmt: skip
    if any(game.other_scores for game in result.games):
        lines.append(f"  counted otherwise by an engine: {found['other_winner_by_engine']} times another winner, "
                     f"{found['other_score_by_engine']} times another score")  # fmt: skip
    faults = [f"  game {game.number}: {game.fault}" for game in result.games if game.fault]
    return "\n".join([*lines, *faults[:_MOST_FAULTS]]) + "\n"


def records(result: MatchResult, game: Go) -> dict[str, str | bytes]:
    """Return the games as SGF files with win rates in the comments, and the table."""
    files: dict[str, str | bytes] = {
        f"games/{played.number:04d}.sgf": write_sgf(played.record(game, result.names)) for played in result.games
    }
    return {"result.txt": table(result), **files}


def final_position(played: PlayedGame, game: Go, title: str) -> BoardPicture:
    """Return how a game ended, with whose area is whose where it was counted."""
    actions = [move.action for move in played.moves]
    found = replay(game, actions, title=title)
    if played.score is None:
        return found
    state = game.start(1)
    for action in actions:
        game.play(state, np.array([action]))
    return dataclasses.replace(found, ownership=game.owners(state)[0].reshape(game.size, game.size))


def policy_png(played: PlayedGame, game: Go, infer: Infer, name: str, count: int = 4) -> bytes:
    """Return what a network wants to play in positions of a game, whoever's turn it is, and the move that came."""
    plies = np.unique(np.linspace(0, max(0, len(played.moves) - 1), count, dtype=np.int64)).tolist()
    boards, state = [], game.start(1)
    for ply, move in enumerate(played.moves):
        if ply in plies:
            policy = legal_policy(game, state, infer)[:-1].reshape(game.size, game.size)
            came = f"move {ply + 1}: {name} would play here, {vertex(move.action, game.size)} came"
            last = played.moves[ply - 1].action if ply else None
            boards.append(BoardPicture(stones_of(game, state)[0].copy(), last=last, policy=policy, title=came))
        game.play(state, np.array([move.action]))
    return board_png(boards)


def legal_policy(game: Go, state: Any, infer: Infer) -> NDArray[np.float64]:
    """Return the network's shares of the legal moves in the first position of a state [A]."""
    logits, _ = infer(game.observe(state))
    weights = np.where(game.legal(state)[0], np.exp(logits[0] - logits[0].max(), dtype=np.float64), 0)
    shares: NDArray[np.float64] = weights / max(weights.sum(), 1e-300)
    return shares


def pictures(result: MatchResult, game: Go, count: int) -> dict[str, str | bytes]:
    """Return pictures of the first `count` games: the last positions, and Black's chances."""
    chosen = result.games[:count]
    if not chosen:
        return {}
    boards = [final_position(played, game, title_of(played, result.names)) for played in chosen]
    curves = [(title_of(played, result.names), played.win_rates) for played in chosen]
    files: dict[str, str | bytes] = {"boards.png": board_png(boards)}
    if any(rate is not None for _, rates in curves for rate in rates):
        files["win_rates.png"] = win_rate_png(curves)
    return files


def figures(result: MatchResult, game: Go, count: int) -> Mapping[str, Figure]:
    """Return the counts, a gallery of the first `count` games and Black's chances in them."""
    counts = [[float(result.count(outcome, black)) for outcome in (1, 0, -1)] for black in (0, 1)]
    found = {
        "results": Figure(
            "table", torch.tensor(counts), labels=("as Black", "as White"), column_labels=("won", "drawn", "lost")
        )
    }
    chosen = [played for played in result.games if played.moves][:count]
    if chosen:
        titles = [f"{played.number}: {played.result}" for played in chosen]
        found["games"] = gallery(game, [[move.action for move in played.moves] for played in chosen], titles)
    known = [played for played in chosen if any(rate is not None for rate in played.win_rates)]
    if known:
        labels = [f"{played.number}: {played.result}" for played in known]
        found["win_rates"] = win_rate_curves([played.win_rates for played in known], labels)
    return found
