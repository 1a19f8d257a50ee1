"""Matches: the interval by hand, paired openings, colours, and opponents of known strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayloom.contract import Budget, EvaluationContext
from rayloom.errors import UserError
from rayloom_agents.alphago.games import Go, TicTacToe
from rayloom_agents.alphago.matches import Matches, MatchesConfig, Player, play_match, wilson_interval
from rayloom_agents.alphago.search import SearchSettings
from rayloom_agents.alphago.self_play import SelfPlayConfig
from tree_search import uniform_network


class Uniform(torch.nn.Module):
    """Judges positions without knowledge."""

    infer = staticmethod(uniform_network(TicTacToe()))


def matches(**settings: object) -> Matches:
    """Return an evaluation of Tic-tac-toe."""
    return Matches(MatchesConfig(**settings), EvaluationContext(source=SelfPlayConfig(), data=None))  # type: ignore[arg-type]


def test_wilson_interval_has_published_values() -> None:
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson_interval(1.0, 200) == pytest.approx((0.9812, 1.0), abs=1e-4)
    assert wilson_interval(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)


def test_pairs_open_alike_with_colours_exchanged() -> None:
    game = Go(3, komi=0.5)
    chance = Player(game, 40, None, None)
    outcomes, moves = play_match(game, (chance, chance), 40, 3, seed=5)
    assert (moves[::2, :3] == moves[1::2, :3]).all() and (moves[::2, 3:] != moves[1::2, 3:]).any()
    assert len({tuple(row) for row in moves[::2, :3].tolist()}) > 15
    for n in range(40):
        state = game.start(1)
        for action in moves[n][moves[n] >= 0]:
            game.play(state, np.array([action]))
        assert game.is_over(state)[0]
        assert outcomes[n] == game.outcome(state)[0] * (1 if n % 2 == 0 else -1)


def test_a_search_beats_chance_from_both_sides_and_the_record_says_so() -> None:
    evaluation = matches(games=60, search=SearchSettings(simulations=100, leaves=4))
    findings = evaluation.run(Uniform(), 3, Budget(60.0))  # type: ignore[arg-type]
    assert findings.metrics["score"] > 0.85 and findings.metrics["won"] + findings.metrics["lost"] <= 1
    lines = str(findings.files["games.txt"]).splitlines()
    assert len(lines) == 60
    assert sum(line.startswith("+1") for line in lines) / 60 == pytest.approx(findings.metrics["won"])
    table = findings.figures["results"]
    assert table.data.sum() == 60 and table.data[:, 0].sum() / 60 == pytest.approx(findings.metrics["won"])
    again = evaluation.run(Uniform(), 3, Budget(60.0))  # type: ignore[arg-type]
    assert again.files == findings.files


def test_equal_players_are_even_and_a_raw_policy_without_knowledge_is_weak() -> None:
    settings = {"games": 40, "opponent": "search", "opponent_simulations": 200}
    even = matches(search=SearchSettings(simulations=200, leaves=4), **settings)
    assert even.run(Uniform(), 0, Budget(60.0)).metrics["score"] == pytest.approx(0.5, abs=0.06)  # type: ignore[arg-type]
    raw = matches(raw=True, **settings).run(Uniform(), 0, Budget(60.0))  # type: ignore[arg-type]
    assert raw.metrics["score"] < 0.3


def test_a_source_without_a_game_is_refused() -> None:
    with pytest.raises(UserError, match=r"evaluate\.import: Matches needs a source with a game"):
        Matches(MatchesConfig(), EvaluationContext(source=object(), data=None))
