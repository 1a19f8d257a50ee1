"""REINFORCE in self-play: the loss by hand, the pool of earlier policies, signs of returns, learning by winning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from learners import Learners
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom.rollouts.worker import RolloutWorker
from rayloom_agents.alphago.games import TicTacToe
from rayloom_agents.alphago.matches import Player, play_match, sampled_actions, wilson_interval
from rayloom_agents.alphago.policy_games import PolicyGames
from rayloom_agents.alphago.policy_gradient_self_play import PolicyGradientSelfPlay, check_pool

SPEC = {
    "planes": TensorSpec(shape=(3, 3, 3), dtype=torch.float32),
    "legal": TensorSpec(shape=(9,), dtype=torch.float32),
    "action": TensorSpec(shape=(), dtype=torch.int64, num_values=9),
    "return": TensorSpec(shape=(), dtype=torch.float32),
}


def policy(**settings: Any) -> PolicyGradientSelfPlay:
    """Return a small one."""
    torch.manual_seed(0)
    return PolicyGradientSelfPlay(PolicyGradientSelfPlay.Config(blocks=1, channels=8, **settings), SPEC)


def config(game: Any = "tic_tac_toe", games: int = 8, **settings: Any) -> RunConfig:
    """Return a small run."""
    return from_tree(
        {
            "name": "policy_games",
            "algorithm": {
                "import": "rayloom_agents.alphago.policy_gradient_self_play:PolicyGradientSelfPlay",
                "blocks": 1,
                "channels": 16,
                "pool_every": 10,
            },
            "source": {"import": "rayloom_agents.alphago.policy_games:PolicyGames", "game": game, "num_envs": games},
            "learner": {"batch_size": 64, "optimizer": {"kind": "adam", "learning_rate": 3.0e-3}},
            "stop": {"updates": 60},
            **settings,
        }
    )


def test_the_loss_by_hand() -> None:
    """Equal logits over the three legal actions of one row and the nine of another."""
    algorithm = policy()
    for parameter in algorithm.network.parameters():
        parameter.data.zero_()
    legal = torch.ones(2, 9)
    legal[0, 3:] = 0
    batch = {"planes": torch.rand(2, 3, 3, 3), "legal": legal, "action": torch.tensor([1, 4]),
             "return": torch.tensor([1.0, -1.0])}  # fmt: skip
    loss = algorithm.loss(batch)
    assert loss.per_example.tolist() == pytest.approx([math.log(3), -math.log(9)])
    assert loss.metrics["entropy"].tolist() == pytest.approx([math.log(3), math.log(9)])
    assert loss.metrics["log_probability"].tolist() == pytest.approx([-math.log(3), -math.log(9)])


def test_the_gradient_is_reinforces() -> None:
    """d loss / d logits = z (pi - one_hot(a)), so that winning moves become likelier; the value's head gets none."""
    algorithm = policy()
    planes, legal = torch.rand(1, 3, 3, 3), torch.ones(1, 9)
    batch = {"planes": planes, "legal": legal, "action": torch.tensor([2]), "return": torch.tensor([-1.0])}
    shares = algorithm.log_policy(planes, legal).exp()[0].detach()
    algorithm.loss(batch).per_example.sum().backward()
    expected = -(shares - torch.nn.functional.one_hot(torch.tensor(2), 9))
    assert algorithm.network.policy.bias.grad is not None
    torch.testing.assert_close(algorithm.network.policy.bias.grad, expected)
    assert all(each.grad is None for each in algorithm.network.value.parameters())


def test_the_pool_keeps_the_first_policy_and_the_newest_ones() -> None:
    algorithm, planes = policy(pool_every=2, pool_size=3), torch.rand(4, 3, 3, 3)
    logits = []
    for update in range(9):
        if update == 0:
            algorithm.prepare({})
        else:
            with torch.no_grad():
                algorithm.network.policy.bias += update
            algorithm.after_update(update)
        if update % 2 == 0:
            logits.append(algorithm.network(planes)[0].detach())
    assert int(algorithm.pooled) == 5 and algorithm.opponents() == 3
    # Row 0 is the first policy; those after updates 2, 4, 6, 8 took rows 1, 2, 1, 2.
    for row, number in ((0, 0), (1, 3), (2, 4)):
        torch.testing.assert_close(algorithm.opponent_logits(row, planes), logits[number])
    assert algorithm.infer_first(planes.numpy())[0] == pytest.approx(logits[0].numpy(), abs=1e-5)


