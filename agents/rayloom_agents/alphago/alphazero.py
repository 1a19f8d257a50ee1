"""AlphaZero (Silver et al. 2017, arXiv 1712.01815): one network that learns from its own tree search.

    loss = cross-entropy(search's policy, network's policy) + value_weight * (outcome - value)^2

Games come from the source `rayloom_agents.alphago.self_play:SelfPlay`. There is no gate: the latest network plays.
Departures: weight decay is the optimiser's; rows of fast searches teach the value alone (Wu 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Metric, Phase, Spec, UserError
from rayloom_agents.alphago.network import PolicyValueNetwork


class AlphaZero(Algorithm):
    """A policy and a value for any game of `rayloom_agents.alphago.games`."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "policy_loss": Metric(better="min", unit="nats", meaning="cross-entropy with the search's policy"),
        "policy_gap": Metric(better="min", unit="nats", meaning="divergence of the search's policy from the network's"),
        "value_loss": Metric(better="min", meaning="squared error of the outcome, which is 1, 0 or -1"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """Settings of AlphaZero."""

        blocks: Annotated[int, Ge(0)] = 4
        """Residual blocks."""
        channels: Annotated[int, Ge(1)] = 64
        """Feature maps of each; a multiple of 16 where there are more than 16."""
        value_weight: Annotated[float, Ge(0)] = 1.0
        """Weight of the value's squared error."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the network. UserError for another source, and for channels that make no groups."""
        super().__init__(config, spec)
        if not {"planes", "policy", "outcome"} <= set(spec):
            raise UserError(
                "algorithm: AlphaZero learns from games against itself; set source.import to "
                "rayloom_agents.alphago.self_play:SelfPlay"
            )
        if config.channels % max(1, config.channels // 16):
            raise UserError(f"algorithm.channels: input should be a multiple of 16, not {config.channels}")
        (planes, rows, columns), (actions,) = spec["planes"].shape, spec["policy"].shape
        self.network = PolicyValueNetwork(planes, rows, columns, actions, config.blocks, config.channels)

    def phases(self) -> list[Phase]:
        """Return the only one."""
        return [Phase("network", self.loss, tuple(self.network.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        """Return the sum of both losses [B] of rows planes, policy, outcome, full (whether `policy` is a target)."""
        logits, value = self.network(batch["planes"])
        log_policy = logits.log_softmax(dim=1)
        target = batch["policy"]
        policy_loss = -(target * log_policy).sum(dim=1)
        entropy = -torch.special.xlogy(target, target).sum(dim=1)
        value_loss = (batch["outcome"] - value).square()
        metrics = {
            "policy_loss": policy_loss.detach(),
            "policy_gap": policy_loss.detach() - entropy,
            "value_loss": value_loss.detach(),
        }
        return Loss(batch["full"] * policy_loss + self.config.value_weight * value_loss, metrics)

    @torch.no_grad()
    def infer(self, planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits [B, A] and values [B] of the player to move, as the tree search asks for them."""
        device = next(self.network.parameters()).device
        logits, value = self.network(torch.from_numpy(planes).to(device))
        return logits.float().cpu().numpy(), value.float().cpu().numpy()

    def inference_module(self) -> nn.Module | None:
        """Return the network: planes to logits and values."""
        return self.network

    def inference_input(self) -> str:
        """Return the name of the planes."""
        return "planes"


def player(algorithm: Any) -> AlphaZero:
    """Return the algorithm as one that judges positions; UserError where it does not."""
    if not callable(getattr(algorithm, "infer", None)):
        raise UserError(
            f"algorithm: {type(algorithm).__name__} has no infer(planes) that returns logits and values, which the "
            "tree search needs; use rayloom_agents.alphago.alphazero:AlphaZero"
        )
    found: AlphaZero = algorithm
    return found
