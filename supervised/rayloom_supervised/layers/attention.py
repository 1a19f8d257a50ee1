"""Attention: scores of keys for queries, the weighted mean of values, many heads, and hard choices.

Everywhere queries are [B, Q, q], keys [B, K, k], values [B, K, v] and masks bool [B, K] or [B, Q, K], True where a
query may look. A query that may look nowhere gets zeros.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

ScoreName = Literal["additive", "dot", "scaled_dot", "bilinear"]
"""How a key is scored for a query: additive v tanh(W k + U q), dot k q, scaled_dot k q / sqrt(d), bilinear k W q."""


def attention_weights(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the softmax of scores [B, Q, K] over the keys, 0 where the mask forbids to look."""
    if mask is None:
        return torch.softmax(scores, dim=2)
    mask = _over_queries(mask)
    # Of a row without any key the softmax would be NaN, also in its gradient.
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=2)
    return weights * mask


def attend(scores: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the means [B, Q, v] of the values under the attention weights, and the weights [B, Q, K]."""
    weights = attention_weights(scores, mask)
    return weights @ values, weights


def attend_both_ways(
    scores: Tensor, first: Tensor, second: Tensor, first_real: Tensor, second_real: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what each of `first` [B, Q, f] sees of `second` [B, K, s], [B, Q, s], and the other way, [B, K, f].

    Both ways use the same scores [B, Q, K] (Seo et al. 2017, whose second way looks with the best scores only);
    `first_real` [B, Q] and `second_real` [B, K] tell what is no padding. What is padding sees zeros.
    """
    there = attention_weights(scores, first_real[:, :, None] & second_real[:, None])
    back = attention_weights(scores.transpose(1, 2), second_real[:, :, None] & first_real[:, None])
    return there @ second, back @ first


def attend_hard(
    scores: Tensor, values: Tensor, mask: Tensor | None = None, uniform: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one value for each query [B, Q, v], which one it is [B, Q], and the log-probability [B, Q] of the choice.

    The choice follows the attention weights if `uniform` numbers [B, Q] in [0, 1) are given (the inverse of their
    cumulative sum; no gradient passes it, so that one learns through the log-probability, Xu et al. 2015). Without them
    it is the likeliest key.
    """
    weights = attention_weights(scores, mask)
    if uniform is None:
        chosen = weights.argmax(dim=2)
    else:
        cumulative = weights.detach().cumsum(dim=2)
        chosen = (cumulative <= (uniform * cumulative[:, :, -1])[:, :, None]).sum(dim=2)
        chosen = chosen.clamp(max=weights.shape[2] - 1)
    picked = values.gather(1, chosen[:, :, None].expand(-1, -1, values.shape[2]))
    probability = weights.gather(2, chosen[:, :, None]).squeeze(2)
    return picked, chosen, probability.clamp_min(torch.finfo(weights.dtype).tiny).log()


class AdditiveScore(nn.Module):
    """v tanh(W k + U q) (Bahdanau et al. 2015)."""

    def __init__(self, query_size: int, key_size: int, size: int) -> None:
        """Compare queries and keys in `size` dimensions."""
        super().__init__()
        self.query = nn.Linear(query_size, size, bias=False)
        self.key = nn.Linear(key_size, size)
        self.energy = nn.Linear(size, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the scores [B, Q, K]."""
        compared = torch.tanh(self.query(queries)[:, :, None] + self.key(keys)[:, None])
        scores: Tensor = self.energy(compared).squeeze(3)
        return scores


class DotScore(nn.Module):
    """k q, or k q / sqrt(d) (Luong et al. 2015, Vaswani et al. 2017)."""

    def __init__(self, *, scaled: bool = True) -> None:
        """Divide by the square root of the size if `scaled`."""
        super().__init__()
        self.scaled = scaled

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the scores [B, Q, K]."""
        scores = queries @ keys.transpose(1, 2)
        return scores / math.sqrt(queries.shape[2]) if self.scaled else scores


class BilinearScore(nn.Module):
    """k W q (Luong et al. 2015, "general")."""

    def __init__(self, query_size: int, key_size: int) -> None:
        """Build the matrix W."""
        super().__init__()
        self.weight = nn.Linear(query_size, key_size, bias=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the scores [B, Q, K]."""
        scores: Tensor = self.weight(queries) @ keys.transpose(1, 2)
        return scores


def make_score(name: ScoreName, query_size: int, key_size: int, size: int) -> nn.Module:
    """Return the named score; only additive and bilinear ones compare queries and keys of unequal sizes."""
    if name == "additive":
        return AdditiveScore(query_size, key_size, size)
    if name == "bilinear":
        return BilinearScore(query_size, key_size)
    if query_size != key_size:
        raise ValueError(f"a dot product needs queries and keys of one size, not {query_size} and {key_size}")
    return DotScore(scaled=name == "scaled_dot")


class MultiHeadAttention(nn.Module):
    """Several scaled dot-product attentions side by side (Vaswani et al. 2017); of its own input: self-attention."""

    def __init__(self, size: int, heads: int, key_size: int | None = None, value_size: int | None = None) -> None:
        """Build `heads` heads of size / heads dimensions; ValueError where that is no whole number."""
        super().__init__()
        if size % heads:
            raise ValueError(f"{heads} heads do not divide {size} features")
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(key_size or size, size)
        self.value = nn.Linear(value_size or size, size)
        self.output = nn.Linear(size, size)

    def forward(
        self, queries: Tensor, keys: Tensor | None = None, values: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return [B, Q, size] and the weights of each head [B, heads, Q, K].

        Keys are the queries if not given (self-attention), and values are the keys.
        """
        keys = queries if keys is None else keys
        values = keys if values is None else values
        query, key, value = (
            self._split(layer(part)) for layer, part in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[2])
        wide = None if mask is None else _over_queries(mask).repeat_interleave(self.heads, dim=0)
        context, weights = attend(scores, value, wide)
        batch, rows = queries.shape[:2]
        joined = context.view(batch, self.heads, rows, -1).transpose(1, 2).reshape(batch, rows, -1)
        return self.output(joined), weights.view(batch, self.heads, rows, -1)

    def _split(self, features: Tensor) -> Tensor:
        """Return the heads' parts [B * heads, T, size / heads] of features [B, T, size]."""
        batch, length, size = features.shape
        parts = features.view(batch, length, self.heads, size // self.heads).transpose(1, 2)
        return parts.reshape(batch * self.heads, length, size // self.heads)


def _over_queries(mask: Tensor) -> Tensor:
    return mask[:, None] if mask.ndim == 2 else mask
