"""Self-play by tree search: what a ply's row says, running games over a barrier, other numbers of learners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rayloom
from contexts import context_of
from learners import Learners
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.rollouts.worker import RolloutWorker
from rayloom.sources.resharding import reshard
from rayloom_agents.alphago.alphazero import AlphaZero
from rayloom_agents.alphago.games import Go, TicTacToe
from rayloom_agents.alphago.records import Records, Window, as_records, games_of, joined, no_records
from rayloom_agents.alphago.self_play import SelfPlay, window_size


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


def rows_of(rollout: Any, game: Any) -> dict[str, np.ndarray]:
    """Return all plies of a rollout as the learner sees them."""
    window = Window(game)
    window.add([as_records(rollout.arrays)], 10**9)
    return window.rows(np.arange(len(window)))


@pytest.mark.parametrize("game", ["tic_tac_toe", "connect_four", {"kind": "hex", "size": 3},
                                  {"kind": "go", "size": 3, "komi": 0.5}])  # fmt: skip
def test_rows_are_positions_with_a_legal_policy_and_the_movers_outcome(game: Any) -> None:
    settings = config(game=game)
    made = settings.source.game.make()  # type: ignore[attr-defined]
    rollout = RolloutWorker(settings, 0).collect(made.max_plies)
    rows = rows_of(rollout, made)
    planes, policy, outcome = (rows[name] for name in ("planes", "policy", "outcome"))
    assert len(planes) == sum(length for _, length in rollout.episodes) > 0 and rows["full"].all()
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
    rows = rows_of(rollout, TicTacToe())
    planes, policy, outcome = (rows[name] for name in ("planes", "policy", "outcome"))
    board = (planes[:, 0] - planes[:, 1]).reshape(-1, 9)
    game, winning = TicTacToe(), np.zeros((len(board), 9), bool)
    for line in game.lines:
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
    rows = rows_of(rollout, TicTacToe())
    full, policy = rows["full"], rows["policy"]
    assert 0.2 < full.mean() < 0.4
    assert ((policy[full == 0] > 0).sum(axis=1) <= 9).all() and (policy[full == 1] > 0).sum(axis=1).mean() > 2


def test_batches_are_symmetric_views_of_the_window() -> None:
    settings = config()
    algorithm = AlphaZero(settings.algorithm, SelfPlay.describe(settings.source))  # type: ignore[arg-type]
    source = SelfPlay(settings.source, context_of(algorithm, 64))  # type: ignore[arg-type]
    # One game of a single ply that counts: the second player, who has nothing, answers 1 with the corner beside it.
    first = no_records(source.game)._replace(
        lengths=np.array([3], np.int32), outcome=np.array([-1], np.float32), score=np.array([-1], np.float32),
        komi=np.zeros(1, np.float32), owners=np.zeros((1, 0), np.int8), action=np.array([1, 8, 0], np.int16),
        full=np.ones(3, bool), value=np.zeros(3, np.float16), entries=np.array([0, 0, 1], np.uint16),
        entry_action=np.array([0], np.int16), entry_share=np.ones(1, np.float16),
    )  # fmt: skip
    source.window.restore(first)
    source._reach = lambda: 1  # type: ignore[method-assign]
    source.total["rows"] = 100
    batch = source.next()
    seen = set()
    for planes, target in zip(batch["planes"], batch["policy"], strict=True):
        own, other, point = (int(part.flatten().argmax()) for part in (planes[0], planes[1], target))
        seen.add((own, other, point))
        near = abs(own // 3 - point // 3) + abs(own % 3 - point % 3)
        assert near == 1 and point in (0, 2, 6, 8) and point + other == 8
    assert len(seen) == 8 and (batch["outcome"] == -1).all()  # the ply's mover is the first player, who lost


def test_every_ply_is_drawn_as_often_as_reuse_says() -> None:
    learners = Learners(config(reuse=2.0, window=100, search={"simulations": 3}))
    learners.train(25)
    source: Any = learners.roles[0].source
    assert 0 <= source.total["rows"] * 2 - source.total["samples"] <= 2 * 8 * 2 * 9
    assert source._reach() == 100 <= len(source.window) < 100 + 9 and source.counters()["samples"] == 25 * 16
    learners.close()


def test_gumbel_search_feeds_the_learner(tmp_path: Path) -> None:
    result = rayloom.run(config(tmp_path, search={"method": "gumbel", "simulations": 6, "considered_actions": 4}))
    assert result.counters["updates"] == 6 and result.metrics["train/policy_loss"] > 0


def finished(game: Any, sizes: list[int]) -> Records:
    """Return games of so many random plies, whose policies are one action and another with thrice its share."""
    generator, found = np.random.default_rng(0), [no_records(game)]
    for length in sizes:
        state, actions = game.start(1), []
        game.set_komi(state, np.array([length], np.float32))
        for _ in range(length):
            actions.append(int(generator.choice(np.flatnonzero(game.legal(state)[0]))))
            game.play(state, np.array(actions[-1:]))
        found.append(Records(
            np.array([length], np.int32), game.outcome(state), game.score(state), game.komi_of(state).copy(),
            game.owners(state), np.array(actions, np.int16), np.arange(length) % 2 == 0, np.zeros(length, np.float16),
            np.full(length, 2, np.uint16), np.tile(np.array([3, 5], np.int16), length),
            np.tile(np.array([0.25, 0.75], np.float16), length),
        ))  # fmt: skip
    return joined(found)


def test_rows_of_records_are_what_was_seen_in_the_games() -> None:
    game = Go(4, komi=0.5)
    records, window = finished(game, [5, 9, 7]), Window(game, threads=3)
    window.add([records], 10**9)
    rows = window.rows(np.arange(21))
    for number, (first, length) in enumerate([(0, 5), (5, 9), (14, 7)]):
        state = game.start(1)
        game.set_komi(state, np.array([length], np.float32))
        for ply in range(length):
            seen = rows["planes"][first + ply] * game.plane_scale[:, None, None]
            assert seen == pytest.approx(game.observe(state)[0], abs=1e-6)
            mover = game.mover(state)[0]
            assert rows["outcome"][first + ply] == records.outcome[number] * mover
            assert rows["score"][first + ply] == records.score[number] * mover
            assert (rows["ownership"][first + ply] == records.owners[number] * mover).all()
            game.play(state, records.action[[first + ply]])
        assert game.score(state)[0] == records.score[number]
    assert (rows["policy"][:, [3, 5]] == [0.25, 0.75]).all() and rows["policy"].sum() == 21
    assert rows["full"].tolist() == [1, 0, 1, 0, 1, *([1, 0] * 4), 1, *([1, 0] * 3), 1]


def test_a_window_forgets_whole_games_and_deals_them_out() -> None:
    game = Go(4, komi=0.5)
    records, window = finished(game, [5, 9, 7]), Window(game)
    window.add([records], 16)
    assert window.records.lengths.tolist() == [9, 7] and len(window) == 16
    window.add([finished(game, [3])], 10)
    assert window.records.lengths.tolist() == [7, 3] and len(window.records.entry_action) == 20
    chosen = games_of(records, np.array([True, False, True]))
    assert chosen.lengths.tolist() == [5, 7] and chosen.action.tolist() == [*records.action[:5], *records.action[14:]]


def test_the_window_grows_as_its_formula_says() -> None:
    grows: Any = config(window=1000, window_exponent=0.5, window_slope=0.4).source
    assert [window_size(grows, plies) for plies in (0, 1000, 4000, 9000)] == [1000, 1000, 1800, 2600]
    stays: Any = config(window=1000).source
    assert window_size(stays, 10**6) == 1000


def test_groups_and_threads_change_nothing_in_a_groups_games() -> None:
    """A group of its own plays as the same games do in halves; threads change nothing at all."""
    found = []
    for threads in (1, 3):
        settings = config(game={"kind": "go", "size": 3, "komi": 0.5, "max_plies": 12}, groups=2, threads=threads)
        rollout = RolloutWorker(settings, 0).collect(12)
        found.append({name: value.tolist() for name, value in rollout.arrays.items()})
    assert found[0] == found[1] and len(found[0]["lengths"]) >= 8


def test_komi_varies_in_whole_points_and_survives_a_barrier() -> None:
    game = {"kind": "go", "size": 3, "komi": 0.5, "max_plies": 6}
    settings = config(game=game, komi_spread=3.0, num_envs=16)
    worker = RolloutWorker(settings, 0)
    worker.collect(8)
    worker.barrier()
    other = RolloutWorker(settings, 0)
    other.load_state_dict(worker.state_dict())
    other.load_weights(1, worker._algorithm.state_dict(), worker._algorithm.progress)
    one, two = as_records(worker.collect(6).arrays), as_records(other.collect(6).arrays)
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert len(set(one.komi.tolist())) > 3 and set((one.komi % 1).tolist()) == {0.5}


def test_the_first_games_go_ahead_and_nobody_learns_the_policy_from_that() -> None:
    game = {"kind": "go", "size": 3, "komi": 0.5, "max_plies": 14}
    worker = RolloutWorker(config(game=game, stagger=9, num_envs=64), 0)
    worker.collect(1)
    worker.barrier()
    own = worker.state_dict()["own"]
    lengths, full = own["lengths"], own["full"]
    assert len(set(lengths.tolist())) > 6 and lengths.max() <= 10
    assert full.sum() == 64 - (lengths == 0).sum() and (own["entries"][full] > 0).all()
    assert not own["entries"][~full].any()
    other = RolloutWorker(config(game=game, stagger=9, num_envs=64), 0)
    other.load_state_dict(worker.state_dict())
    other.collect(1)
    assert other.state_dict()["own"]["lengths"].max() <= 11, "it goes ahead once"
    short = RolloutWorker(config(game={**game, "max_plies": 3}, stagger=9, num_envs=16), 0)
    assert short.collect(2).env_steps == 32, "games that end meanwhile begin anew"


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_self_play_goes_on_with_another_number_of_learners(before: int, after: int) -> None:
    old, new = config(learners=before), config(learners=after)
    learners = Learners(old)
    learners.train(4)
    states = [role.barrier_and_state() for role in learners.roles]
    counters = learners.counters()
    learners.close()
    dealt = reshard(old, new, states)
    games = [joined([as_records(state["source"]["records"]) for state in group]) for group in (states, dealt)]
    assert sorted(games[0].lengths.tolist()) == sorted(games[1].lengths.tolist()), "no game is lost"
    assert games[0].entry_share.sum() == pytest.approx(games[1].entry_share.sum(), rel=1e-3)
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
