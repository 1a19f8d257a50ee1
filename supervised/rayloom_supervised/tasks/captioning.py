"""Sentences about pictures: a convolutional encoder, attention and an LSTM that writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.data.symbols import BEGIN, END, PADDING
from rayloom_supervised.layers.beam_search import beam_search
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.metrics import sequences as metrics
from rayloom_supervised.networks.captions import CaptionDecoder, Glance, PictureEncoder, Writing


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(AlgorithmConfig):
    """Settings of the captioner."""

    attention: Literal["soft", "hard"] = "soft"
    """soft: the mean of all places; hard: one place at a time, learnt by REINFORCE with a learnt baseline."""
    channels: Annotated[int, Ge(2)] = 48
    """Features of a place in the picture."""
    embedding_size: Annotated[int, Ge(1)] = 24
    """Numbers that stand for a word."""
    cell_size: Annotated[int, Ge(1)] = 96
    """Units of the decoder."""
    beam_width: Annotated[int, Ge(1)] = 3
    """Sentences that evaluations follow; 1: greedy decoding."""
    entropy: Annotated[float, Ge(0)] = 0.02
    """Weight of the entropy of hard attention, which keeps it from settling too early."""


class Told(NamedTuple):
    """What the decoder did with B true sentences of up to T words."""

    losses: Tensor
    """Cross-entropy of each word, [B, T], 0 for padding."""
    right: Tensor
    """Whether it is the likeliest, [B, T]."""
    weights: Tensor
    """Where it looked, [B, T, P]."""
    policy: Tensor
    """What hard attention learns from, [B]: its score-function loss, the baseline's error and the entropy."""


