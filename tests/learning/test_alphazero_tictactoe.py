"""AlphaZero learns Tic-tac-toe from nothing: its network alone, without search, then mostly plays without mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rayloom
from rayloom_agents.alphago.games import Game, State, TicTacToe, repeat, take


def values_of(game: Game, state: State, known: dict[bytes, int]) -> int:
    """Return the outcome for the mover between players who make no mistake."""
    key = state.board.tobytes()
    if key not in known:
        if game.is_over(state)[0]:
            known[key] = int(game.outcome(state)[0] * game.mover(state)[0])
        else:
            actions = np.flatnonzero(game.legal(state)[0])
            after = repeat(state, len(actions))
            game.play(after, actions)
            known[key] = max(-values_of(game, take(after, [i]), known) for i in range(len(actions)))
    return known[key]


def judge(infer: Any, positions: int = 400) -> tuple[float, float]:
    """Return how often the likeliest legal move loses nothing, and how often the value has the winner's sign.

    Both over random positions: the first where one move is better than another, the second as the mean of positions
    that are won and positions that are lost for whose turn it is.
    """
    game, known, generator = TicTacToe(), {}, np.random.default_rng(0)
    moves, signs = [], {1: [], -1: []}
    while len(moves) < positions:
        state = game.start(1)
        for _ in range(int(generator.integers(1, 7))):
            if not game.is_over(state)[0]:
                game.play(state, generator.choice(np.flatnonzero(game.legal(state)[0]), 1))
        actions = np.flatnonzero(game.legal(state)[0])
        after = repeat(state, len(actions))
        game.play(after, actions)
        worth = np.array([-values_of(game, take(after, [i]), known) for i in range(len(actions))])
        if len(actions):
            logits, value = infer(game.observe(state))
            if worth.min() < worth.max():
                moves.append(worth[logits[0, actions].argmax()] == worth.max())
            if worth.max() != 0:
                signs[int(worth.max())].append(np.sign(value[0]) == worth.max())
    return float(np.mean(moves)), float(np.mean([np.mean(signs[1]), np.mean(signs[-1])]))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2))])
def test_the_network_without_search_finds_the_best_moves(seed: int, tmp_path: Path) -> None:
    options = [
        "tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", f"seed={seed}",
        "evaluate.every=null",
    ]  # fmt: skip
    found = []
    for updates in (1, 250):
        result = rayloom.run("alphazero_tictactoe", *options, f"stop={{updates: {updates}}}", local=True)
        trained: Any = rayloom.load(result.run_dir.name, output=str(tmp_path)).algorithm
        found.append(judge(trained.infer))
    (moves_before, _), (moves, signs) = found
    assert moves_before < 0.5 and moves >= 0.65 and signs >= 0.8, found
