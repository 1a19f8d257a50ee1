"""A shipped config, run for three updates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import rayloom
from rayloom.config.load import load
from rayloom.errors import UserError

_ABSENT = ("pip install 'rayloom[", "npm pack")
"""What the sentence about data or a package that are not on the machine names."""


def run_briefly(name: str, tmp_path: Path) -> None:
    """Run the config and check that it has trained and measured; skip where its data are not on the machine."""
    config = load(name)
    assert config.stop, name
    steps = "source.learning_starts=64" if config.source_class().kind == "replay" else "seed=0"
    try:
        result = rayloom.run(
            name,
            "stop={updates: 3}",
            "tracking.enabled=false",
            f"output={tmp_path}",
            steps,
            "evaluate.every=null",
            local=True,
        )
    except UserError as error:
        if any(remedy in str(error) for remedy in _ABSENT):
            pytest.skip(str(error))
        raise
    assert result.counters["updates"] == 3
    assert result.metrics and all(math.isfinite(value) for value in result.metrics.values())
