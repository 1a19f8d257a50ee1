"""The networks over images: their parameters counted from the papers, and who takes which."""

from __future__ import annotations

import math

import pytest
import torch

from rayloom.contract import Algorithm, TensorSpec, UserError
from rayloom_agents.networks.encoder import Encoder, ImageEncoder, ResidualBlock
from rayloom_agents.policy_gradient.impala import IMPALA
from rayloom_agents.policy_gradient.ppo import PPO
from rayloom_agents.policy_gradient.reinforce import REINFORCE
from rayloom_agents.value_based.dqn import DQN
from rayloom_agents.value_based.r2d2 import R2D2

SMALL = {
    "observation": TensorSpec(shape=(12, 10), dtype=torch.uint8),
    "action": TensorSpec(shape=(), dtype=torch.int64, num_values=3),
}


def _parameters(encoder: ImageEncoder) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())


def test_both_have_the_parameters_of_their_papers() -> None:
    """Weights and biases of each layer, by hand: for 84x84 Atari frames and for 64x64 pictures of Procgen."""
    nature = (4 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64
    assert _parameters(ImageEncoder((4, 84, 84))) == nature == 77_984

    def impala(channels: int, rows: int) -> int:
        sections = 0
        for before, after in ((channels, 16), (16, 32), (32, 32)):
            sections += (before * 9 + 1) * after + 4 * (after * 9 + 1) * after
        return sections + (rows * rows * 32 + 1) * 256

    assert _parameters(ImageEncoder((4, 84, 84), "impala")) == impala(4, 11) == 1_089_232
    deep = ImageEncoder((64, 64, 3), "impala")
    assert _parameters(deep) == impala(3, 8) == 622_144 and deep.size == 256


def test_pixels_are_scaled_and_a_block_adds_to_what_it_is_given() -> None:
    torch.manual_seed(0)
    deep, images = ImageEncoder((12, 10), "impala"), torch.randint(256, (3, 12, 10), dtype=torch.uint8)
    expected = deep.layers(images[:, None].float() / 255)
    assert torch.equal(deep(images), expected) and expected.shape == (3, 256)
    block, given = ResidualBlock(2), torch.randn(1, 2, 5, 5)
    before = given.clone()
    inner = block.second(block.first(given.clamp(min=0)).clamp(min=0))
    assert torch.equal(block(given), before + inner) and torch.equal(given, before)


@pytest.mark.parametrize("agent", [PPO, IMPALA, REINFORCE, DQN, R2D2])
def test_every_agent_takes_the_deep_one_and_says_where_there_is_no_image(agent: type[Algorithm]) -> None:
    config = agent.Config(image_network="impala")  # type: ignore[call-arg]
    built = agent(config, SMALL)
    assert any(isinstance(module, ResidualBlock) for module in built.modules())
    with pytest.raises(UserError, match="image_network: impala is for images"):
        agent(config, {**SMALL, "observation": TensorSpec(shape=(3,), dtype=torch.float32)})


def test_the_deep_one_learns_from_images() -> None:
    encoder = Encoder(SMALL, "impala")
    encoder(torch.randint(256, (4, 12, 10), dtype=torch.uint8)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("shape", [(20, 20, 3), (4, 84, 84)])
def test_an_image_of_reals_is_not_flattened_unasked(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        UserError, match=r"looks like an image; show bytes from 0 to 255, .* or flatten it by a wrapper"
    ):
        Encoder({"observation": TensorSpec(shape=shape, dtype=torch.float32)})
    for small in ((3, 3, 2), (8, 8, 3), (20, 20), (1200,)):
        assert Encoder({"observation": TensorSpec(shape=small, dtype=torch.float32)}).size == math.prod(small)
