"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

TREES: dict[str, dict[str, Any]] = {}
