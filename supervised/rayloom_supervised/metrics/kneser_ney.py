"""Counts of what follows what, smoothed by Kneser and Ney: what a language model has to be better than."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

Context = tuple[int, ...]


class KneserNey:
    """An interpolated n-gram model with one discount for each order (Kneser and Ney 1995; Chen and Goodman 1999).

    P(w|c) = (max(N(c w) - D, 0) + D T(c) P(w|c')) / N(c), where c' is c without its first token and T(c) the number of
    tokens that were seen after c. N counts occurrences in the highest order, and in those below the different tokens
    before (c w). Under the lowest order all tokens are alike. A row is preceded by order - 1 tokens `begin`.
    """

    def __init__(self, rows: Sequence[Sequence[int]], order: int, values: int, begin: int) -> None:
        """Count in rows of tokens below `values`; an order of 1 knows how often each token occurs."""
        self._order, self._values, self._begin = order, values, begin
        seen: list[set[Context]] = [set() for _ in range(order)]
        highest: dict[Context, Counter[int]] = defaultdict(Counter)
        for row in rows:
            for grams in self._grams(row):
                highest[grams[:-1]][grams[-1]] += 1
                for length in range(2, order + 1):
                    seen[length - 1].add(grams[-length:])
        self._levels = [self._followers(seen[length]) for length in range(1, order)] + [highest]
        """By the length of their context: how often, or after how many tokens, each token follows it."""
        self._totals = [{context: sum(found.values()) for context, found in level.items()} for level in self._levels]
        self._discounts = [_discount(level) for level in self._levels]

    def probability(self, token: int, before: Sequence[int]) -> float:
        """Return P(token | the order - 1 tokens `before`)."""
        found = 1.0 / self._values
        for length, (level, totals, discount) in enumerate(
            zip(self._levels, self._totals, self._discounts, strict=True)
        ):
            context = tuple(before[len(before) - length :])
            followers = level.get(context)
            if followers is None:
                return found
            found = (max(followers[token] - discount, 0.0) + discount * len(followers) * found) / totals[context]
        return found

    def nats(self, row: Sequence[int]) -> float:
        """Return -log of the probability of a whole row."""
        return -sum(math.log(self.probability(grams[-1], grams[:-1])) for grams in self._grams(row))

    def _grams(self, row: Sequence[int]) -> list[Context]:
        """Return each token of a row with the order - 1 tokens before it."""
        padded = (*[self._begin] * (self._order - 1), *row)
        return [tuple(padded[place : place + self._order]) for place in range(len(row))]

    @staticmethod
    def _followers(longer: set[Context]) -> dict[Context, Counter[int]]:
        """Return, of the grams one token longer, how many different tokens stand before each gram."""
        level: dict[Context, Counter[int]] = defaultdict(Counter)
        for grams in longer:
            level[grams[1:-1]][grams[-1]] += 1
        return level


def _discount(level: dict[Context, Counter[int]]) -> float:
    """Return D = n1 / (n1 + 2 n2), where n grams were seen once and twice (Ney, Essen and Kneser 1994)."""
    often = Counter(count for followers in level.values() for count in followers.values())
    once, twice = often[1], often[2]
    return once / (once + 2 * twice) if once else 0.5
