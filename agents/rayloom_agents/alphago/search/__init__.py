"""Tree search over batches of games; it knows neither a game's rules nor torch."""

from __future__ import annotations

from rayloom_agents.alphago.search.batched import Infer, Search, SearchResult
from rayloom_agents.alphago.search.settings import SearchSettings

__all__ = ["Infer", "Search", "SearchResult", "SearchSettings"]
