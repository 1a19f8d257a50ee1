"""AlphaGo's supervised policy network (Silver et al. 2016, doi 10.1038/nature16961): it predicts experts' moves.

    loss = cross-entropy(expert's move) + value_weight * (outcome - value)^2

Departures: the residual network of this chapter instead of 13 plain convolutions; where `value_weight` is above 0, one
network has both heads, as AlphaGo Zero's. Illegal moves are masked, so that the loss is that among legal ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Input, Loss, Metric, Phase, Spec, UserError
from rayloom_agents.alphago.network import NetworkSize, PolicyValueNetwork
from rayloom_agents.alphago.symmetry import Symmetries

ILLEGAL = 13
"""The plane of points where the mover may not play (`rayloom_agents.alphago.games.go`)."""
RAW_PLANES = (0, 1, 15, 16, 17)
"""Stones, colour, komi and ones: what is left without features that follow from the rules or from earlier moves."""
POLICY_HEAD, VALUE_HEAD = ("policy.", "policy_map."), ("value.", "value_map.")
"""How the names of the network's parameters begin that serve one output alone."""
_TOP = 5


def legal_actions(planes: Tensor) -> Tensor:
    """Return which actions are legal [B, A], as the planes show it; a pass always is."""
    points = planes[:, ILLEGAL].flatten(1) < 0.5
    return F.pad(points, (0, 1), value=True)


def check_expert_spec(spec: Spec, name: str) -> None:
    """Refuse (UserError) a source that does not deliver expert positions."""
    if not {"planes", "action", "outcome", "ownership"} <= set(spec):
        raise UserError(
            f"algorithm: {name} learns from expert games; set source.import to "
            "rayloom_agents.alphago.experts.source:ExpertGames"
        )


def judge_moves(log_policy: Tensor, action: Tensor) -> dict[str, Tensor]:
    """Return the loss [B] and whether the expert's move is the likeliest one, or one of the five likeliest [B]."""
    chosen = log_policy.gather(1, action[:, None])
    better = (log_policy > chosen).sum(dim=1)
    return {
        "policy_loss": -chosen.squeeze(1),
        "top1": (better < 1).float(),
        "top5": (better < _TOP).float(),
    }


class SupervisedPolicy(Algorithm):
    """Predicts experts' moves and, if asked to, who wins."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "policy_loss": Metric(better="min", unit="nats", meaning="cross-entropy with the experts' moves"),
        "value_loss": Metric(better="min", meaning="squared error of the outcome, which is 1, 0 or -1"),
        "top1": Metric(better="max", meaning="share of moves that are the likeliest one"),
        "top5": Metric(better="max", meaning="share of moves that are among the five likeliest"),
        "top1_symmetries": Metric(better="max", meaning="the same, with the mean over the 8 symmetries"),
        "top5_symmetries": Metric(better="max", meaning="the same, with the mean over the 8 symmetries"),
        "uniform_top1": Metric(meaning="share of moves that a uniform choice among legal ones hits"),
        "uniform_loss": Metric(unit="nats", meaning="cross-entropy of a uniform choice among legal moves"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(NetworkSize, AlgorithmConfig):
        """Settings of the supervised policy."""

        value_weight: Annotated[float, Ge(0)] = 0.0
        """Weight of the value's squared error; 0 leaves the value head as it is."""
        raw_planes: bool = False
        """See stones, colour and komi alone, without liberties, illegal points and earlier moves."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the network. UserError for another source."""
        super().__init__(config, spec)
        check_expert_spec(spec, "the supervised policy")
        (planes, rows, columns), actions = spec["planes"].shape, spec["action"].categories
        seen = len(RAW_PLANES) if config.raw_planes else planes
        self.network = PolicyValueNetwork(config, (seen, rows, columns), actions)
        self.symmetries = Symmetries(rows, columns)

    def start_from(self, inputs: Mapping[str, Input]) -> None:
        """Go on from the network of the input `network`. UserError for another name, or another network."""
        if set(inputs) != {"network"}:
            raise UserError(f"inputs: name the one earlier run `network`, not {', '.join(sorted(inputs))}")
        take_weights(self.network, inputs["network"], "network")

    def phases(self) -> list[Phase]:
        """Return the only one, which leaves the value's head alone where it has no weight."""
        named, unused = self.network.named_parameters(), () if self.config.value_weight else VALUE_HEAD
        return [Phase("network", self.loss, tuple(each for name, each in named if not name.startswith(unused)))]

    def _see(self, planes: Tensor) -> Tensor:
        return planes[:, list(RAW_PLANES)] if self.config.raw_planes else planes

    def _judge(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, those of illegal moves too, and values."""
        logits, value = self.network(self._see(planes))
        return logits, value

    def _judge_legal(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = self._judge(planes)
        return logits.masked_fill(~legal_actions(planes), -torch.inf), value

    def loss(self, batch: Batch) -> Loss:
        """Return the sum of both losses [B], each position under a symmetry of its own."""
        turned = self.symmetries.turn_batch(batch, self.noise)
        logits, value = self._judge_legal(turned["planes"])
        found = judge_moves(logits.log_softmax(dim=1), turned["action"])
        value_loss = (batch["outcome"] - value).square()
        total = found["policy_loss"]
        if self.config.value_weight:
            total = total + self.config.value_weight * value_loss
            found["value_loss"] = value_loss
        return Loss(total, {name: each.detach() for name, each in found.items()})

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return losses and accuracies [B], those of the mean over all symmetries, and those of a uniform choice."""
        planes = batch["planes"]
        logits, value = self._judge_legal(planes)
        found = judge_moves(logits.log_softmax(dim=1), batch["action"])
        together = judge_moves(self.symmetries.judge_all(self._judge_legal, planes)[0], batch["action"])
        legal = legal_actions(planes).sum(dim=1).float()
        found |= {f"{name}_symmetries": together[name] for name in ("top1", "top5")}
        found |= {"uniform_top1": 1 / legal, "uniform_loss": legal.log()}
        if self.config.value_weight:
            found["value_loss"] = (batch["outcome"] - value).square()
        return found

    @torch.no_grad()
    def infer(self, planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits [B, A] and values [B] of the player to move, as the tree search asks for them."""
        device = next(self.network.parameters()).device
        logits, value = self._judge(torch.from_numpy(planes).to(device))
        return logits.float().cpu().numpy(), value.float().cpu().numpy()

    def inference_module(self) -> nn.Module | None:
        """Return the network: planes to logits and values."""
        return None if self.config.raw_planes else self.network

    def inference_input(self) -> str:
        """Return the name of the planes."""
        return "planes"


def take_weights(network: nn.Module, given: Input, name: str) -> None:
    """Load the tensors `network.*` of an earlier run; UserError where they are those of another network."""
    prefix = "network."
    weights = {key.removeprefix(prefix): value for key, value in given.weights.items() if key.startswith(prefix)}
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise UserError(
            f"inputs.{name}: the network of run {given.run_id} has another form; give algorithm.blocks, "
            "algorithm.channels and source.size the values of that run"
        ) from None
