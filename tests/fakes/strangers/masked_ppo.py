"""PPO that never chooses what a mask in `info` forbids: `source.info_fields: [action_mask]`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rayloom.contract import Spec, UserError
from strangers.ppo import PPO, PPOConfig


class MaskedPPO(PPO):
    """Sees what the environment shows, and the mask beside it."""

    def __init__(self, config: PPOConfig, spec: Spec) -> None:
        if "observation.action_mask" not in spec:
            raise UserError("source.info_fields: masked PPO needs [action_mask]; add it")
        super().__init__(config, spec, spec["observation.observation"].shape[0])

    def inputs(self, observation: Any) -> Tensor:
        return observation["observation"]

    def forbidden(self, observation: Any) -> Tensor:
        return observation["action_mask"] == 0
