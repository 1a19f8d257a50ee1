"""Numbers of the tokens that are no letters, for tasks that write sequences."""

from __future__ import annotations

PADDING, BEGIN, END = 0, 1, 2
"""What fills a batch up, what stands before the first token that is written, and what ends a sequence."""
SYMBOLS = ("(padding)", "(begin)", "(end)")
"""Their names; letters follow."""
