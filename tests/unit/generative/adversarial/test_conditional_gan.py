"""DCGAN and the conditional GAN: what their networks see, how they begin, samples of one class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayloom import datasets
from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom_generative.adversarial.conditional_gan import ConditionalGAN
from rayloom_generative.adversarial.dcgan import DCGAN, DCGANConfig
from rayloom_generative.adversarial.gan import GANConfig
from rayloom_generative.layers.batch_norm import GlobalBatchNorm
from rayloom_generative.networks.adversarial import CRITICS, GENERATORS

LABEL = TensorSpec(shape=(), dtype=torch.int64, num_values=3, labels=("a", "b", "c"))
IMAGES = {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8), "label": LABEL}
POINTS = {"point": TensorSpec(shape=(2,), dtype=torch.float32), "label": LABEL}


class Recorder(nn.Module):
    """Keeps what it is given."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.seen = shape, torch.empty(0)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen = inputs
        return self.weight * torch.zeros(len(inputs), *self.shape)


def recorded(spec: Any, shape: tuple[int, ...]) -> tuple[ConditionalGAN, Recorder, Recorder]:
    algorithm = ConditionalGAN(GANConfig(latent_size=2), spec)
    generator, critic = Recorder(shape), Recorder(())
    algorithm.generator, algorithm.critic = generator, critic
    return algorithm, generator, critic


def test_labels_of_images_are_planes() -> None:
    algorithm, generator, critic = recorded(IMAGES, (1, 8, 8))
    raw = {"image": torch.full((2, 1, 8, 8), 255, dtype=torch.uint8), "label": torch.tensor([2, 0])}
    batch = algorithm.prepare(raw)
    algorithm.critic_loss(batch)
    assert generator.seen[:, 2:].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert torch.equal(generator.seen[:, :2], batch["code"])
    assert critic.seen.shape == (4, 4, 8, 8), "two examples and their two fakes, an image and three planes each"
    assert bool((critic.seen[:2, 0] == 1).all()) and bool((critic.seen[2:, 0] == 0).all())
    means = critic.seen[:, 1:].mean((2, 3)).tolist()
    assert means == [[0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_labels_of_points_are_coordinates() -> None:
    algorithm, _, critic = recorded(POINTS, (2,))
    batch = algorithm.prepare({"point": torch.tensor([[5.0, 6.0]]), "label": torch.tensor([1])})
    algorithm.critic_loss(batch)
    assert critic.seen.tolist() == [[5, 6, 0, 1, 0], [0, 0, 0, 1, 0]]
    assert algorithm._critic_input().shape == (5,)


def test_samples_of_one_class_and_of_all_in_turn() -> None:
    algorithm, generator, _ = recorded(IMAGES, (1, 8, 8))
    assert algorithm.sample(4, torch.Generator()).data.shape == (4, 1, 8, 8)  # type: ignore[union-attr]
    assert generator.seen[:, 2:].argmax(1).tolist() == [0, 1, 2, 0]
    algorithm.sample(3, torch.Generator(), label=1)
    assert generator.seen[:, 2:].argmax(1).tolist() == [1, 1, 1]
    for wrong in (3, -1, 1.5, "a", True):
        with pytest.raises(UserError, match=r"sample: label is .*; write a class from 0 to 2"):
            algorithm.sample(3, torch.Generator(), label=wrong)  # type: ignore[arg-type]


def test_a_column_of_the_picture_shows_one_class() -> None:
    algorithm, generator, _ = recorded(IMAGES, (1, 8, 8))
    batch = algorithm.prepare({"image": torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "label": torch.tensor([0, 1])})
    seen: list[list[int]] = []
    generator.register_forward_hook(lambda *_: seen.append(generator.seen[:, 2:].argmax(1).tolist()))
    shown = algorithm.figures(batch)
    assert shown["samples"].columns == 3 and seen[0] == [0, 1, 2] * 8
    assert shown["interpolations"].columns == 8 and seen[1] == [row % 3 for row in range(8) for _ in range(8)]


@pytest.mark.parametrize(
    "spec", [{"image": IMAGES["image"]}, {**IMAGES, "label": TensorSpec(shape=(), dtype=torch.float32)}]
)
def test_data_without_classes_are_refused(spec: Any) -> None:
    with pytest.raises(UserError, match=r"source\.dataset: a conditional GAN needs the field label"):
        ConditionalGAN(GANConfig(), spec)


# --- DCGAN ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 28])
def test_dcgan_begins_as_the_paper_says(side: int) -> None:
    torch.manual_seed(0)
    algorithm = DCGAN(DCGANConfig(), {"image": TensorSpec(shape=(1, side, side), dtype=torch.uint8)})
    critic, generator = algorithm.phases()
    assert critic.optimizer == generator.optimizer == {"betas": (0.5, 0.999)}
    assert not critic.compilable, "batch norm changes buffers"
    convolutions = [layer for layer in algorithm.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert [tuple(layer.stride) for layer in convolutions] == [(2, 2)] * 4
    weights = torch.cat([layer.weight.detach().flatten() for layer in convolutions])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.03) and float(weights.mean()) == pytest.approx(0, abs=1e-3)
    norms = [layer for layer in algorithm.modules() if isinstance(layer, GlobalBatchNorm)]
    assert [layer.weight.numel() for layer in norms] == [64, 32, 64]  # not at the output, not at the critic's input
    last = list(algorithm.generator.network)[-1]  # type: ignore[call-overload]
    assert isinstance(last, nn.ConvTranspose2d) and last.bias is not None


def test_a_critic_with_batch_norm_sees_data_and_fakes_apart() -> None:
    torch.manual_seed(0)
    small = {"channels": 2, "normalization": "batch"}
    config = DCGANConfig(
        latent_size=3, generator=GENERATORS.component("conv", **small), critic=CRITICS.component("conv", **small)
    )
    algorithm = DCGAN(config, IMAGES)
    batch = algorithm.prepare({"image": datasets.load("digits", 0).train.columns["image"][:16]})
    real = algorithm.critic(batch["image"])
    found = algorithm.critic_loss(batch).metrics["real_probability"]
    torch.testing.assert_close(found, real.detach().sigmoid())
    mixed = algorithm.critic(torch.cat((batch["image"], -batch["image"])))[:16]
    assert not torch.allclose(found, mixed.detach().sigmoid(), atol=1e-4)


def test_maps_may_stay_as_many_as_they_are() -> None:
    config = DCGANConfig(generator=GENERATORS.component("conv", channels=6, doubling=False))
    shapes = [
        layer.weight.shape for layer in DCGAN(config, IMAGES).generator.modules() if hasattr(layer, "kernel_size")
    ]
    assert shapes == [(6, 6, 4, 4), (6, 1, 4, 4)]
