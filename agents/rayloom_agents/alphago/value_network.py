"""AlphaGo's value network (Silver et al. 2016, doi 10.1038/nature16961): it predicts who wins a game of experts.

    loss = (outcome - value)^2

Learnt from one position of each game (`source.one_position_per_game`): the paper's network that saw whole games had
0.19 on them and 0.37 on others. Departures: the residual
network of this chapter instead of 13 plain convolutions; the positions are those of the games that the source is given,
where the paper has 30 million games of its policy against itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Input, Loss, Metric, Phase, Spec, UserError
from rayloom_agents.alphago.network import NetworkSize, PolicyValueNetwork
from rayloom_agents.alphago.supervised_policy import POLICY_HEAD, check_expert_spec, take_weights
from rayloom_agents.alphago.symmetry import Symmetries


class ValueNetwork(Algorithm):
    """Predicts the outcome for the player to move."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "value_loss": Metric(better="min", meaning="squared error of the outcome, which is 1 or -1"),
        "value_loss_symmetries": Metric(better="min", meaning="the same, with the mean over the 8 symmetries"),
        "winner": Metric(better="max", meaning="share of positions whose winner has the value's sign"),
        "symmetry_spread": Metric(better="min", meaning="standard deviation of the value over the 8 symmetries"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(NetworkSize, AlgorithmConfig):
        """Settings of the value network."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the network. UserError for another source."""
        super().__init__(config, spec)
        check_expert_spec(spec, "the value network")
        (planes, rows, columns), actions = spec["planes"].shape, spec["action"].categories
        self.network = PolicyValueNetwork(config, (planes, rows, columns), actions)
        self.symmetries = Symmetries(rows, columns)

    def start_from(self, inputs: Mapping[str, Input]) -> None:
        """Begin with the network of the input `policy`, whose features serve here too. UserError for other inputs."""
        if set(inputs) != {"policy"}:
            raise UserError(f"inputs: name the one earlier run `policy`, not {', '.join(sorted(inputs))}")
        take_weights(self.network, inputs["policy"], "policy")

    def phases(self) -> list[Phase]:
        """Return the only one, which leaves the policy's head alone."""
        learnt = [each for name, each in self.network.named_parameters() if not name.startswith(POLICY_HEAD)]
        return [Phase("network", self.loss, tuple(learnt))]

    def loss(self, batch: Batch) -> Loss:
        """Return the squared errors [B], each position under a symmetry of its own."""
        turned = self.symmetries.turn_batch(batch, self.noise)
        _, value = self.network(turned["planes"])
        error = (batch["outcome"] - value).square()
        return Loss(error, {"value_loss": error.detach()})

    def evaluate(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return squared errors, right signs and the spread over the symmetries [B]."""
        planes, outcome = batch["planes"], batch["outcome"]
        value = self.network(planes)[1]
        values = self.symmetries.judge_all(self.network, planes)[1]
        return {
            "value_loss": (outcome - value).square(),
            "value_loss_symmetries": (outcome - values.mean(dim=0)).square(),
            "winner": (outcome * value > 0).float(),
            "symmetry_spread": values.std(dim=0, correction=0),
        }

    @torch.no_grad()
    def infer(self, planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return equal logits [B, A] and values [B] of the player to move: a search by value alone."""
        device = next(self.network.parameters()).device
        logits, value = self.network(torch.from_numpy(planes).to(device))
        return np.zeros(tuple(logits.shape), np.float32), value.float().cpu().numpy()

    def inference_module(self) -> nn.Module | None:
        """Return the network: planes to logits, which mean nothing, and values."""
        return self.network

    def inference_input(self) -> str:
        """Return the name of the planes."""
        return "planes"
