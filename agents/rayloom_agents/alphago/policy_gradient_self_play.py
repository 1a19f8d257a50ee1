"""AlphaGo's reinforcement learning of the policy (Silver et al. 2016, doi 10.1038/nature16961): REINFORCE in self-play.

    loss = -z * log pi(a | s)        z = 1 where the mover wins the game, -1 where it loses, 0 for a draw

over the current policy's moves against earlier policies (Williams 1992). Every `pool_every` updates the current policy
joins the pool; the first one stays there for ever, as AlphaGo's supervised policy did, and beyond `pool_size` the
newest replaces the oldest of the others. The pool lies in buffers: it is part of every checkpoint and reaches every
worker with the weights. Departure: no value network's baseline, which the paper uses in a second pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Metric, Phase, Spec, UserError
from rayloom_agents.alphago.inference import Inference, InferenceSettings
from rayloom_agents.alphago.network import NetworkSize, PolicyValueNetwork


class PolicyGradientSelfPlay(Algorithm):
    """A policy that learns from winning and losing against its own past."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "entropy": Metric(unit="nats", meaning="of the policy among legal moves"),
        "log_probability": Metric(unit="nats", meaning="of the moves that were played"),
        "pool": Metric(unit="policies", meaning="earlier policies that are opponents"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(NetworkSize, AlgorithmConfig):
        """Settings of policy-gradient self-play."""

        pool_every: Annotated[int, Ge(1)] = 500
        """Updates after which the current policy joins the pool."""
        pool_size: Annotated[int, Ge(2)] = 16
        """Earlier policies that are kept at most, the first one among them."""
        entropy_weight: Annotated[float, Ge(0)] = 0.0
        """Weight of the entropy, which is added to what is maximised; the paper has none."""
        inference: InferenceSettings = field(default_factory=InferenceSettings)
        """How searches run the network, in matches."""

    config: Config
    pool: Tensor
    """[pool_size, P]: the flattened weights of earlier policies; the first one in row 0."""
    pooled: Tensor
    """[]: how many have joined so far; 0 before the first update."""

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the network. UserError for another source."""
        super().__init__(config, spec)
        if not {"planes", "legal", "action", "return"} <= set(spec):
            raise UserError(
                "algorithm: policy-gradient self-play learns from games against its past; set source.import to "
                "rayloom_agents.alphago.policy_games:PolicyGames"
            )
        self.network = PolicyValueNetwork(config, spec["planes"].shape, spec["legal"].shape[0])
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.startswith("value"))
        count = sum(parameter.numel() for parameter in self.network.parameters())
        self.register_buffer("pool", torch.zeros(config.pool_size, count))
        self.register_buffer("pooled", torch.zeros((), dtype=torch.int64))
        self._inference = Inference(self.network, config.inference)

    def phases(self) -> list[Phase]:
        """Return the only one; the value's head stays as it is."""
        trained = tuple(each for each in self.network.parameters() if each.requires_grad)
        return [Phase("policy", self.loss, trained)]

    def log_policy(self, planes: Tensor, legal: Tensor) -> Tensor:
        """Return the log-probabilities of actions [B, A]; -inf where they are illegal."""
        logits, _ = self.network(planes)
        return torch.where(legal > 0, logits, -torch.inf).log_softmax(dim=1)

    def loss(self, batch: Batch) -> Loss:
        """Return -z log pi(a | s), less the weighed entropy, of each row [B]."""
        log_policy = self.log_policy(batch["planes"], batch["legal"])
        chosen = log_policy.gather(1, batch["action"][:, None]).squeeze(1)
        finite = torch.where(batch["legal"] > 0, log_policy, 0.0)
        entropy = -(finite.exp() * finite * (batch["legal"] > 0)).sum(dim=1)
        per_example = -batch["return"] * chosen - self.config.entropy_weight * entropy
        return Loss(per_example, {"entropy": entropy.detach(), "log_probability": chosen.detach()})

    def prepare(self, batch: Batch) -> Batch:
        """Before the first update put the policy that the run begins with into the pool; rows stay what they are."""
        if int(self.pooled) == 0:
            self._join()
        return batch

    def after_update(self, update: int) -> Mapping[str, Tensor]:
        """Let the policy join the pool when its time has come."""
        if update % self.config.pool_every == 0:
            self._join()
        return {"pool": self.pooled.clamp(max=self.config.pool_size).float()}

    def _join(self) -> None:
        number = int(self.pooled)
        row = number if number < self.config.pool_size else 1 + (number - 1) % (self.config.pool_size - 1)
        with torch.no_grad():
            self.pool[row] = torch.cat([parameter.detach().reshape(-1) for parameter in self.network.parameters()])
            self.pooled += 1

    def opponents(self) -> int:
        """Return how many earlier policies there are."""
        return min(int(self.pooled), self.config.pool_size)

    @torch.no_grad()
    def opponent_logits(self, number: int, planes: Tensor) -> Tensor:
        """Return the logits [B, A] of an earlier policy; 0 is the first one, which before the first update is this."""
        if self.opponents() == 0:
            now: Tensor = self.network(planes)[0]
            return now.clone()
        weights, given = {}, 0
        for name, parameter in self.network.named_parameters():
            weights[name] = self.pool[number, given : given + parameter.numel()].view_as(parameter)
            given += parameter.numel()
        logits: Tensor = torch.func.functional_call(self.network, weights, (planes,))[0]
        return logits

    @property
    def inference(self) -> Inference:
        """The network as searches run it."""
        return self._inference

    def infer(self, planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits [B, A] and values [B], of a head that was not trained here."""
        self._inference.refresh()
        return self._inference.start(planes)()

    def infer_first(self, planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits of the policy that the run began with, and zeros."""
        device = next(self.network.parameters()).device
        logits = self.opponent_logits(0, torch.from_numpy(planes).to(device)).float().cpu().numpy()
        return logits, np.zeros(len(planes), np.float32)

    def inference_module(self) -> nn.Module | None:
        """Return the network: planes to logits and values."""
        return self.network

    def inference_input(self) -> str:
        """Return the name of the planes."""
        return "planes"


def check_pool(algorithm: Any) -> PolicyGradientSelfPlay:
    """Return the algorithm as one with a pool of earlier policies; UserError where it has none."""
    if not callable(getattr(algorithm, "opponent_logits", None)):
        raise UserError(
            f"algorithm: {type(algorithm).__name__} has no pool of earlier policies; use "
            "rayloom_agents.alphago.policy_gradient_self_play:PolicyGradientSelfPlay"
        )
    found: PolicyGradientSelfPlay = algorithm
    return found
