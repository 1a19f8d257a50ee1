"""Walks of `rayloom sample RUN walk=true`: an animation from each image to the next and back to the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom.launch.showing import sample_picture
from rayloom_generative.adversarial.conditional_gan import ConditionalGAN
from rayloom_generative.adversarial.gan import GAN, GANConfig
from rayloom_generative.autoencoders.vae import VAE, VAEConfig
from rayloom_generative.equations.adversarial import round_trip

IMAGES = {
    "image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8),
    "label": TensorSpec(shape=(), dtype=torch.int64, num_values=3),
}


def test_a_round_trip_passes_every_code_and_closes() -> None:
    codes = torch.randn(3, 2)
    path = round_trip(codes, 4)
    assert path.shape == (12, 2)
    torch.testing.assert_close(path[::4], codes)
    torch.testing.assert_close(path[10], (codes[2] + codes[0]) / 2**0.5)  # half of the way back


@pytest.mark.parametrize(
    ("kind", "config", "options"),
    [
        (GAN, GANConfig(), {}),
        (ConditionalGAN, ConditionalGAN.Config(), {"label": 2}),
        (ConditionalGAN, ConditionalGAN.Config(), {}),
        (VAE, VAEConfig(conditional=True), {}),
        (VAE, VAEConfig(), {}),
    ],
)
def test_the_images_of_a_walk_are_those_of_the_samples(kind: Any, config: Any, options: Any, tmp_path: Path) -> None:
    model = kind(config, IMAGES)
    samples = model.sample(4, torch.Generator().manual_seed(1), **options)
    walk = model.sample(4, torch.Generator().manual_seed(1), walk=True, **options)
    assert walk.kind == "animation" and walk.data.shape == (32, 1, 8, 8)
    torch.testing.assert_close(walk.data[::8], samples.data)
    assert sample_picture(walk, tmp_path / "walk.gif").read_bytes().startswith(b"GIF89a")
    with pytest.raises(UserError, match=r"choose another file, in one of \.gif, \.webp"):
        sample_picture(walk, tmp_path / "walk.png")


def test_what_cannot_be_walked() -> None:
    plane = {"point": TensorSpec(shape=(2,), dtype=torch.float32)}
    for model in (GAN(GANConfig(), plane), VAE(VAEConfig(likelihood="gaussian"), plane)):
        with pytest.raises(UserError, match="sample: walk shows images"):
            model.sample(4, torch.Generator(), walk=True)
        with pytest.raises(UserError, match="sample: walk is 'maybe'; write true or false"):
            model.sample(4, torch.Generator(), walk="maybe")  # type: ignore[arg-type]
