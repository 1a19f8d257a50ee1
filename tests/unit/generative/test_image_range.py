"""Images of reals outside 0..1, which no decoder of pixels can reach, are refused before the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom_generative.adversarial.gan import GAN, GANConfig
from rayloom_generative.autoencoders.autoencoder import Autoencoder, AutoencoderConfig
from rayloom_generative.autoencoders.vae import VAE, VAEConfig

REALS = {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.float32)}


@pytest.fixture(params=[(VAE, VAEConfig), (GAN, GANConfig), (Autoencoder, AutoencoderConfig)], ids=lambda both: both[0])
def model(request: pytest.FixtureRequest) -> Any:
    kind, config = request.param
    return kind(config(), REALS)


def test_images_of_reals_lie_between_zero_and_one(model: Any) -> None:
    fine = torch.rand(4, 1, 8, 8)
    model.prepare({"image": fine})
    for wrong, seen in [(2 * fine - 1, "go from -"), (255 * fine, "to 2"), (fine * float("nan"), "nan")]:
        with pytest.raises(UserError, match=rf"source\.dataset: its images must be bytes or reals in 0\.\.1.*{seen}"):
            model.prepare({"image": wrong})


def test_later_steps_do_not_wait_for_the_device_to_look(model: Any) -> None:
    model.progress.updates = 1
    model.prepare({"image": torch.full((4, 1, 8, 8), 2.0)})