def test_draws_follow_the_policy_among_legal_actions() -> None:
    logits = np.log(np.tile(np.array([0.5, 0.2, 0.2, 0.1]), (20_000, 1)))
    legal = np.tile(np.array([True, True, False, True]), (20_000, 1))
    drawn = np.bincount(sampled_actions(logits, legal, np.random.default_rng(0)), minlength=4) / 20_000
    assert drawn == pytest.approx(np.array([0.625, 0.25, 0, 0.125]), abs=0.012)
    assert sampled_actions(logits[:1], legal[:1] & False, np.random.default_rng(0)).tolist() == [-1]


def test_rows_are_the_current_policys_moves_with_its_outcome() -> None:
    """Against a first policy that always plays the lowest free point, so that its moves are known."""
    worker = RolloutWorker(config(games=64), 0)
    algorithm = worker._algorithm
    algorithm.prepare({})
    with torch.no_grad():
        algorithm.pool[0] = 0
        names = [name for name, _ in algorithm.network.named_parameters()]
        sizes = [each.numel() for each in algorithm.network.parameters()]
        at = sum(sizes[: names.index("policy.bias")])
        algorithm.pool[0, at : at + 9] = torch.arange(9, 0, -1) * 50.0
    rollout = worker.collect(1)
    planes, action, returns = (rollout.arrays[name] for name in ("planes", "action", "return"))
    legal = rollout.arrays["legal"]
    assert legal[np.arange(len(action)), action].all()
    assert len(rollout.episodes) == 64 and rollout.env_steps == sum(length for _, length in rollout.episodes)
    first = planes[:, 2, 0, 0] == 1
    stones = planes[:, :2].sum(axis=(1, 2, 3))
    assert (first == (stones % 2 == 0)).all() and 0.3 < first.mean() < 0.7
    answered = ~first & (stones == 1)
    assert (planes[answered, 1].reshape(-1, 9).argmax(axis=1) == 0).all(), "the opponent's first stone is on point 0"
    board = (planes[:, 0] - planes[:, 1]).reshape(-1, 9)
    board[np.arange(len(action)), action] = 1
    lines = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])
    won = (board[:, lines].sum(axis=2) == 3).any(axis=1)
    assert won.any() and (returns[won] == 1).all() and (returns == -1).any()


def test_every_move_is_learnt_from_once() -> None:
    learners = Learners(config())
    learners.train(12)
    source: Any = learners.roles[0].source
    played = source.total["samples"] + len(source.rows["return"])
    assert source.total["samples"] == 12 * 64 and len(source.rows["return"]) < 64
    assert played < source.total["env_steps"] <= 2 * played + source.total["episodes"]
    assert isinstance(source, PolicyGames)
    learners.close()


def test_it_beats_the_policy_that_it_began_with() -> None:
    learners = Learners(config(games=32))
    learners.train(120)
    algorithm: Any = learners.roles[0].algorithm
    game = TicTacToe()
    with torch.no_grad():
        players = tuple(
            Player(game, 400, each, None, sampled=True) for each in (algorithm.infer, algorithm.infer_first)
        )
        outcomes, _ = play_match(game, players, 400, 0, seed=1)  # type: ignore[arg-type]
    score = float((outcomes + 1).mean() / 2)
    assert wilson_interval(score, 400)[0] > 0.55, score
    learners.close()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"source\.import"):
        PolicyGradientSelfPlay(PolicyGradientSelfPlay.Config(), {"x": SPEC["return"]})
    with pytest.raises(UserError, match=r"has no pool of earlier policies"):
        check_pool(torch.nn.Linear(1, 1))
