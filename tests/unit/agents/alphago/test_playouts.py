"""Rollouts: what the compiled side sees against the planes' features, and playouts whose end is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayloom_agents.alphago.experts.positions import position_spec
from rayloom_agents.alphago.games import Go, take
from rayloom_agents.alphago.games.game import square_symmetries
from rayloom_agents.alphago.go import patterns, playouts, rules
from rayloom_agents.alphago.go.patterns import Factors
from rayloom_agents.alphago.go.rules import GoState
from rayloom_agents.alphago.rollout_policy import PatternFeatures, RolloutPolicy


def positions(game: Go, count: int, plies: int, seed: int = 0) -> GoState:
    """Return games after random moves and passes, some of them captures."""
    generator, state = np.random.default_rng(seed), game.start(count)
    for ply in range(plies):
        legal = game.legal(state)
        if ply < plies - 2:
            legal[:, -1] &= ~legal[:, :-1].any(axis=1)
        draws = np.where(legal, generator.random(legal.shape), -1.0)
        running = (np.arange(count) % plies >= ply) & ~game.is_over(state)
        game.play(state, np.where(running, draws.argmax(axis=1), -1))
    return take(state, np.flatnonzero(~game.is_over(state)))


def board(game: Go, rows: str, black_to_move: bool = True) -> np.ndarray:
    """Return the planes of a drawn position: X is Black, O White."""
    state, points = game.start(1), "".join(rows.split())
    blacks, whites = ([i for i, each in enumerate(points) if each == mark] for mark in "XO")
    for number in range(max(len(blacks), len(whites))):
        for stones in (blacks, whites):
            game.play(state, np.array([stones[number] if number < len(stones) else game.num_actions - 1]))
    if not black_to_move:
        game.play(state, np.array([game.num_actions - 1]))
    return game.observe(state)


def some_weights(seed: int = 0) -> np.ndarray:
    """Return weights that tell every feature from every other."""
    return np.random.default_rng(seed).normal(0, 1, patterns.FEATURES)


@pytest.mark.parametrize("size", [5, 9])
def test_a_position_is_set_up_from_its_planes(size: int) -> None:
    game = Go(size, 6.5)
    state = positions(game, 60, 3 * size)
    planes = game.observe(state)
    again = playouts.state_of(planes, 50)
    seen = game.observe(again)
    known = np.ones(planes.shape[1], bool)
    known[13] = False  # repetitions of earlier positions are not known
    assert np.array_equal(seen[:, known], planes[:, known])
    assert (seen[:, 13] <= planes[:, 13]).all() and np.array_equal(again.key, state.key)
    assert np.array_equal(game.mover(again), game.mover(state)) and (again.komi == 6.5).all()


@pytest.mark.parametrize("size", [5, 9])
def test_compiled_and_planes_features_give_the_same_scores(size: int) -> None:
    game, weights = Go(size), some_weights()
    state = positions(game, 80, 4 * size, seed=1)
    planes = torch.from_numpy(game.observe(state))
    features = PatternFeatures()(planes)
    wanted = np.exp(weights[features.numpy()].sum(axis=2))
    found = np.empty((len(planes), size * size))
    playouts.weigh(playouts.state_of(planes.numpy(), 50), patterns.factors(weights), found)
    empty = (planes[:, 0] + planes[:, 1] == 0).flatten(1).numpy()
    some = empty & (found > 0)
    np.testing.assert_allclose(found[some], wanted[some], rtol=1e-5)
    assert (found[~empty] == 0).all() and (empty & ~some).sum() < 0.1 * empty.sum()  # eyes
    for begin, end in (
        (patterns.NEAR, patterns.NEXT),
        (patterns.NEXT, patterns.LINE),
        (patterns.CHAINS, patterns.PASS),
    ):
        classes = set(features.numpy()[empty].ravel().tolist()) & set(range(begin, end))
        assert len(classes) > (end - begin) // 4  # the positions show most of what there is


def test_features_of_a_drawn_position_are_counted_by_hand() -> None:
    game = Go(5)
    planes = board(game, "..X.. .XO.. ...O. ..X.. ....O")
    features = PatternFeatures()(torch.from_numpy(planes))[0].numpy()
    # The last moves were Black's at (3, 2) and White's at (4, 4).
    point = features[2 * 5 + 2]
    around = {(-1, -1): 1, (-1, 0): 2, (0, 1): 2, (1, 0): 1}
    code = sum(around.get(place, 0) * 4**number for number, place in enumerate(patterns.RING))
    assert point[0] == patterns.PATTERN_CLASS[code]
    assert point[1] == patterns.NEAR + 2 + 2 + 2 and point[2] == patterns.NEXT + 1 + 0 + 1
    assert point[3] == patterns.LINE + 2
    assert point[4] == patterns.CHAINS + 16 * 3 + 4 * 3 + 2  # White's (1, 2) has two liberties, Black's (3, 2) four
    corner = features[0]
    assert corner[1] == patterns.NEAR + 10 and corner[3] == patterns.LINE and corner[4] == patterns.CHAINS


def test_patterns_are_alike_when_turned_and_only_then() -> None:
    digits = np.arange(patterns.CODES)[:, None] // 4 ** np.arange(8) % 4
    ring = [3 * (row + 1) + column + 1 for row, column in patterns.RING]
    for symmetry in square_symmetries(3):
        moved = np.zeros_like(digits)
        for place, point in enumerate(ring):
            moved[:, place] = digits[:, ring.index(symmetry[point])]
        assert np.array_equal(patterns.PATTERN_CLASS[moved @ 4 ** np.arange(8)], patterns.PATTERN_CLASS)
    # Burnside: orbits of 4 colours on the ring under 4 turns and 4 reflections.
    assert patterns.PATTERN_CLASS.max() + 1 == (4**8 + 4**2 + 4**4 + 4**2 + 4 * 4**5) // 8
    assert not patterns.EYE[0] and patterns.EYE[sum(patterns.OWN * 4**place for place in range(8))]


ALIVE = """
    .X.XO
    XXXXO
    OOOOO
    .O.O.
    OOOOO
