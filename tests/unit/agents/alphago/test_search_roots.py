"""What happens at the roots: noise, sequential halving, improved policies, targets without forced visits, caps."""

from __future__ import annotations

import numpy as np
import pytest

from rayloom_agents.alphago.games import ConnectFour, Go, TicTacToe
from rayloom_agents.alphago.search import Search, SearchSettings
from rayloom_agents.alphago.search.batched import sample_simulations
from rayloom_agents.alphago.search.roots import considered_visits, dirichlet_noise, unforced_visits
from tree_search import hashed_network, uniform_network


def test_dirichlet_noise_has_the_moments_of_its_distribution() -> None:
    legal = np.tile(np.array([True] * 4 + [False]), (40_000, 1))
    draws = dirichlet_noise(legal, total=2.0, generator=np.random.default_rng(0))  # Dirichlet(0.5, 0.5, 0.5, 0.5)
    assert (draws[:, 4] == 0).all() and draws.sum(axis=1) == pytest.approx(np.ones(40_000), abs=1e-5)
    assert draws[:, :4].mean(axis=0) == pytest.approx(np.full(4, 0.25), abs=0.006)
    assert draws[:, :4].var(axis=0) == pytest.approx(np.full(4, 0.25 * 0.75 / 3), abs=0.002)


def test_tiny_parameters_still_give_a_distribution() -> None:
    draws = dirichlet_noise(np.ones((200, 362), bool), total=0.01, generator=np.random.default_rng(0))
    assert draws.sum(axis=1) == pytest.approx(np.ones(200), abs=1e-5) and draws.max(axis=1).mean() > 0.95
    assert not dirichlet_noise(np.zeros((1, 3), bool), 1.0, np.random.default_rng(0)).any()


def test_noise_fires_where_it_is_asked_for_and_leaves_the_prior_as_it_was() -> None:
    game, settings = ConnectFour(), SearchSettings(simulations=50, forced_playouts=0.0)
    search, infer = Search(game, 3, settings), hashed_network(game, 3)
    seen = []
    for seed in (0, 1):
        search.follow(np.full(3, -1))
        explore = np.array([True, False, True])
        seen.append(search.run(infer, game.start(3), np.random.default_rng(seed), explore).visits)
        assert (search.tree.prior[0, 0] == search.tree.prior[1, 0]).all()
    first, second = seen
    assert (first[1] == second[1]).all()
    assert (first[0] != first[1]).any() and (first[0] != first[2]).any() and (first[0] != second[0]).any()


def test_searches_repeat_themselves_with_the_generator() -> None:
    game = Go(3, komi=0.5)
    for method in ("puct", "gumbel"):
        found = []
        for _ in range(2):
            search = Search(game, 2, SearchSettings(method=method, simulations=20))
            result = search.run(hashed_network(game, 3), game.start(2), np.random.default_rng(5), np.ones(2, bool))
            found.append((result.visits.tolist(), result.policy.tolist(), result.action.tolist()))
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("actions", "simulations", "expected"),
    [
        (4, 16, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        (3, 5, [0, 0, 0, 1, 1]),
        (1, 3, [0, 1, 2]),
        (2, 6, [0, 0, 1, 1, 2, 2]),
        (16, 8, [0] * 8),
        (8, 24, [0] * 8 + [1] * 4 + [2] * 4 + [3, 3, 4, 4, 5, 5, 6, 6]),
    ],
)
def test_the_schedule_of_sequential_halving_by_hand(actions: int, simulations: int, expected: list[int]) -> None:
    assert list(considered_visits(actions, simulations)) == expected


def test_halving_ends_with_the_winner_and_visits_as_the_schedule_says() -> None:
    game = TicTacToe()
    search = Search(game, 1, SearchSettings(method="gumbel", simulations=16, considered_actions=4))
    result = search.run(hashed_network(game, 6), game.start(1), np.random.default_rng(2), np.ones(1, bool))
    assert sorted(result.visits[0].tolist()) == [0] * 5 + [2, 2, 6, 6]
    finalists = np.flatnonzero(result.visits[0] == 6)
    assert result.action[0] in finalists


