"""The shipped configs on Fashion-MNIST run: 70,000 images, too many for an answer in two minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import require_fashion_mnist
from rayloom.config.load import shipped_configs
from shipped_runs import run_briefly

DEEP = {"alexnet_fashion_mnist", "inception_fashion_mnist", "resnet20_fashion_mnist"}
"""Twelve seconds each; the short suite has small ones of the same networks."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full if name in DEEP else ())
        for name in sorted(shipped_configs())
        if "fashion_mnist" in name
    ],
)
def test_a_shipped_config_runs_on_fashion_mnist(name: str, tmp_path: Path) -> None:
    require_fashion_mnist()
    run_briefly(name, tmp_path)
