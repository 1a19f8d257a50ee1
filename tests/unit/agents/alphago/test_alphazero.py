"""AlphaZero's network and loss."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from rayloom.config.load import load
from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom_agents.alphago.alphazero import AlphaZero, judge_of, player
from rayloom_agents.alphago.inference import InferenceSettings, padded_size
from rayloom_agents.alphago.network import NetworkSize, PolicyValueNetwork, pool_globally


def spec(planes: int = 3, size: int = 3, actions: int = 9) -> dict[str, TensorSpec]:
    """Return what a source of games delivers."""
    shapes = {"planes": (planes, size, size), "policy": (actions,), "outcome": (), "full": ()}
    return {name: TensorSpec(shape=shape, dtype=torch.float32) for name, shape in shapes.items()}


def test_pooling_over_the_board_by_hand() -> None:
    board = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, -4.0]]]])
    assert pool_globally(board).tolist() == [[3.0, -1.0, 6.0, 0.0]]


def test_an_examples_outputs_depend_on_nothing_else_in_its_batch() -> None:
    torch.manual_seed(0)
    network = PolicyValueNetwork(NetworkSize(blocks=2, channels=32), (3, 4, 5), actions=7)
    planes = torch.randn(6, 3, 4, 5)
    logits, value = network(planes)
    assert logits.shape == (6, 7) and value.shape == (6,) and value.abs().max() < 1
    alone = network(planes[2:3])
    torch.testing.assert_close((logits[2:3], value[2:3]), alone, rtol=1e-4, atol=1e-5)


def test_a_far_corner_reaches_every_logit_through_the_pooling() -> None:
    """One block of 3x3 convolutions sees five points in a row; the pooled bias sees the whole board."""
    torch.manual_seed(0)
    network = PolicyValueNetwork(NetworkSize(blocks=1, channels=8), (1, 9, 9), actions=3)
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


def go_spec(size: int = 3) -> dict[str, TensorSpec]:
    """Return what a source of Go delivers."""
    points = {"ownership": TensorSpec(shape=(size * size,), dtype=torch.float32)}
    return {**spec(18, size, size * size + 1), **points, "score": TensorSpec(shape=(), dtype=torch.float32)}


def test_the_auxiliary_losses_by_hand() -> None:
    """Log-odds 0 of every owner cost log 2 each; a lead of 6 points on 3 lines is 2, and Huber's loss of 2 is 1.5."""
    algorithm = AlphaZero(AlphaZero.Config(blocks=0, channels=8, ownership_weight=0.25, score_weight=2.0), go_spec())
    for parameter in algorithm.network.parameters():
        parameter.data.zero_()
    batch = {"planes": torch.rand(1, 18, 3, 3), "policy": torch.eye(10)[:1], "outcome": torch.ones(1),
             "full": torch.zeros(1), "ownership": torch.tensor([[1.0, -1, 0, 1, 1, 1, -1, -1, 0]]),
             "score": torch.tensor([6.0])}  # fmt: skip
    loss = algorithm.loss(batch)
    assert loss.metrics["ownership_loss"].tolist() == pytest.approx([math.log(2)])
    assert loss.metrics["score_loss"].tolist() == pytest.approx([1.5])
    assert loss.per_example.tolist() == pytest.approx([1.0 + 0.25 * math.log(2) + 2.0 * 1.5])
    sure = algorithm.network.ownership
    assert sure is not None and sure.bias is not None
    sure.bias.data.fill_(2.0)  # the more of the mover's, the better for its own points
    owned = {**batch, "ownership": torch.ones(1, 9)}
    assert algorithm.loss(owned).metrics["ownership_loss"] < math.log(2)


def test_heads_that_nobody_needs_are_not_made() -> None:
    assert AlphaZero(AlphaZero.Config(blocks=0, channels=8), spec()).network.ownership is None
    off = AlphaZero.Config(blocks=0, channels=8, ownership_weight=0, score_weight=0)
    assert AlphaZero(off, go_spec()).network.score is None


def test_inference_in_bfloat16_follows_the_weights_and_survives_copies() -> None:
    torch.manual_seed(0)
    config = AlphaZero.Config(blocks=1, channels=16, inference=InferenceSettings(precision="bfloat16"))
    algorithm = AlphaZero(config, go_spec())
    planes = (np.random.default_rng(0).random((5, 18, 3, 3)) < 0.3).astype(np.int8)
    scale = np.linspace(0.5, 1.5, 18, dtype=np.float32)
    with torch.inference_mode():  # as an evaluation, which may come first
        algorithm.infer(planes.astype(np.float32))
    with torch.no_grad():
        algorithm.network.policy.bias += 3.0
        expected, value = algorithm.network(torch.from_numpy(planes * scale[:, None, None]))
    for each in (algorithm, copy.deepcopy(algorithm), pickle.loads(pickle.dumps(algorithm))):  # noqa: S301
        logits, values = judge_of(each, scale)(planes)()
        assert logits.dtype == np.float32 and logits == pytest.approx(expected.numpy(), abs=0.05)
        assert values == pytest.approx(value.numpy(), abs=0.03)


def test_an_algorithm_with_infer_alone_judges_planes_as_they_are_meant() -> None:
    class Plain:
        def infer(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return planes.reshape(len(planes), -1), planes.sum(axis=(1, 2, 3))

    planes, scale = np.ones((2, 2, 1, 1), np.int8), np.array([1.0, 0.5], np.float32)
    logits, values = judge_of(Plain(), scale)(planes)()
    assert logits.tolist() == [[1.0, 0.5]] * 2 and values.tolist() == [1.5, 1.5]


def test_batches_are_padded_to_few_sizes() -> None:
    sizes = [padded_size(count) for count in range(1, 3000)]
    assert all(count <= size <= max(16, 1.25 * count + 16) for count, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 40 and padded_size(1024) == 1024


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
    with pytest.raises(UserError, match=r"^algorithm: channels should be a multiple of 16, not 33"):
        load("alphazero_tictactoe", ["algorithm.channels=33"])
    with pytest.raises(UserError, match=r"has no infer"):
        player(torch.nn.Linear(1, 1))