def test_gumbel_samples_actions_from_the_policy_when_values_say_nothing() -> None:
    """The Gumbel-max trick: with equal values the winner is a draw from the prior."""
    game, games = TicTacToe(), 4000
    weights = np.array([4, 3, 2, 1, 1, 1, 1, 1, 2]) / 16

    def infer(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(np.log(weights).astype(np.float32), (len(planes), 1)), np.zeros(len(planes), np.float32)

    settings = SearchSettings(method="gumbel", simulations=4, considered_actions=4)
    result = Search(game, games, settings).run(infer, game.start(games), np.random.default_rng(0), np.ones(games, bool))
    shares = np.bincount(result.action, minlength=9) / games
    assert shares == pytest.approx(weights, abs=4 * np.sqrt(0.25 / 4 / games) + 0.01)
    assert result.policy == pytest.approx(np.tile(weights, (games, 1)), abs=1e-5)


def test_the_improved_policy_equals_its_formula() -> None:
    game = ConnectFour()
    settings = SearchSettings(method="gumbel", simulations=24, considered_actions=4, value_offset=3.0, value_scale=0.7)
    infer = hashed_network(game, 9)
    search = Search(game, 1, settings)
    result = search.run(infer, game.start(1), np.random.default_rng(1))
    logits, value = infer(game.observe(game.start(1)))
    prior = np.exp(logits[0]) / np.exp(logits[0]).sum()
    visits, sums = result.visits[0], search.tree.value_sum[0, 0]
    tried = visits > 0
    means = sums[tried] / visits[tried]
    mixed = (value[0] + visits.sum() * (prior[tried] * means).sum() / prior[tried].sum()) / (1 + visits.sum())
    completed = np.full(7, mixed)
    completed[tried] = means
    scores = logits[0] + (3.0 + visits.max()) * 0.7 * (completed + 1) / 2
    expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    assert (~tried).any() and result.policy[0] == pytest.approx(expected, abs=1e-4)
    best = max(np.flatnonzero(visits == visits.max()), key=lambda action: scores[action])
    assert result.action[0] == best


def test_below_the_root_visits_follow_the_improved_policy() -> None:
    game = TicTacToe()
    search = Search(game, 1, SearchSettings(method="gumbel", simulations=200, considered_actions=1))
    search.run(uniform_network(game), game.start(1), np.random.default_rng(0), np.ones(1, bool))
    (root_action,) = np.flatnonzero(search.tree.visits[0, 0])
    visits = search.tree.visits[0, search.tree.child[0, 0, root_action]]
    assert visits.sum() == 199 and (visits[np.arange(9) != root_action] > 0).all()


def test_forced_visits_are_taken_out_of_the_target_by_hand() -> None:
    prior, visits = np.array([0.5, 0.3, 0.1, 0.1], np.float32), np.array([60, 30, 9, 1], np.int32)
    means = np.array([0.5, 0.5, -1.0, -1.0], np.float32)
    # sqrt(101) = 10.05; the best scores 0.5 + 10.05 * 0.5 / 61 = 0.5824. The second with n visits left scores
    # 0.5 + 3.015 / n and may not fall below: n >= 36.6, so that with 30 nothing can be taken.
    # The third may lose int(sqrt(2 * 0.1 * 100)) = 4: with 8, ..., 5 left it scores -1 + 1.005 / n, far below.
    # The fourth has a single visit: it goes with its score of -1 + 1.005.
    assert unforced_visits(prior, visits, means, exploration=1.0, k=2.0).tolist() == [60, 30, 5, 0]


def test_what_is_good_keeps_its_visits_and_what_was_forced_goes() -> None:
    game = ConnectFour()

    def infer(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = np.zeros((len(planes), 7), np.float32)
        logits[:, 3] = 3.0
        second_to_move = planes[:, 2, 0, 0] == 0
        centre_taken = planes[:, :2, 5, 3].any(axis=1)
        value = np.where(centre_taken, 0.8, -0.8)  # good for the first player as soon as the centre is taken
        return logits, np.where(second_to_move, -value, value).astype(np.float32)

    settings = SearchSettings(simulations=200, noise_share=0.5, noise_total=20.0, forced_playouts=2.0)
    search = Search(game, 1, settings)
    result = search.run(infer, game.start(1), np.random.default_rng(0), np.ones(1, bool))
    assert (result.visits[0] > 0).sum() > 3
    assert result.policy[0, 3] > result.visits[0, 3] / 200 and result.policy[0].sum() == pytest.approx(1.0)


def test_playout_caps_are_drawn_by_game() -> None:
    simulations, full = sample_simulations(np.random.default_rng(0), 10_000, full=64, fast=8, share=0.25)
    assert ((simulations == 64) == full).all() and set(simulations.tolist()) == {8, 64}
    assert full.mean() == pytest.approx(0.25, abs=0.02)
