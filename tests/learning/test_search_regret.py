"""Samplers that learn find better points than random ones: simple regret on Branin and Hartmann-6."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from optuna.storages import InMemoryStorage

from rayloom.config.search import SearchConfig
from rayloom.search.ledger import Ledger
from rayloom.search.space import Space


def branin(x: Sequence[float]) -> float:
    """Return Branin's function on [-5, 10] x [0, 15] (Branin 1972)."""
    b, c = 5.1 / (4 * math.pi**2), 5 / math.pi
    return (x[1] - b * x[0] ** 2 + c * x[0] - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x[0]) + 10


WEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
SLOPES = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann6(x: Sequence[float]) -> float:
    """Return Hartmann's function of six variables on the unit cube (Dixon and Szego 1978)."""
    return -float(WEIGHTS @ np.exp(-(SLOPES * (np.asarray(x) - CENTRES) ** 2).sum(axis=1)))


BRANIN_SPACE = {"x0": {"float": [-5.0, 10.0]}, "x1": {"float": [0.0, 15.0]}}
HARTMANN_SPACE = {f"x{n}": {"float": [0.0, 1.0]} for n in range(6)}
MINIMA = {"branin": 0.39788735772973816, "hartmann6": -3.322368011415515}
FUNCTIONS: dict[str, tuple[Callable[[Sequence[float]], float], Mapping[str, Any]]] = {
    "branin": (branin, BRANIN_SPACE),
    "hartmann6": (hartmann6, HARTMANN_SPACE),
}


def test_the_minima_are_those_of_the_literature() -> None:
    for x in ((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)):
        assert branin(x) == pytest.approx(MINIMA["branin"], abs=1e-9)
    best = (0.20168952, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730054)
    assert hartmann6(best) == pytest.approx(MINIMA["hartmann6"], abs=1e-9)
    assert hartmann6([0.5] * 6) == pytest.approx(-0.5053149, abs=1e-6)


@functools.cache
def regrets(name: str, sampler: str, trials: int, seeds: int) -> list[float]:
    """Return the simple regret of each seed: how far the best of so many trials is above the minimum."""
    function, tree = FUNCTIONS[name]
    settings = SearchConfig(space=tree, sampler=sampler, trials=trials)  # type: ignore[arg-type]
    found = []
    for seed in range(seeds):
        storage = InMemoryStorage()
        ledger = Ledger(
            settings, Space.parse(tree), seed, name="r", storage=storage, directions=["minimize"], evaluations=1
        )
        for _ in range(trials):
            entry = ledger.ask()
            ledger.end(entry.number, "COMPLETE", [function([entry.assignment.values[key] for key in tree])])
        best = ledger.best()
        assert best is not None and best.values is not None
        found.append(best.values[0] - MINIMA[name])
    return found


def compare(name: str, sampler: str, trials: int, seeds: int) -> None:
    """Hold a sampler's median regret against that of random points."""
    results = {each: regrets(name, each, trials, seeds) for each in ("random", sampler)}
    lines = [
        "{} {}: median {:.4f}, quartiles {:.4f} to {:.4f}".format(
            name, each, *(np.quantile(values, q) for q in (0.5, 0.25, 0.75))
        )
        for each, values in results.items()
    ]
    message = f"{trials} trials, {seeds} seeds; " + "; ".join(lines)
    print(message)
    assert min(map(min, results.values())) > -1e-9, message
    assert np.median(results[sampler]) < np.median(results["random"]), message


@pytest.mark.parametrize("name", ["branin", "hartmann6"])
def test_tpe_beats_random(name: str) -> None:
    compare(name, "tpe", 60, 10)


@pytest.mark.parametrize("name", ["branin", "hartmann6"])
def test_gp_beats_random(name: str) -> None:
    compare(name, "gp", 30, 3)


@pytest.mark.full
@pytest.mark.parametrize("name", ["branin", "hartmann6"])
@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_model_based_samplers_beat_random(name: str, sampler: str) -> None:
    compare(name, sampler, 60, 10)
