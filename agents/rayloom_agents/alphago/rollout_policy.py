"""AlphaGo's rollout policy (Silver et al. 2016, doi 10.1038/nature16961): a linear softmax over local patterns.

    score(move) = sum of the weights of its features;   loss = cross-entropy(expert's move)

It is fast and not much more: the paper's hits 24.2 % of the experts' moves in 2 microseconds each. The features are
those of `go/patterns.py`, a selection of the paper's; compiled playouts draw from the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Loss, Metric, Phase, Spec
from rayloom_agents.alphago.go import patterns
from rayloom_agents.alphago.supervised_policy import check_expert_spec, judge_moves, legal_actions


class PatternFeatures(nn.Module):
    """Finds the features of every move in the planes of a board."""

    pattern_class: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pattern_class", torch.from_numpy(patterns.PATTERN_CLASS), persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """Return the numbers of the features of a stone on each point, from planes [B, C, S, S] [B, S^2, 5]."""
        size = planes.shape[-1]
        found = [
            patterns.PATTERN + self.pattern_class[self._codes(planes)],
            patterns.NEAR + _distances(planes[:, 8]),
            patterns.NEXT + _distances(planes[:, 9]),
            patterns.LINE + _lines(size, planes.device).expand(len(planes), size, size),
            patterns.CHAINS + _chains(planes),
        ]
        return torch.stack(found, dim=-1).flatten(1, 2)

    def _codes(self, planes: Tensor) -> Tensor:
        stones = patterns.OWN * planes[:, 0] + patterns.OPPONENT * planes[:, 1]
        around = _around(stones.long(), patterns.OUTSIDE)
        code = torch.zeros_like(around[0])
        for place, value in enumerate(around):
            code = code + value * 4**place
        return code


def _around(board: Tensor, outside: int) -> list[Tensor]:
    """Return what lies at each of the eight neighbours of every point of a board [B, S, S]."""
    size = board.shape[-1]
    padded = F.pad(board, (1, 1, 1, 1), value=outside)
    return [padded[:, 1 + row : 1 + row + size, 1 + column : 1 + column + size] for row, column in patterns.RING]


def _distances(where: Tensor) -> Tensor:
    """Return the class of every point's distance to the one that is marked in a plane [B, S, S]; 0 where none is."""
    size = where.shape[-1]
    marked = where.flatten(1).argmax(dim=1)
    place = torch.arange(size, device=where.device)
    rows = (place[None, :, None] - (marked // size)[:, None, None]).abs()
    columns = (place[None, None, :] - (marked % size)[:, None, None]).abs()
    distance = (rows + columns + torch.maximum(rows, columns)).clamp(1, patterns.FARTHEST)
    return distance * (where.flatten(1).amax(dim=1) > 0.5)[:, None, None]


def _lines(size: int, device: torch.device) -> Tensor:
    place = torch.arange(size, device=device)
    edge = torch.minimum(place, size - 1 - place)
    return torch.minimum(edge[:, None], edge[None, :]).clamp(max=patterns.MOST_LINES)


def _chains(planes: Tensor) -> Tensor:
    """Return the class of the chains beside every point."""
    own = planes[:, 2] + 2 * planes[:, 3] + 3 * planes[:, 4]
    theirs = planes[:, 5] + 2 * planes[:, 6] + 3 * planes[:, 7]
    beside = [torch.stack([_around(side.long(), 0)[place] for place in patterns.BESIDE]) for side in (own, theirs)]
    weakest = [torch.where(each > 0, each, 4).amin(dim=0) % 4 for each in beside]
    return 16 * weakest[0] + 4 * beside[0].amax(dim=0) + weakest[1]


class RolloutPolicy(Algorithm):
    """Predicts experts' moves by one weight for each feature."""

    Config = AlgorithmConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "policy_loss": Metric(better="min", unit="nats", meaning="cross-entropy with the experts' moves"),
        "top1": Metric(better="max", meaning="share of moves that are the likeliest one"),
        "top5": Metric(better="max", meaning="share of moves that are among the five likeliest"),
        "uniform_top1": Metric(meaning="share of moves that a uniform choice among legal ones hits"),
        "uniform_loss": Metric(unit="nats", meaning="cross-entropy of a uniform choice among legal moves"),
    }

    def __init__(self, config: AlgorithmConfig, spec: Spec) -> None:
        """Begin with equal weights. UserError for another source."""
        super().__init__(config, spec)
        check_expert_spec(spec, "the rollout policy")
        self.features = PatternFeatures()
        self.weight = nn.Parameter(torch.zeros(patterns.FEATURES))

    def phases(self) -> list[Phase]:
        """Return the only one."""
        return [Phase("weights", self.loss, (self.weight,))]

    def _log_policy(self, planes: Tensor) -> Tensor:
        return self._logits(planes).masked_fill(~legal_actions(planes), -torch.inf).log_softmax(dim=1)

    def _logits(self, planes: Tensor) -> Tensor:
        points = self.weight[self.features(planes)].sum(dim=2)
        passed = planes[:, 14, 0, 0].long()
        return torch.cat([points, self.weight[patterns.PASS + passed][:, None]], dim=1)

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B]."""
        found = judge_moves(self._log_policy(batch["planes"]), batch["action"])
        return Loss(found["policy_loss"], {name: each.detach() for name, each in found.items()})

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss and accuracies [B], and those of a uniform choice."""
        legal = legal_actions(batch["planes"]).sum(dim=1).float()
        uniform = {"uniform_top1": 1 / legal, "uniform_loss": legal.log()}
        return judge_moves(self._log_policy(batch["planes"]), batch["action"]) | uniform

    def factors(self) -> patterns.Factors:
        """Return what playouts multiply."""
        return patterns.factors(self.weight.detach().cpu().numpy())

    @torch.no_grad()
    def infer(self, planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits [B, A] and the value 0: a search by patterns alone."""
        logits = self._logits(torch.from_numpy(planes).to(self.weight.device))
        return logits.float().cpu().numpy(), np.zeros(len(planes), np.float32)