class Captioner(Algorithm):
    """Show, attend and tell (Xu et al. 2015) with soft or hard attention, taught by the true words before.

    Hard attention: the gradient of the expected cross-entropy by the score function (their section 4.1); what follows
    a choice is compared with a baseline that is regressed on the decoder's state, in place of a moving average.
    Departures: no doubly stochastic regularisation, no gate on what is seen. Means are over words.
    """

    Config = CaptionerConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(
            better="min", unit="nats", meaning="cross-entropy of a word; of hard attention also its own loss"
        ),
        "token_accuracy": Metric(better="max", meaning="share of right words after the true ones"),
        "exact_match": Metric(better="max", meaning="share of sentences that are written without a mistake"),
        "token_error": Metric(better="min", meaning="edit distance of what is written over the number of words"),
        "on_the_shape": Metric(
            better="max", meaning="share of the attention inside the box of the shape that is named"
        ),
    }

    def __init__(self, config: CaptionerConfig, spec: Spec) -> None:
        """Build for `image` and the ragged field `target`, which ends with END."""
        super().__init__(config, spec)
        if "image" not in spec or "target" not in spec or not spec["target"].ragged or len(spec["image"].shape) != 3:
            raise UserError(f"source.dataset: a captioner needs image and the ragged field target, not {sorted(spec)}")
        channels, height, width = spec["image"].shape
        if min(height, width) < 4:
            raise UserError(f"source.dataset: a captioner needs pictures of 4x4 pixels or more, not {height}x{width}")
        self.encoder = PictureEncoder((channels, height, width), config.channels)
        self.decoder = CaptionDecoder(
            spec["target"].categories, self.encoder.outputs, config.embedding_size, config.cell_size
        )

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("tell", self.loss, tuple(self.parameters()), compilable=False)]

    def places(self, image: Tensor) -> Tensor:
        """Return the features [B, P, F] of the places of pictures uint8 [B, C, H, W]."""
        found: Tensor = self.encoder(image.to(self.decoder.head.weight.dtype) / 255)
        return found

    def loss(self, batch: Batch) -> Loss:
        """Return the cross-entropy [B] summed over each sentence's words, and how many those are."""
        told = self.tell(batch, explore=self.training)
        losses = told.losses.sum(dim=1) + told.policy
        return Loss(losses, {"token_accuracy": told.right.sum(dim=1)}, count=batch["target_length"].to(losses.dtype))

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Return exact matches [B] of what is written, and sums over words with their number ([B], [B])."""
        told, target, count = self.tell(batch, explore=False), batch["target"], batch["target_length"]
        written = self.decode(batch["image"], target.shape[1])
        ours = metrics.rows_of(written, (written == END).long().argmax(dim=1) + 1)
        true = metrics.rows_of(target, count)
        found: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "loss": (told.losses.sum(dim=1), count),
            "token_accuracy": (told.right.sum(dim=1), count),
            "token_error": (metrics.edit_distances(ours, true).to(target.device), count),
            "exact_match": metrics.exact_matches(ours, true).to(target.device),
        }
        if "boxes" in batch and "about" in batch:
            share, named = self._on_the_shape(told.weights, batch)
            found["on_the_shape"] = (share.sum(dim=1), named.sum(dim=1))
        return found

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show three pictures, each beside where the decoder looks for every word that it writes there."""
        few = batch["image"][:3]
        places, words = self.places(few), self.decode(few, self.spec["target"].shape[0])
        _, looked = self._follow(words, places)
        rows, height, width = len(few), *few.shape[2:]
        grid = (looked / looked.amax(dim=2, keepdim=True).clamp_min(1e-9)).view(rows, -1, *self.encoder.grid)
        light = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
        pictures = few.float()[:, :3] / 255
        shown = (pictures[:, None] * (0.15 + 0.85 * light[:, :, None])).cpu()
        strip = torch.cat((pictures[:, None].cpu(), shown), dim=1)
        labels = self.spec["target"].labels
        ends = [(row.index(END) if END in row else len(row)) for row in words.tolist()]
        texts = [" ".join(labels[word] for word in row[:end]) for row, end in zip(words.tolist(), ends, strict=True)]
        return {
            "attention": Figure("images", strip.flatten(0, 1), columns=strip.shape[1]),
            "sentences": Figure("text", text="\n".join(texts) or "(none)"),
        }

    @torch.no_grad()
    def decode(self, image: Tensor, steps: int) -> Tensor:
        """Return the likeliest words [B, steps] that the beam finds, padded after END."""

        def step(token: Tensor, state: tuple[Writing, Tensor]) -> tuple[Tensor, tuple[Writing, Tensor]]:
            glance, after = self.decoder(token, *state, hard=self.config.attention == "hard")
            return F.log_softmax(glance.logits, dim=1), (after, state[1])

        places = self.places(image)
        begin = torch.full((len(image),), BEGIN, device=image.device)
        width = min(self.config.beam_width, self.spec["target"].categories)
        state = (self.decoder.start(places), places)
        written, _ = beam_search(step, _pick, state, begin, steps, width, end=END, padding=PADDING)
        return written

    def tell(self, batch: Batch, *, explore: bool) -> Told:
        """Write the true sentences; hard choices are drawn at random if `explore`, else the likeliest."""
        target = batch["target"]
        valid = inside(batch["target_length"], target.shape[1])
        hard = self.config.attention == "hard"
        uniform = self.noise.uniform(*target.shape) if hard and explore else None
        target = target.masked_fill(~valid, PADDING)
        glances, weights = self._follow(target, self.places(batch["image"]), uniform)
        logits = torch.stack([glance.logits for glance in glances], dim=2)
        losses = F.cross_entropy(logits, target, reduction="none") * valid
        right = (logits.detach().argmax(dim=1) == target) & valid
        policy = (
            self._policy_loss(glances, weights, losses, valid) if hard and explore else losses.new_zeros(len(losses))
        )
        return Told(losses, right, weights, policy)

    def _follow(self, words: Tensor, places: Tensor, uniform: Tensor | None = None) -> tuple[list[Glance], Tensor]:
        """Return what each step tells while these words [B, T] are written, and where it looks [B, T, P]."""
        before = F.pad(words[:, :-1], (1, 0), value=BEGIN)
        state, glances = self.decoder.start(places), []
        hard = self.config.attention == "hard"
        for time, word in enumerate(before.unbind(1)):
            drawn = None if uniform is None else uniform[:, time].to(places.dtype)
            glance, state = self.decoder(word, state, places, hard=hard, uniform=drawn)
            glances.append(glance)
        return glances, torch.stack([glance.weights for glance in glances], dim=1)

    def _policy_loss(self, glances: list[Glance], weights: Tensor, losses: Tensor, valid: Tensor) -> Tensor:
        """Return log p (loss to come - baseline) + the baseline's squared error / 2 - entropy, over words [B]."""
        chosen = torch.stack([glance.chosen for glance in glances], dim=1)
        expected = torch.stack([glance.expected for glance in glances], dim=1)
        to_come = losses.detach().flip(1).cumsum(dim=1).flip(1)
        advantage = to_come - expected.detach()
        entropy: Tensor = -(weights * weights.clamp_min(1e-9).log()).sum(dim=2)
        each: Tensor = chosen * advantage + 0.5 * (to_come - expected).square() - self.config.entropy * entropy
        return (each * valid).sum(dim=1)

    def _on_the_shape(self, weights: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the share [B, T] of the attention in the box of the shape that a word names, and whether it names one.

        A place counts by the share of its pixels that lie in the box.
        """
        about = batch["about"]
        named = (about > 0) & inside(batch["about_length"], about.shape[1])
        rows = torch.arange(len(about), device=about.device)[:, None]
        box = batch["boxes"][rows, (about - 1).clamp(min=0)].to(weights.dtype)
        height, width = self.spec["image"].shape[1:]
        down, right = self.encoder.grid
        across = _overlap(box[..., 0], box[..., 2], width / right, right)
        along = _overlap(box[..., 1], box[..., 3], height / down, down)
        covered = (along[..., :, None] * across[..., None, :]).flatten(2)
        return (weights * covered).sum(dim=2) * named, named


def _overlap(low: Tensor, high: Tensor, step: float, count: int) -> Tensor:
    """Return the share of each of `count` steps that lies between `low` and `high` [...]: [..., count]."""
    begin = torch.arange(count, device=low.device, dtype=low.dtype) * step
    inner = torch.minimum(high[..., None], begin + step) - torch.maximum(low[..., None], begin)
    return inner.clamp(min=0) / step


def _pick(state: tuple[Writing, Tensor], rows: Tensor) -> tuple[Writing, Tensor]:
    """Return the decoder's state of some sentences."""
    writing, places = state
    return Writing(writing.hidden[rows], writing.memory[rows]), places[rows]
