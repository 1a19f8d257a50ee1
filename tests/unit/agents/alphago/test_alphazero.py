"""AlphaZero's network and loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom_agents.alphago.alphazero import AlphaZero, player
from rayloom_agents.alphago.network import PolicyValueNetwork, pool_globally


def spec(planes: int = 3, size: int = 3, actions: int = 9) -> dict[str, TensorSpec]:
    """Return what a source of games delivers."""
    shapes = {"planes": (planes, size, size), "policy": (actions,), "outcome": (), "full": ()}
    return {name: TensorSpec(shape=shape, dtype=torch.float32) for name, shape in shapes.items()}


def test_pooling_over_the_board_by_hand() -> None:
    board = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, -4.0]]]])
    assert pool_globally(board).tolist() == [[3.0, -1.0, 6.0, 0.0]]


def test_an_examples_outputs_depend_on_nothing_else_in_its_batch() -> None:
    torch.manual_seed(0)
    network = PolicyValueNetwork(3, 4, 5, actions=7, blocks=2, channels=32)
    planes = torch.randn(6, 3, 4, 5)
    logits, value = network(planes)
    assert logits.shape == (6, 7) and value.shape == (6,) and value.abs().max() < 1
    alone = network(planes[2:3])
    torch.testing.assert_close((logits[2:3], value[2:3]), alone, rtol=1e-4, atol=1e-5)


def test_a_far_corner_reaches_every_logit_through_the_pooling() -> None:
    """One block of 3x3 convolutions sees five points in a row; the pooled bias sees the whole board."""
    torch.manual_seed(0)
    network = PolicyValueNetwork(1, 9, 9, actions=3, blocks=1, channels=8)
    planes = torch.zeros(1, 1, 9, 9)
    features = network.blocks(network.stem(planes))
    planes[0, 0, 0, 0] = 5.0
    changed = network.blocks(network.stem(planes)) - features
    assert changed[0, :, 8, 8].abs().max() > 0


def test_the_loss_by_hand() -> None:
    """Two rows with equal logits over 9 actions and a value of 0; the second row's search was a fast one."""
    algorithm = AlphaZero(AlphaZero.Config(blocks=0, channels=8, value_weight=0.5), spec())
    for parameter in algorithm.network.parameters():
        parameter.data.zero_()
    target = torch.zeros(2, 9)
    target[0, :2], target[1, 4] = 0.5, 1.0
    batch = {
        "planes": torch.rand(2, 3, 3, 3),
        "policy": target,
        "outcome": torch.tensor([1.0, -1.0]),
        "full": torch.tensor([1.0, 0.0]),
    }
    loss = algorithm.loss(batch)
    assert loss.per_example.tolist() == pytest.approx([math.log(9) + 0.5, 0.5])
    assert loss.metrics["policy_loss"].tolist() == pytest.approx([math.log(9)] * 2)
    assert loss.metrics["policy_gap"].tolist() == pytest.approx([math.log(9) - math.log(2), math.log(9)], abs=1e-5)
    assert loss.metrics["value_loss"].tolist() == [1.0, 1.0]


def test_the_loss_pulls_towards_the_target_and_the_outcome() -> None:
    torch.manual_seed(0)
    algorithm = AlphaZero(AlphaZero.Config(blocks=1, channels=16), spec())
    target = torch.tensor([[0.0, 0.0, 0.7, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0]])
    batch = {"planes": torch.rand(1, 3, 3, 3), "policy": target, "outcome": torch.tensor([-1.0]),
             "full": torch.ones(1)}  # fmt: skip
    optimizer = torch.optim.Adam(algorithm.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        algorithm.loss(batch).per_example.sum().backward()
        optimizer.step()
    logits, value = algorithm.infer(batch["planes"].numpy())
    assert np.exp(logits[0]) / np.exp(logits[0]).sum() == pytest.approx(target[0].numpy(), abs=0.02)
    assert value[0] < -0.95


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"source\.import"):
        AlphaZero(AlphaZero.Config(), {"observation": TensorSpec(shape=(4,), dtype=torch.float32)})
    with pytest.raises(UserError, match=r"algorithm\.channels: input should be a multiple of 16, not 33"):
        AlphaZero(AlphaZero.Config(channels=33), spec())
    with pytest.raises(UserError, match=r"has no infer"):
        player(torch.nn.Linear(1, 1))
