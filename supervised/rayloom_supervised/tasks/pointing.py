"""Pointer networks (Vinyals et al. 2015): what is written are places of what was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.layers.attention import AdditiveScore
from rayloom_supervised.layers.beam_search import beam_search
from rayloom_supervised.layers.cells import State
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack
from rayloom_supervised.metrics import sequences as metrics

END = 0
"""The place that ends a sequence; what was read has places from 1."""
_Search = tuple[list[State], Tensor, Tensor, Tensor]
"""The decoder's states, the inputs by place, the keys and which places are real."""


@dataclass(frozen=True, kw_only=True)
class PointerConfig(AlgorithmConfig):
    """Settings of the pointer network."""

    cell: CellName = "lstm"
    """Recurrent cell of the encoder and of the decoder."""
    cell_size: Annotated[int, Ge(1)] = 128
    """Units of the encoder and of the decoder."""
    beam_width: Annotated[int, Ge(1)] = 1
    """Sequences that evaluations follow; 1: greedy decoding."""


class PointerNetwork(Algorithm):
    """Additive attention whose weights are the output (equation 3 of the paper); the decoder sees where it pointed.

    Departures: the end of a sequence is a place of its own with a learnt key; the decoder starts with the encoder's
    last output, its further memory is empty; any cell and optimiser, where the paper has an LSTM and SGD. Means are
    over places, the end included.
    """

    Config = PointerConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min", unit="nats", meaning="cross-entropy of a place"),
        "place_accuracy": Metric(better="max", meaning="share of right places after the true ones"),
        "exact_match": Metric(better="max", meaning="share of sequences that are written without a mistake"),
    }

    def __init__(self, config: PointerConfig, spec: Spec) -> None:
        """Build for the ragged fields `source` [L, F] (reals) and `target` [T] (places from 1, then 0)."""
        super().__init__(config, spec)
        for name, rank in (("source", 2), ("target", 1)):
            if name not in spec or not spec[name].ragged or len(spec[name].shape) != rank:
                raise UserError(
                    "source.dataset: a pointer network needs the ragged fields source [L, F] and target [T], not "
                    f"{name} of {sorted(spec)}"
                )
        features, size = spec["source"].shape[1], config.cell_size
        self.encoder = RecurrentStack(config.cell, features, size)
        self.decoder = RecurrentStack(config.cell, features, size)
        self.score = AdditiveScore(size, size, size)
        self.begin = nn.Parameter(torch.zeros(features))
        self.end = nn.Parameter(torch.randn(size) / size**0.5)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("point", self.loss, tuple(self.parameters()), compilable=False)]

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] summed over each target's places, and how many those are."""
        losses, right = self._taught(batch)
        return Loss(losses, {"place_accuracy": right}, count=batch["target_length"].to(losses.dtype))

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return exact matches [B] of what is written, and sums over places with their number ([B], [B])."""
        losses, right = self._taught(batch)
        target, count = batch["target"], batch["target_length"]
        written = self.decode(batch["source"], batch["source_length"], target.shape[1])
        exact = (written == target).all(dim=1).float()
        return {
            "loss": (losses, count),
            "place_accuracy": (right, count),
            "exact_match": exact,
            "_exact_match": exact,
            "_source_length": batch["source_length"],
        }

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return how exact matches fall with the length of the source."""
        exact = outputs["_exact_match"]
        curve = metrics.by_length(exact, torch.ones_like(exact), outputs["_source_length"], "exact match")
        return {}, {"exact_match_by_length": curve}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show the points of the first example and, as a second group, those that the network points at."""
        length = int(batch["source_length"][0])
        if self.spec["source"].shape[1] != 2:
            return {}
        written = self.decode(batch["source"][:1], batch["source_length"][:1], length + 1)[0]
        chosen = torch.zeros(length + 1, dtype=torch.int64, device=written.device)
        chosen[written] = 1
        names = ("other points", "corners")
        return {"hull": Figure("points", batch["source"][0, :length], groups=chosen[1:], labels=names)}

    @torch.no_grad()
    def decode(self, source: Tensor, length: Tensor, steps: int) -> Tensor:
        """Return the likeliest places [B, steps] that the beam finds, filled up with 0 after the end."""

        def step(place: Tensor, state: _Search) -> tuple[Tensor, _Search]:
            states, inputs, keys, valid = state
            seen = inputs[torch.arange(len(place), device=place.device), place][:, None]
            scores, after = self._point(seen, states, keys, valid)
            return F.log_softmax(scores[:, 0], dim=1), (after, inputs, keys, valid)

        states, inputs, keys, valid = self._read(source, length)
        begin = torch.zeros(len(source), dtype=torch.int64, device=source.device)
        width = min(self.config.beam_width, inputs.shape[1])
        state = (states, inputs, keys, valid)
        return beam_search(step, _pick, state, begin, steps, width, end=END, padding=END)[0]

    def _read(self, source: Tensor, length: Tensor) -> tuple[list[State], Tensor, Tensor, Tensor]:
        """Return the decoder's first states, and by place: the decoder's inputs, the keys, whether it is real."""
        outputs, states = self.encoder(source, length)
        batch = len(source)
        inputs = torch.cat((self.begin.expand(batch, 1, -1), source), dim=1)
        keys = torch.cat((self.end.expand(batch, 1, -1), outputs), dim=1)
        return self.decoder.begin_from(self.encoder.final(states)), inputs, keys, inside(length + 1, keys.shape[1])

    def _point(self, seen: Tensor, states: list[State], keys: Tensor, valid: Tensor) -> tuple[Tensor, list[State]]:
        """Return the scores [B, T, L + 1] of all places after the inputs `seen` [B, T, F], and the states."""
        decoded, after = self.decoder(seen, None, states)
        scores: Tensor = self.score(decoded, keys)
        return scores.masked_fill(~valid[:, None], -torch.inf), after

    def _taught(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and the number of right places [B], each after the true ones before it."""
        target = batch["target"]
        states, inputs, keys, valid = self._read(batch["source"], batch["source_length"])
        before = F.pad(target[:, :-1], (1, 0))
        seen = inputs.gather(1, before[:, :, None].expand(-1, -1, inputs.shape[2]))
        scores, _ = self._point(seen, states, keys, valid)
        counted = inside(batch["target_length"], target.shape[1])
        losses = F.cross_entropy(scores.transpose(1, 2), target, reduction="none") * counted
        right = ((scores.detach().argmax(dim=2) == target) & counted).sum(dim=1)
        return losses.sum(dim=1), right


def _pick(state: _Search, rows: Tensor) -> _Search:
    """Return the state of some sequences."""
    states, inputs, keys, valid = state
    picked = [tuple(part[rows] for part in layer) for layer in states]
    return picked, inputs[rows], keys[rows], valid[rows]
