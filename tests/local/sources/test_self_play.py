"""Self-play by tree search: what a ply's row says, running games over a barrier, other numbers of learners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rayloom
from contexts import context_of
from learners import Learners
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.rollouts.worker import RolloutWorker
from rayloom.sources.resharding import reshard
from rayloom_agents.alphago.alphazero import AlphaZero
from rayloom_agents.alphago.games import TicTacToe
from rayloom_agents.alphago.self_play import SelfPlay


def config(output: Path | str = "rayloom-runs", learners: int = 1, updates: int = 6, **source: Any) -> RunConfig:
    """Return a small run."""
    return from_tree(
        {
            "name": "self_play",
            "algorithm": {"import": "rayloom_agents.alphago.alphazero:AlphaZero", "blocks": 1, "channels": 8},
            "source": {
                "import": "rayloom_agents.alphago.self_play:SelfPlay",
                "num_envs": 8,
                "search": {"simulations": 8},
                "plies": 4,
                **source,
            },
            "learner": {"batch_size": 16, "count": learners},
            "stop": {"updates": updates},
            "output": str(output),
            "tracking": {"enabled": False, "system_metrics": False},
        }
    )


@pytest.mark.parametrize("game", ["tic_tac_toe", "connect_four", {"kind": "hex", "size": 3},
                                  {"kind": "go", "size": 3, "komi": 0.5}])  # fmt: skip
def test_rows_are_positions_with_a_legal_policy_and_the_movers_outcome(game: Any) -> None:
    settings = config(game=game)
    made = settings.source.game.make()  # type: ignore[attr-defined]
    rollout = RolloutWorker(settings, 0).collect(made.max_plies)
    planes, policy, outcome = (rollout.arrays[name] for name in ("planes", "policy", "outcome"))
    assert len(planes) == sum(length for _, length in rollout.episodes) > 0 and rollout.arrays["full"].all()
    assert policy.sum(axis=1) == pytest.approx(np.ones(len(policy)), abs=1e-5)
    stones = planes[:, :2].sum(axis=1).reshape(len(planes), -1)
    if made.num_actions == stones.shape[1]:
        assert not policy[stones == 1].any(), "only free points are played"
    empty = stones.sum(axis=1) == 0
    starts = np.flatnonzero(empty & (planes[:, 2].mean(axis=(1, 2)) == (1 if made.num_planes == 3 else 0)))
    assert len(starts) >= len(rollout.episodes)
    assert set(np.unique(outcome)) <= {-1.0, 0.0, 1.0}


def test_outcomes_have_the_movers_sign() -> None:
    """A Tic-tac-toe position with an own open line of two and the move is won by whoever moves: the search sees it."""
    rollout = RolloutWorker(config(search={"simulations": 60, "leaves": 4}, sampled_plies=3, num_envs=32), 0).collect(
        12
    )
    planes, policy, outcome = (rollout.arrays[name] for name in ("planes", "policy", "outcome"))
    board = (planes[:, 0] - planes[:, 1]).reshape(-1, 9)
    game, winning = TicTacToe(), np.zeros((len(board), 9), bool)
    for line in game._lines:
        two = (board[:, line].sum(axis=1) == 2) & ((board[:, line] == 0).sum(axis=1) == 1)
        for point in line:
            winning[:, point] |= two & (board[:, point] == 0)
    late = winning.any(axis=1) & (np.abs(board).sum(axis=1) > 4)
    assert late.sum() > 10 and (outcome[late] == 1).mean() > 0.9
    assert (policy[late] * winning[late]).sum(axis=1).mean() > 0.6


def test_running_games_go_on_over_a_barrier() -> None:
    worker = RolloutWorker(config(), 0)
    worker.collect(3)  # nobody has won yet
    worker.barrier()
    state, weights = worker.state_dict(), worker._algorithm.state_dict()
    copy = RolloutWorker(config(), 0)
    copy.load_state_dict(state)
    copy.load_weights(1, {name: value.clone() for name, value in weights.items()}, worker._algorithm.progress)
    one, other = worker.collect(6), copy.collect(6)
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
    assert one.episodes == other.episodes and max(length for _, length in one.episodes) > 6


def test_playout_caps_mark_the_rows_of_full_searches() -> None:
    settings = config(full_share=0.3, fast_simulations=2, num_envs=64)
    rollout = RolloutWorker(settings, 0).collect(18)
    full, policy = rollout.arrays["full"], rollout.arrays["policy"]
    assert 0.2 < full.mean() < 0.4
    assert ((policy[full == 0] > 0).sum(axis=1) <= 9).all() and (policy[full == 1] > 0).sum(axis=1).mean() > 2


def test_batches_are_symmetric_views_of_the_window() -> None:
    settings = config()
    algorithm = AlphaZero(settings.algorithm, SelfPlay.describe(settings.source))  # type: ignore[arg-type]
    source = SelfPlay(settings.source, context_of(algorithm, 64))  # type: ignore[arg-type]
    board = torch.zeros(1, 3, 3, 3)
    board[0, 0, 0, 1], board[0, 1, 2, 2] = 1.0, 1.0
    policy = torch.zeros(1, 9)
    policy[0, 0] = 1.0  # beside the own stone, in the corner
    source.rows = {"planes": board, "policy": policy, "outcome": torch.ones(1), "full": torch.ones(1)}
    source.total["rows"] = 100
    batch = source.next()
    seen = set()
    for planes, target in zip(batch["planes"], batch["policy"], strict=True):
        own, other, point = (int(part.flatten().argmax()) for part in (planes[0], planes[1], target))
        seen.add((own, other, point))
        near = abs(own // 3 - point // 3) + abs(own % 3 - point % 3)
        assert near == 1 and point in (0, 2, 6, 8) and point + other == 8
    assert len(seen) == 8


def test_every_ply_is_drawn_as_often_as_reuse_says() -> None:
    learners = Learners(config(reuse=2.0, window=100, search={"simulations": 3}))
    learners.train(25)
    source: Any = learners.roles[0].source
    assert 0 <= source.total["rows"] * 2 - source.total["samples"] <= 2 * 8 * 2 * 9
    assert len(source.rows["outcome"]) == 100 and source.counters()["samples"] == 25 * 16
    learners.close()


def test_gumbel_search_feeds_the_learner(tmp_path: Path) -> None:
    result = rayloom.run(config(tmp_path, search={"method": "gumbel", "simulations": 6, "considered_actions": 4}))
    assert result.counters["updates"] == 6 and result.metrics["train/policy_loss"] > 0


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_self_play_goes_on_with_another_number_of_learners(before: int, after: int) -> None:
    old, new = config(learners=before), config(learners=after)
    learners = Learners(old)
    learners.train(4)
    states = [role.barrier_and_state() for role in learners.roles]
    counters = learners.counters()
    learners.close()
    dealt = reshard(old, new, states)
    rows = [sorted(row.tolist() for s in group for row in s["source"]["rows"]["policy"]) for group in (states, dealt)]
    assert rows[0] == rows[1], "no row is lost"
    learners = Learners(new, dealt)
    assert learners.counters() == counters
    learners.train(8)
    assert len(set(learners.each(lambda role: role.weights_sha256()))) == 1
    learners.close()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"game": "chess"}, r"source\.game"),
        ({"game": {"kind": "go", "size": 1}}, r"source\.game\.size"),
        ({"search": {"simulations": 0}}, r"source\.search\.simulations"),
        ({"search": {"simulation": 8}}, r"did you mean"),
        ({"full_share": 0}, r"source\.full_share"),
    ],
)
def test_impossible_settings_are_refused(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config(**source)


def test_a_policy_from_one_simulation_is_refused() -> None:
    with pytest.raises(UserError, match=r"source\.search\.simulations: a policy is learnt from at least 2"):
        RolloutWorker(config(search={"simulations": 1}), 0)
