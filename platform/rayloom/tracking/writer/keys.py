"""Keys of metrics, params and tags as MLflow takes them, no two of ours becoming one.

    recall@5  ->  recall_5.x4be1a9f20c        train/loss  ->  train/loss

A key that has to be changed gets a hash of what it was, so that what it becomes depends on nothing but itself: not on
which keys came before, in this process or in one that a resumed run had.
"""

from __future__ import annotations

import functools
import hashlib
import re

LONGEST_KEY = 250
_DIGITS = 10
_MARKED = re.compile(rf"\.x[0-9a-f]{{{_DIGITS}}}$")


@functools.lru_cache(4096)
def mlflow_key(key: str) -> str:
    """Return a key of letters, digits and _-. :/ without empty or dotted path parts, at most 250 characters.

    One that is such a key stays, unless it looks like one that was changed.
    """
    cleaned = re.sub(r"[^\w\-. :/]", "_", key)
    cleaned = "/".join(part if part not in ("", ".", "..") else "_" for part in cleaned.split("/"))
    if cleaned == key and len(key) <= LONGEST_KEY and not _MARKED.search(key):
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{cleaned[: LONGEST_KEY - len(digest) - 2]}.x{digest}"


def hash_of(changed: str) -> str:
    """Return the hash at the end of a key that was changed."""
    return changed[-_DIGITS:]
