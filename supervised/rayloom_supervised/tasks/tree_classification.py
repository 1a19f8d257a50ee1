"""Classification of binary trees, trained by cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Component, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.metrics import classification as metrics
from rayloom_supervised.networks.trees import TREE_NETWORKS, build_tree_network


@dataclass(frozen=True, kw_only=True)
class TreeClassifierConfig(AlgorithmConfig):
    """Settings of the classifier of trees."""

    network: Annotated[Component, TREE_NETWORKS] = field(default_factory=TREE_NETWORKS.component)
    """What maps trees to the logits of the classes."""


class TreeClassifier(Algorithm):
    """A recursive network (Socher et al. 2011, Tai et al. 2015) whose root is classified.

    Departure from both papers: only roots are judged, so that what inner nodes stand for is found by the training.
    """

    Config = TreeClassifierConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy"),
        "accuracy": Metric(better="max"),
    }

    def __init__(self, config: TreeClassifierConfig, spec: Spec) -> None:
        """Build for the ragged fields `token` [N] and `children` [N, 2], and `label`."""
        super().__init__(config, spec)
        missing = [name for name in ("token", "children", "label") if name not in spec]
        if missing or not (spec["token"].ragged and spec["children"].ragged):
            raise UserError(
                "source.dataset: a classifier of trees needs the ragged fields token and children, and label, not "
                f"{sorted(spec)}"
            )
        self.network = build_tree_network(config.network, spec["token"], spec["label"].categories)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("classify", self.loss, tuple(self.parameters()), compilable=False)]

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] and the accuracy [B]."""
        logits: Tensor = self.network(batch["token"], batch["children"], batch["token_length"])
        hit = metrics.accuracy(logits.detach().argmax(dim=1), batch["label"])
        return Loss(F.cross_entropy(logits, batch["label"], reduction="none"), {"accuracy": hit})

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy (nats) and accuracy of each tree [B], and what `summarize` needs."""
        loss = self.loss(batch)
        hit = loss.metrics["accuracy"]
        return {"loss": loss.per_example, "accuracy": hit, "_right": hit, "_nodes": batch["token_length"]}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Show the accuracy over the number of nodes, in up to eight groups of equal size."""
        order = outputs["_nodes"].argsort(stable=True)
        groups = order.tensor_split(min(8, len(order)))
        right = torch.stack([outputs["_right"][group].float().mean() for group in groups])
        nodes = torch.stack([outputs["_nodes"][group].float().mean() for group in groups])
        return {}, {"accuracy": Figure("curves", right[None], ("accuracy",), x=nodes, axes=("nodes", "accuracy"))}