"""
"""Nobody can kill anybody: Black owns 8 points, White 17."""


def test_playouts_fill_no_eyes_and_know_whose_the_value_is() -> None:
    for komi, black_wins in ((7.5, False), (-9.5, True)):
        game = Go(5, komi)
        for black_to_move in (True, False):
            planes = board(game, ALIVE, black_to_move)
            found = playouts.mean_outcomes(planes, patterns.no_preference(), 5, planes[:, 13] > 0.5)
            assert found.tolist() == [1.0 if black_wins == black_to_move else -1.0]


def test_playouts_repeat_themselves_and_differ() -> None:
    game = Go(9)
    planes = game.observe(positions(game, 30, 20))
    forbidden = np.zeros((len(planes), 81), np.bool_)

    def ends(seed: int) -> tuple[list[int], int]:
        owner = np.empty((len(planes), 81), np.int8)
        state = playouts.state_of(planes, 162)
        seeds = np.arange(len(planes), dtype=np.int64) * 7919 + seed
        plies = playouts.play_out(state, patterns.no_preference(), forbidden, seeds, owner)
        assert game.is_over(state).all() or (state.header[:, rules.PLY] == 162).any()
        return owner.sum(axis=1).tolist(), plies

    assert ends(1) == ends(1) and ends(1) != ends(2)
    means = playouts.mean_outcomes(planes, patterns.no_preference(), 8, forbidden.reshape(-1, 9, 9))
    assert len(np.unique(means)) > 3  # each rollout of a position has its own chance


def test_moves_are_drawn_in_proportion_to_their_factors_and_forbidden_ones_left_out() -> None:
    game, count = Go(5), 4000
    planes = np.repeat(board(game, "..... ..... ..... ..... ....."), count, axis=0)
    plain = patterns.no_preference()
    line = np.array([1.0, 2.0, 0.0, 1.0, 1.0])  # the edge, the second line; the centre never
    factors = Factors(plain.pattern, plain.near, plain.next, line, plain.chains)
    forbidden = np.zeros((count, 25), np.bool_)
    forbidden[:, 0] = True
    owner = np.empty((count, 25), np.int8)
    seeds = np.arange(count, dtype=np.int64) * 2654435761
    state = playouts.state_of(planes, 1)
    playouts.play_out(state, factors, forbidden, seeds, owner)
    played = np.bincount(game.board(state).reshape(count, 25).argmax(axis=1), minlength=25)
    assert played[0] == 0 and played[12] == 0 and played.sum() == count
    share = played.reshape(5, 5)[1:4, 1:4].sum() / count
    assert abs(share - 16 / (16 + 15)) < 4 * np.sqrt(0.25 / count)


def test_the_rollout_policys_gradient_is_that_of_a_softmax() -> None:
    game = Go(5)
    spec = position_spec(game)
    policy = RolloutPolicy(RolloutPolicy.Config(), spec)
    with torch.no_grad():
        policy.weight.copy_(torch.from_numpy(some_weights(3)).float())
    planes = torch.from_numpy(game.observe(positions(game, 12, 15, seed=2)))
    legal = torch.from_numpy(game.legal(playouts.state_of(planes.numpy(), 9)))
    action = (torch.rand(legal.shape) * legal).argmax(dim=1)
    loss = policy.loss({"planes": planes, "action": action}).per_example
    logits = torch.from_numpy(policy.infer(planes.numpy())[0])
    illegal = torch.cat([planes[:, 13].flatten(1) > 0.5, torch.zeros(len(planes), 1, dtype=torch.bool)], dim=1)
    wanted = -logits.masked_fill(illegal, -torch.inf).log_softmax(dim=1)[torch.arange(len(planes)), action]
    torch.testing.assert_close(loss, wanted)
    loss.sum().backward()
    assert policy.weight.grad is not None
    # The score of a softmax over features is what was chosen less what was expected.
    features = torch.nn.functional.one_hot(PatternFeatures()(planes), patterns.FEATURES).sum(dim=2).float()
    passing = torch.nn.functional.one_hot(patterns.PASS + planes[:, 14, 0, 0].long(), patterns.FEATURES).float()
    features = torch.cat([features, passing[:, None]], dim=1)
    probability = logits.masked_fill(illegal, -torch.inf).softmax(dim=1)
    expected = torch.einsum("ba,baf->f", probability, features)
    chosen = features[torch.arange(len(planes)), action].sum(dim=0)
    torch.testing.assert_close(policy.weight.grad, expected - chosen, atol=1e-5, rtol=1e-4)
