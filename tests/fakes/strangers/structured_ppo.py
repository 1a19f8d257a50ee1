"""PPO on a picture and a vector at once, with several choices at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import Spec
from strangers.ppo import PPO, PPOConfig


class StructuredPPO(PPO):
    """Looks at a picture [H, W, C] by a convolution, and at a number as it is."""

    def __init__(self, config: PPOConfig, spec: Spec) -> None:
        height, width, channels = spec["observation.picture"].shape
        super().__init__(config, spec, 4 * (height // 2) * (width // 2) + spec["observation.number"].shape[0])
        self.look = nn.Sequential(nn.Conv2d(channels, 4, 2, stride=2), nn.ReLU(), nn.Flatten())

    def inputs(self, observation: Any) -> Tensor:
        picture = observation["picture"].movedim(3, 1).float() / 255
        return torch.cat((self.look(picture), observation["number"]), dim=1)
