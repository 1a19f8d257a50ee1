"""An algorithm that never trains, and a small config that names it, for the tests of configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayloom.config import load as config
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, AlgorithmConfig
from rayloom.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TinyConfig(AlgorithmConfig):
    """Settings of an algorithm that never trains."""

    clip: float = 0.2
    sizes: tuple[int, ...] = (64, 64)
    label: str = "none"


class Tiny(Algorithm):
    """Learns from rollouts and data sets, so it says."""

    Config = TinyConfig
    sources = frozenset({"on_policy", "dataset"})


class Replayer(Tiny):
    """Learns from replay, so it says."""

    sources = frozenset({"replay"})


TINY = f"{__name__}:Tiny"
REPLAYER = f"{__name__}:Replayer"
BASE = f"""\
algorithm: {{import: "{TINY}", clip: 0.1}}
source: {{kind: on_policy, env: CartPole-v1}}
stop: {{env_steps: 100_000, "evaluate/return_mean": 475}}
"""
Load = Callable[..., RunConfig]


def loader(folder: Path) -> Load:
    """Return a function that loads BASE with more text and overrides, or another text, from a file in `folder`."""

    def loaded(more: str = "", *overrides: str, base: str = BASE) -> RunConfig:
        path = folder / "tiny_run.yaml"
        path.write_text(base + more, encoding="utf-8")
        return config.load(str(path), overrides)

    return loaded


def refusal(load: Load, *arguments: str, **options: str) -> str:
    """Return the one sentence with which a config is refused."""
    with pytest.raises(UserError) as caught:
        load(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence
