"""AlphaZero learns small games: Tic-tac-toe without a mistake, 5x5 Go from the centre on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rayloom
from rayloom_agents.alphago.games import Go
from rayloom_agents.alphago.search import Search, SearchSettings


def test_no_line_of_tic_tac_toe_is_lost_in_either_seat(tmp_path: Path) -> None:
    result = rayloom.run(
        "alphazero_tictactoe",
        "stop.updates=600",
        "evaluate.every=600 updates",
        "tracking.enabled=false",
        "tracking.pictures=false",
        f"output={tmp_path}",
        local=True,
    )
    assert result.metrics["evaluate/lost"] == 0 and result.metrics["evaluate/lines"] > 100


@pytest.mark.full
def test_black_takes_the_centre_of_5x5_and_the_whole_board(tmp_path: Path) -> None:
    """Komi 24.5: Black wins by 25 points or not at all."""
    result = rayloom.run(
        "alphazero_go5x5",
        "evaluate.every=1000 updates",
        "tracking.enabled=false",
        "tracking.pictures=false",
        f"output={tmp_path}",
        local=True,
    )
    assert result.metrics["evaluate/score_first"] >= 0.95
    trained = rayloom.load(result.run_dir.name, output=str(tmp_path))
    game = Go(5, komi=24.5, max_plies=50)
    search = Search(game, 1, SearchSettings(simulations=64))
    algorithm = trained.algorithm
    found = search.run(algorithm.infer, game.start(1), np.random.default_rng(0))  # type: ignore[attr-defined]
    assert found.action[0] == 12
