"""The probes' exact values, against every path through them and against playing them."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rayloom.testing.probes import (
    PROBES,
    ActionProbe,
    ContinuousProbe,
    DelayedCreditProbe,
    DiscountProbe,
    MemoryProbe,
    Probe,
    TruncationProbe,
    ValueProbe,
)

GAMMA = 0.5
DISCRETE: list[Probe] = [ValueProbe(), DiscountProbe(), ActionProbe(), DelayedCreditProbe(steps=3)]


def play(probe: Probe, actions: tuple[Any, ...], seed: int) -> list[tuple[bytes, Any, float]]:
    """Return (observation, action, reward) of every step until the episode ends."""
    observation, _ = probe.reset(seed=seed)
    steps = []
    for action in actions:
        seen = observation.tobytes()
        observation, reward, terminated, truncated, _ = probe.step(action)
        steps.append((seen, action, reward))
        if terminated or truncated:
            break
    return steps


@pytest.mark.parametrize("probe", DISCRETE, ids=lambda probe: type(probe).__name__)
def test_values_are_those_of_all_policies_tried_out(probe: Probe) -> None:
    """Every sequence of actions is played; the best discounted sum after each (observation, action) is its value."""
    best: dict[tuple[bytes, int], float] = {}
    for seed, actions in itertools.product(range(8), itertools.product((0, 1), repeat=3)):
        steps = play(probe, actions, seed)
        total = 0.0
        for seen, action, reward in reversed(steps):
            total = reward + GAMMA * total
            best[seen, action] = max(best.get((seen, action), -np.inf), total)
    seen = [row.tobytes() for row in probe.observations()]
    found = np.array([[best[row, action] for action in (0, 1)] for row in seen])
    np.testing.assert_allclose(probe.action_values(GAMMA), found)
    np.testing.assert_allclose(probe.values(GAMMA), found.max(axis=1))
    assert {row for row, _ in best} == set(seen)
    if (actions := probe.best_actions()) is not None:
        assert found.argmax(axis=1).tolist() == actions.tolist()


def test_a_cut_is_no_end() -> None:
    probe = TruncationProbe(steps=4)
    probe.reset(seed=0)
    ends = [probe.step(0)[1:4] for _ in range(4)]
    assert ends == [(1.0, False, False)] * 3 + [(1.0, False, True)]
    assert probe.values(GAMMA).tolist() == [2.0]
    assert probe.mistaken_value(GAMMA) == pytest.approx((1 + 1.5 + 1.75 + 1.875) / 4)


def test_memory_is_worth_one_and_nothing_without_it() -> None:
    probe = MemoryProbe(steps=4)
    returns: dict[str, list[float]] = {"memory": [], "always 0": [], "always 1": []}
    cues, blanks = set(), set()
    for seed in range(200):
        observation, _ = probe.reset(seed=seed)
        cue = float(observation[0])
        cues.add(cue)
        for name, choice in (("memory", int(cue > 0)), ("always 0", 0), ("always 1", 1)):
            probe.reset(seed=seed)
            steps = [probe.step(choice) for _ in range(4)]
            blanks |= {(k, step[0].tobytes()) for k, step in enumerate(steps)}
            assert [step[2] for step in steps] == [False, False, False, True]
            returns[name].append(sum(step[1] for step in steps))
    assert cues == {-1.0, 1.0} and len(blanks) == 4  # later observations tell the time and nothing else
    assert np.mean(returns["memory"]) == probe.best_return == 1.0
    assert np.mean(returns["always 0"]) == -np.mean(returns["always 1"])
    assert abs(np.mean(returns["always 0"])) < 0.25  # 3.5 standard errors around 0
    assert probe.values(GAMMA).tolist() == [0.125, 0.125]


def test_the_best_continuous_action_is_the_observation() -> None:
    probe = ContinuousProbe()
    seen = set()
    for seed in range(8):
        observation, _ = probe.reset(seed=seed)
        seen.add(float(observation[0]))
        assert probe.step(observation)[1:3] == (0.0, True)
        probe.reset(seed=seed)
        assert probe.step(observation + 0.5)[1] == pytest.approx(-0.25)
    assert sorted(seen) == probe.best_actions().ravel().tolist() == [-0.5, 0.5]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", PROBES)
def test_gymnasium_knows_the_probes(name: str) -> None:
    environment = gym.make(name)
    observation, _ = environment.reset(seed=1)
    assert environment.observation_space.contains(observation)
    ended = False
    while not ended:
        observation, _, terminated, truncated, _ = environment.step(environment.action_space.sample())
        assert environment.observation_space.contains(observation)
        ended = terminated or truncated
    rows = environment.unwrapped.observations()  # type: ignore[attr-defined]
    assert all(environment.observation_space.contains(row) for row in rows)
