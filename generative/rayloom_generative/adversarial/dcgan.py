"""Deep convolutional GAN: Radford et al. (2016).

"Unsupervised representation learning with deep convolutional generative adversarial networks".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge
from torch import nn

from rayloom.contract import Component
from rayloom_generative.adversarial.gan import GAN, GANConfig
from rayloom_generative.layers.batch_norm import GlobalBatchNorm
from rayloom_generative.networks.adversarial import CRITICS, GENERATORS

_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True)
class DCGANConfig(GANConfig):
    """Settings of the deep convolutional GAN: those of the GAN, with the paper's defaults."""

    latent_size: Annotated[int, Ge(1)] = 100
    """Standard normal inputs of the generator."""
    generator: Annotated[Component, GENERATORS] = field(
        default_factory=lambda: GENERATORS.component("conv", normalization="batch")
    )
    """What maps codes to images."""
    critic: Annotated[Component, CRITICS] = field(
        default_factory=lambda: CRITICS.component("conv", normalization="batch")
    )
    """What gives the discriminator's logit."""
    betas: tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]] | None = (0.5, 0.999)
    """Decay of Adam's moments for both networks; null: what learner.optimizer says."""


class DCGAN(GAN):
    """The GAN with strided convolutions, batch norm (not at the generator's output and the discriminator's input),
    rectifiers, leaky ones in the discriminator, tanh, and all weights drawn from N(0, 0.02^2).

    The paper's optimiser is Adam with a learning rate of 2e-4. Departures: two convolutions in each network instead of
    four, for images of 8 to 32 pixels; normal codes instead of uniform ones.
    """

    Config = DCGANConfig

    def initialize_networks(self) -> None:
        """Draw all weights, and the factors of batch norm around 1, with a standard deviation of 0.02; biases 0."""
        for network in (self.generator, self.critic):
            for layer in network.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.normal_(layer.weight, 0.0, _DEVIATION)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
                elif isinstance(layer, GlobalBatchNorm):
                    nn.init.normal_(layer.weight, 1.0, _DEVIATION)
