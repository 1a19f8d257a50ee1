"""AlphaZero (Silver et al. 2017, arXiv 1712.01815): one network that learns from its own tree search.

    loss = cross-entropy(search's policy, network's policy) + value_weight * (outcome - value)^2
           + ownership_weight * mean over points of cross-entropy(final owner, ownership) + score_weight * huber(score)

The second line is Wu 2019 (arXiv 1902.10565, section 3.4), in games where points have owners at the end. Games come
from the source `rayloom_agents.alphago.self_play:SelfPlay`. There is no gate: the latest network plays. Departures:
weight decay is the optimiser's; rows of fast searches do not teach the policy (Wu 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Metric, Phase, Spec, UserError
from rayloom_agents.alphago.inference import Inference, InferenceSettings, Pending
from rayloom_agents.alphago.network import Judgement, NetworkSize, PolicyValueNetwork


class AlphaZero(Algorithm):
    """A policy and a value for any game of `rayloom_agents.alphago.games`."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "policy_loss": Metric(better="min", unit="nats", meaning="cross-entropy with the search's policy"),
        "policy_gap": Metric(better="min", unit="nats", meaning="divergence of the search's policy from the network's"),
        "value_loss": Metric(better="min", meaning="squared error of the outcome, which is 1, 0 or -1"),
        "ownership_loss": Metric(better="min", unit="nats", meaning="cross-entropy with a point's owner at the end"),
        "score_loss": Metric(better="min", meaning="Huber's loss of the lead at the end, in board lengths"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(NetworkSize, AlgorithmConfig):
        """Settings of AlphaZero."""

        value_weight: Annotated[float, Ge(0)] = 1.0
        """Weight of the value's squared error."""
        ownership_weight: Annotated[float, Ge(0)] = 0.5
        """Weight of the cross-entropy with the points' final owners, where the game has them; with `score_weight` 0
        the network is made without these heads."""
        score_weight: Annotated[float, Ge(0)] = 0.1
        """Weight of the final score's loss, where the game has owners of points."""
        inference: InferenceSettings = field(default_factory=InferenceSettings)
        """How searches run the network."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the network. UserError for another source."""
        super().__init__(config, spec)
        if not {"planes", "policy", "outcome"} <= set(spec):
            raise UserError(
                "algorithm: AlphaZero learns from games against itself; set source.import to "
                "rayloom_agents.alphago.self_play:SelfPlay"
            )
        auxiliary = "ownership" in spec and config.ownership_weight + config.score_weight > 0
        self.network = PolicyValueNetwork(config, spec["planes"].shape, spec["policy"].shape[0], auxiliary)
        self._inference = Inference(self.network, config.inference)

    def phases(self) -> list[Phase]:
        """Return the only one."""
        return [Phase("network", self.loss, tuple(self.network.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        """Return the weighted sum [B] over rows of the source; `full`: whether `policy` is a target."""
        judged = self.network.judge(batch["planes"])
        target, log_policy = batch["policy"], judged.logits.log_softmax(dim=1)
        policy_loss = -(target * log_policy).sum(dim=1)
        entropy = -torch.special.xlogy(target, target).sum(dim=1)
        value_loss = (batch["outcome"] - judged.value).square()
        metrics = {
            "policy_loss": policy_loss.detach(),
            "policy_gap": (policy_loss - entropy).detach(),
            "value_loss": value_loss.detach(),
        }
        total = batch["full"] * policy_loss + self.config.value_weight * value_loss
        for name, weight, each in self._auxiliary_losses(judged, batch):
            metrics[name] = each.detach()
            total = total + weight * each
        return Loss(total, metrics)

    def _auxiliary_losses(self, judged: Judgement, batch: Batch) -> list[tuple[str, float, Tensor]]:
        """Return names, weights and losses [B] of the heads that the network has."""
        if judged.ownership is None or judged.score is None:
            return []
        owned = (1 + batch["ownership"]) / 2  # nobody's points count half
        ownership = binary_cross_entropy_with_logits(judged.ownership, owned, reduction="none").mean(dim=1)
        lead = batch["score"] / batch["planes"].shape[-1]
        score = smooth_l1_loss(judged.score, lead, reduction="none")
        return [
            ("ownership_loss", self.config.ownership_weight, ownership),
            ("score_loss", self.config.score_weight, score),
        ]

    @property
    def inference(self) -> Inference:
        """The network as searches run it."""
        return self._inference

    def infer(self, planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits [B, A] and values [B] of the player to move, as the tree search asks for them."""
        self._inference.refresh()
        return self._inference.start(planes)()

    def inference_module(self) -> nn.Module | None:
        """Return the network: planes to logits and values."""
        return self.network

    def inference_input(self) -> str:
        """Return the name of the planes."""
        return "planes"


Judge = Callable[[NDArray[Any]], Pending]
"""Begins to judge planes in units of `Game.plane_scale`."""


def judge_of(algorithm: Any, scale: NDArray[np.float32] | None) -> Judge:
    """Return how an algorithm judges planes of a game with that `plane_scale`, with its present weights."""
    inference = getattr(algorithm, "inference", None)
    if isinstance(inference, Inference):
        inference.refresh()
        return lambda planes: inference.start(planes, scale)
    infer = player(algorithm).infer

    def judge(planes: NDArray[Any]) -> Pending:
        factors = np.float32(1) if scale is None else scale[:, None, None]
        found = infer(planes.astype(np.float32) * factors)
        return lambda: found

    return judge


def player(algorithm: Any) -> AlphaZero:
    """Return the algorithm as one that judges positions; UserError where it does not."""
    if not callable(getattr(algorithm, "infer", None)):
        raise UserError(
            f"algorithm: {type(algorithm).__name__} has no infer(planes) that returns logits and values, which the "
            "tree search needs; use rayloom_agents.alphago.alphazero:AlphaZero"
        )
    found: AlphaZero = algorithm
    return found
