"""Prediction on graphs: a class for nodes, for pairs of nodes, or for whole graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Component, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.networks.graphs import GRAPH_NETWORKS, build_graph_network


@dataclass(frozen=True, kw_only=True)
class GraphPredictorConfig(AlgorithmConfig):
    """Settings of the predictor."""

    network: Annotated[Component, GRAPH_NETWORKS] = field(default_factory=GRAPH_NETWORKS.component)
    """What makes states of nodes, which see each other along the edges."""


class GraphPredictor(Algorithm):
    """Answers what the data ask: of nodes (`query` [Q, 1]), of pairs of nodes (`query` [Q, 2]) or of a graph (`label`).

    A node is judged by its state, a pair by the product of its two states, a graph by the mean and the maximum of all
    of its nodes' states: no answer depends on the order of nodes or edges, or on which end of a pair comes first. Means
    are over queries.
    """

    Config = GraphPredictorConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of an answer"),
        "accuracy": Metric(better="max", meaning="share of right answers"),
    }

    def __init__(self, config: GraphPredictorConfig, spec: Spec) -> None:
        """Build for the ragged fields `node` [N, F] and `edge` [E, 2], and `query` with `query_label`, or `label`."""
        super().__init__(config, spec)
        asked = ("query", "query_label") if "query" in spec else ("label",)
        if any(name not in spec for name in ("node", "edge", *asked)) or not (
            spec["node"].ragged and spec["edge"].ragged
        ):
            raise UserError(
                "source.dataset: a predictor on graphs needs the ragged fields node and edge, and query with "
                f"query_label, or label; not {sorted(spec)}"
            )
        self.per_graph = "query" not in spec
        self.answers = spec[asked[-1]]
        self.network = build_graph_network(config.network, spec["node"])
        self.head = nn.Linear(self.network.outputs * (2 if self.per_graph else 1), self.answers.categories)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("predict", self.loss, tuple(self.parameters()), compilable=False)]

    def states(self, batch: Batch) -> Tensor:
        """Return the nodes' states [B, N, S]."""
        found: Tensor = self.network(batch["node"], batch["node_length"], batch["edge"], batch["edge_length"])
        return found

    def logits(self, batch: Batch) -> Tensor:
        """Return those of the answers: [B, Q, K] to queries, [B, 1, K] of graphs."""
        states = self.states(batch)
        if self.per_graph:
            real, count = inside(batch["node_length"], states.shape[1])[:, :, None], batch["node_length"][:, None]
            mean = states.sum(dim=1) / count.clamp(min=1)
            highest = states.masked_fill(~real, torch.finfo(states.dtype).min).amax(dim=1)
            return self._answer(torch.cat((mean, highest), dim=1))[:, None]
        asked = batch["query"].masked_fill(~inside(batch["query_length"], batch["query"].shape[1])[:, :, None], 0)
        rows = torch.arange(len(asked), device=asked.device)[:, None, None]
        return self._answer(states[rows, asked].prod(dim=2))

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] summed over each graph's answers, and how many those are."""
        losses, right, count, _ = self._judged(batch)
        return Loss(losses, {"accuracy": right}, count=count.to(losses.dtype))

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return sums over answers with their number ([B], [B]), and what the confusion matrix needs."""
        losses, right, count, confusion = self._judged(batch)
        return {"loss": (losses, count), "accuracy": (right, count), "_confusion": confusion[None]}

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Show the confusion matrix (rows: true answers)."""
        names = self.answers.labels or tuple(str(number) for number in range(self.answers.categories))
        confusion = outputs["_confusion"].sum(dim=0).float()
        return {}, {"confusion_matrix": Figure("matrix", confusion, labels=names, column_labels=names)}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show the nodes of the first graph that are asked about, by the two main directions of their states."""
        if self.per_graph or self.spec["query"].shape[-1] != 1:
            return {}
        count = int(batch["query_length"][0])
        asked = batch["query"][0, :count, 0]
        states = self.states({name: value[:1] for name, value in batch.items()})[0, asked].float()
        if count < 3:
            return {}
        centred = states - states.mean(dim=0)
        points = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
        groups = batch["query_label"][0, :count]
        return {"states": Figure("points", points, groups=groups, labels=self.answers.labels)}

    def _answer(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return logits

    def _judged(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return summed cross-entropies, right answers and their number, each [B], and the confusion matrix [K, K]."""
        logits = self.logits(batch)
        if self.per_graph:
            true = batch["label"][:, None]
            count = torch.ones_like(batch["label"])
        else:
            true, count = batch["query_label"], batch["query_length"]
        valid = inside(count, true.shape[1])
        true = true.masked_fill(~valid, 0)
        guess = logits.detach().argmax(dim=2)
        losses = F.cross_entropy(logits.transpose(1, 2), true, reduction="none").masked_fill(~valid, 0)
        kinds = self.answers.categories
        pairs = torch.where(valid, true * kinds + guess, kinds * kinds).flatten()
        counts = pairs.new_zeros(kinds * kinds + 1).index_add(0, pairs, torch.ones_like(pairs))
        return losses.sum(dim=1), ((guess == true) & valid).sum(dim=1), count, counts[:-1].view(kinds, kinds)
