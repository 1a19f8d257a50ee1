"""A picture as a grid of places, and an LSTM that looks at one place after the other while it writes."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rayloom_supervised.layers.activations import initialize_hidden
from rayloom_supervised.layers.attention import AdditiveScore, attend, attend_hard


class PictureEncoder(nn.Module):
    """Two blocks of 3x3 convolution, relu and 2x2 pooling, and one more convolution: a place stands for 4x4 pixels.

    Departure from Xu et al. (2015), whose network saw photographs before: it is small, trained along, and each place
    also has its coordinates (-1..1), without which no sentence could say what is above what.
    """

    def __init__(self, shape: tuple[int, int, int], channels: int) -> None:
        """Build for pictures of `shape` (C, H, W), each side at least 4."""
        super().__init__()
        self.grid = shape[1] // 4, shape[2] // 4
        """Places downwards and to the right."""
        layers: list[nn.Module] = []
        for number, (inputs, maps) in enumerate(pairwise((shape[0], channels // 2, channels, channels))):
            convolution = nn.Conv2d(inputs, maps, 3, padding=1)
            initialize_hidden(convolution, "relu")
            layers += [convolution, nn.ReLU(), *([nn.MaxPool2d(2)] if number < 2 else [])]
        self.features = nn.Sequential(*layers)
        self.outputs = channels + 2
        down, right = (torch.linspace(-1, 1, side) for side in self.grid)
        where = torch.stack(torch.meshgrid(down, right, indexing="ij")[::-1], dim=2).flatten(0, 1)
        self.register_buffer("where", where, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] to places [B, P, outputs], row by row from the top."""
        found = self.features(images).flatten(2).transpose(1, 2)
        where = self.get_buffer("where").to(found.dtype)
        return torch.cat((found, where.expand(len(found), -1, -1)), dim=2)


class Writing(NamedTuple):
    """The decoder's state, for B sentences."""

    hidden: Tensor
    memory: Tensor
    """Both [B, size]."""


class Glance(NamedTuple):
    """What one step of the decoder tells."""

    logits: Tensor
    """Of the next word, [B, V]."""
    weights: Tensor
    """Of the places, [B, P]."""
    chosen: Tensor
    """Log-probability of the place that was chosen, [B]; 0 with soft attention."""
    expected: Tensor
    """The baseline's guess of the loss still to come, [B]."""


class CaptionDecoder(nn.Module):
    """LSTM whose state looks at the places, and which is fed what it saw (Xu et al. 2015, sections 3.1.2 and 4).

    s(t) = attention of h(t-1) to the places, h(t) = LSTM([word(t-1); s(t)], h(t-1)), next word: affine map of
    [word(t-1); h(t); s(t)]. The attention is deterministic ("soft") or one place drawn at random ("hard").
    """

    def __init__(self, words: int, places: int, embedding_size: int, size: int) -> None:
        """Build for a vocabulary of `words` and places of `places` features."""
        super().__init__()
        self.words = nn.Embedding(words, embedding_size)
        self.score = AdditiveScore(size, places, size)
        self.cell = nn.LSTMCell(embedding_size + places, size)
        self.begin = nn.Linear(places, 2 * size)
        self.head = nn.Linear(embedding_size + size + places, words)
        self.baseline = nn.Linear(size, 1)

    def start(self, places: Tensor) -> Writing:
        """Return the state before the first word, made of the mean of the places [B, P, F]."""
        hidden, memory = torch.tanh(self.begin(places.mean(dim=1))).chunk(2, dim=1)
        return Writing(hidden, memory)

    def forward(
        self, before: Tensor, state: Writing, places: Tensor, *, hard: bool = False, uniform: Tensor | None = None
    ) -> tuple[Glance, Writing]:
        """Take one step after the words `before` [B]; a hard choice follows `uniform` [B], or is the likeliest."""
        scores = self.score(state.hidden[:, None], places)
        log_probability = scores.new_zeros(len(scores))
        if hard:
            chosen = None if uniform is None else uniform[:, None]
            picked, _, logs = attend_hard(scores, places, uniform=chosen)
            seen, weights, log_probability = picked.squeeze(1), torch.softmax(scores, dim=2), logs.squeeze(1)
        else:
            mean, weights = attend(scores, places)
            seen = mean.squeeze(1)
        expected = self.baseline(state.hidden.detach()).squeeze(1)
        word = self.words(before)
        after = Writing(*self.cell(torch.cat((word, seen), dim=1), tuple(state)))
        logits = self.head(torch.cat((word, after.hidden, seen), dim=1))
        return Glance(logits, weights.squeeze(1), log_probability, expected), after
