"""Networks from a padded sequence of tokens to a number of outputs, whatever its length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt, MinLen
from torch import Tensor, nn

from rayloom.contract import Component, Kinds, Shipped, TensorSpec, UserError, component
from rayloom_supervised.layers.attention import AdditiveScore, attend
from rayloom_supervised.layers.padding import inside
from rayloom_supervised.layers.recurrent import CellName, RecurrentStack

Size = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Lt(1)]
Buckets = Annotated[int, Ge(0)]
_NONE = 2**62  # the number of no pair, above those of all
_FEWEST = 2


class TextCNN(nn.Module):
    """Filters of several widths over word vectors, each one's maximum over time (Kim 2014, equations 1 to 3).

    Departure: word vectors are learnt from random ones (the paper's CNN-rand). With `bag`, the vectors' sum over the
    root of their number goes past the filters.
    """

    def __init__(self, embedding_size: int, channels: int, widths: tuple[int, ...], *, bag: bool = False) -> None:
        """Build `channels` filters of each width."""
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding_size, channels, width) for width in widths)
        self.widths = widths
        self.bag = bag
        self.outputs = channels * len(widths) + bag * embedding_size

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Map [B, L, E] of true lengths [B] to [B, outputs]; a text shorter than a filter is filled up with zeros."""
        vectors = vectors.masked_fill(~inside(lengths, vectors.shape[1])[:, :, None], 0).transpose(1, 2)
        bag = [vectors.sum(dim=2) / lengths.clamp(min=1).to(vectors.dtype).sqrt()[:, None]] if self.bag else []
        missing = max(self.widths) - vectors.shape[2]
        vectors = F.pad(vectors, (0, missing)) if missing > 0 else vectors
        features = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            found = torch.relu(convolution(vectors))
            whole = inside((lengths - width + 1).clamp(min=1), found.shape[2])
            features.append(found.masked_fill(~whole[:, None], -torch.inf).amax(dim=2))
        return torch.cat(features + bag, dim=1)


class TextRNN(nn.Module):
    """A recurrent network: its last states, or all, weighed by attention to a learnt query (Yang et al. 2016)."""

    def __init__(
        self, embedding_size: int, cell: CellName, size: int, layers: int, *, bidirectional: bool, attention: bool
    ) -> None:
        """Build `layers` of `size` units in each direction."""
        super().__init__()
        self.memory = RecurrentStack(cell, embedding_size, size, layers, bidirectional=bidirectional)
        self.outputs = self.memory.outputs
        self.score = AdditiveScore(self.outputs, self.outputs, self.outputs) if attention else None
        self.query = nn.Parameter(torch.zeros(1, 1, self.outputs)) if attention else None

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Map [B, L, E] of true lengths [B] to [B, outputs]."""
        states, ended = self.memory(vectors, lengths)
        if self.score is None or self.query is None:
            return self.memory.final(ended)
        scores = self.score(self.query.expand(len(states), -1, -1), states)
        return attend(scores, states, inside(lengths, states.shape[1]))[0].squeeze(1)


class TextNetwork(nn.Module):
    """Word vectors, what reads them, and an affine map of its features.

    Beside a word's vector may stand that of the pair of it and the next word, as in fastText (Joulin et al. 2017).
    Departure: a pair is known, and not hashed, when the training texts have it at least twice; all others share a
    vector. Which ones are known is a buffer, filled by `count_pairs`.
    """

    known: Tensor

    def __init__(
        self, tokens: int, outputs: int, embedding_size: int, reader: TextCNN | TextRNN, pairs: int = 0
    ) -> None:
        """Put the parts together; word vectors start uniform in -0.25..0.25, as Kim's, and so do those of `pairs`."""
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding_size)
        nn.init.uniform_(self.embedding.weight, -0.25, 0.25)
        self.pairs = nn.Embedding(pairs + 1, embedding_size) if pairs else None
        if self.pairs is not None:
            nn.init.uniform_(self.pairs.weight, -0.25, 0.25)
            self.register_buffer("known", torch.full((pairs,), _NONE))
        self.reader = reader
        self.head = nn.Linear(reader.outputs, outputs)

    def vectors(self, token: Tensor, lengths: Tensor) -> Tensor:
        """Return the vectors [B, L, E], or [B, L, 2 E] with pairs, of tokens [B, L]; the last one's pair is with 0."""
        words: Tensor = self.embedding(token)
        if self.pairs is None:
            return words
        pair = self._pair_numbers(token, lengths)
        place = torch.searchsorted(self.known, pair).clamp(max=len(self.known) - 1)
        number = torch.where(self.known[place] == pair, place + 1, 0)
        return torch.cat((words, self.pairs(number)), dim=2)

    def count_pairs(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Know the pairs that tokens [B, L] of lengths [B] have most often, and at least twice, up to `pairs`."""
        if self.pairs is None:
            return
        found = [self._pair_numbers(token, lengths)[inside(lengths, token.shape[1])] for token, lengths in batches]
        numbers, counts = torch.unique(torch.cat(found), return_counts=True)
        most = counts.sort(descending=True, stable=True).indices[: int((counts >= _FEWEST).sum())]
        kept = numbers[most[: len(self.known)]].sort().values
        self.known.fill_(_NONE)[: len(kept)] = kept.to(self.known.device)

    def _pair_numbers(self, token: Tensor, lengths: Tensor) -> Tensor:
        """Return a number for each pair of neighbours [B, L]; the last word's neighbour is 0."""
        following = F.pad(token[:, 1:], (0, 1)).masked_fill(~inside(lengths - 1, token.shape[1]), 0)
        return token * self.embedding.num_embeddings + following

    def read(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Return what was read of vectors [B, L, E] of true lengths [B]: [B, F]."""
        found: Tensor = self.reader(vectors, lengths)
        return found

    def features(self, token: Tensor, lengths: Tensor) -> Tensor:
        """Return what was read of tokens [B, L] of true lengths [B]: [B, F]."""
        return self.read(self.vectors(token, lengths), lengths)

    def forward(self, token: Tensor, lengths: Tensor) -> Tensor:
        """Return outputs [B, outputs]."""
        outputs: Tensor = self.head(self.features(token, lengths))
        return outputs


@dataclass(frozen=True, kw_only=True)
class TextCNNConfig:
    """Convolutions over word vectors and their maximum over time (Kim 2014)."""

    embedding_size: Size = 64
    """Numbers that stand for a word."""
    channels: Size = 100
    """Filters of each width."""
    widths: Annotated[tuple[Size, ...], MinLen(1)] = (3, 4, 5)
    """Words that a filter sees."""
    pairs: Buckets = 0
    """Most pairs of neighbouring words with a vector of their own; 0: none (Joulin et al. 2017)."""
    bag: bool = False
    """Classify by the sum of the vectors too, whatever their order."""


@component("text network", TextCNNConfig)
def text_cnn(config: TextCNNConfig, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the convolutional network."""
    width = config.embedding_size * (2 if config.pairs else 1)
    reader = TextCNN(width, config.channels, config.widths, bag=config.bag)
    return TextNetwork(spec.categories, outputs, config.embedding_size, reader, config.pairs)


@dataclass(frozen=True, kw_only=True)
class TextRNNConfig:
    """A recurrent network over word vectors."""

    embedding_size: Size = 64
    """Numbers that stand for a word."""
    cell: CellName = "lstm"
    """Recurrent cell."""
    cell_size: Size = 64
    """Units of each layer in each direction."""
    cell_layers: Annotated[int, Ge(1), Le(1_000)] = 1
    """Recurrent layers on top of each other."""
    bidirectional: bool = True
    """Read from both ends."""
    attention: bool = False
    """Classify by all states, weighed by attention, and not by the last ones."""
    pairs: Buckets = 0
    """Most pairs of neighbouring words with a vector of their own; 0: none (Joulin et al. 2017)."""


@component("text network", TextRNNConfig)
def text_rnn(config: TextRNNConfig, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return the recurrent network."""
    width = config.embedding_size * (2 if config.pairs else 1)
    reader = TextRNN(
        width, config.cell, config.cell_size, config.cell_layers,
        bidirectional=config.bidirectional, attention=config.attention,
    )  # fmt: skip
    return TextNetwork(spec.categories, outputs, config.embedding_size, reader, config.pairs)


TEXT_NETWORKS = Kinds(
    "text network",
    {function.__name__: Shipped(f"{__name__}:{function.__name__}") for function in (text_cnn, text_rnn)},
    own="a function marked @component('text network', Config) that returns a TextNetwork",
    default="text_cnn",
)
"""Networks from tokens to a number of outputs."""


def build_text_network(network: Component, spec: TensorSpec, outputs: int) -> TextNetwork:
    """Return the network that a config names, for tokens [B, L] of lengths [B] and outputs [B, outputs]."""
    built = network.load()(network.settings, spec, outputs)
    if not isinstance(built, TextNetwork):
        raise UserError(f"algorithm.network: {network.name} must return a TextNetwork, not {type(built).__name__}")
    return built
