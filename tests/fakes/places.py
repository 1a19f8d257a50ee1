"""Where things lie in the checkout, for tests that start processes or read files."""

from __future__ import annotations

from pathlib import Path

FAKES = Path(__file__).resolve().parent
"""The folder of what tests import besides the sources; processes that need it start here or have it on their path."""
ROOT = FAKES.parent.parent
