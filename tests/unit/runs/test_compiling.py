"""`learner.compile: auto`: decided from the budget, the algorithm and the machine, and never twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cases import case
from rayloom.config.schema import RunConfig
from rayloom.runs import compiling
from rayloom.runs.compiling import expected_updates, settled
from rayloom_agents.policy_gradient.ppo import PPO


@pytest.fixture(autouse=True)
def _a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "has_compiler", lambda: True)


class OwnPPO(PPO):
    """A loss of the user's own may be anything."""


# 4 environments, 32 steps, 2 epochs of 4 batches: 8 updates for 128 steps.
LONG = {"env_steps": 240_000}


def decided(name: str = "ppo", stop: Mapping[str, float] = LONG, **sections: Any) -> bool | str:
    return settled(replace(case(name, **sections), stop=stop)).learner.compile


@pytest.mark.parametrize(
    ("name", "stop", "updates"),
    [
        ("ppo", {"env_steps": 1280}, 80),
        ("dqn", {"env_steps": 1264}, 300),  # 64 before the first, then one in 4
        ("impala", {"env_steps": 1280}, 10),
        ("ppo", {"updates": 7, "env_steps": 1280}, 7),
        ("ppo", {"samples": 320}, 10),
        ("ppo", {"episodes": 5, "updates": 7}, None),
        ("softmax_regression", {"epochs": 3}, None),
        ("softmax_regression", {"updates": 300}, 300),
    ],
)
def test_the_updates_of_a_budget(name: str, stop: Mapping[str, float], updates: float | None) -> None:
    assert expected_updates(replace(case(name), stop=stop)) == updates


def test_a_long_budget_is_compiled_and_a_short_one_is_not() -> None:
    assert decided() is True
    assert decided(stop={"env_steps": 239_000}) is False
    assert decided("sac", stop={"updates": 9_000}) is True
    assert decided("dqn", stop={"updates": 20_000}) is True
    assert decided("dqn", stop={"updates": 19_999}) is False
    assert decided("a2c", stop={"updates": 1_000_000}) is False


@pytest.mark.parametrize(
    "sections",
    [
        {"stop": {**LONG, "evaluate/return_mean": 475}},
        {"learner": {"gpus": 1}},
        {"learner": {"device": "cuda"}},
        {"learner": {"precision": "bfloat16"}},
        {"learner": {"accumulate": 2}},
        {"learner": {"count": 2}},
        {"cluster": {"learner": "actor"}},
        {"algorithm": {"memory_size": 8}},
        {"algorithm": {"import": "test_compiling:OwnPPO"}},
    ],
    ids=lambda sections: ".".join((next(iter(sections)), *next(iter(sections.values())))),
)
def test_what_nobody_has_measured_is_not_compiled(sections: dict[str, Any]) -> None:
    assert decided(**sections) is False


def test_a_run_with_a_target_is_compiled_if_a_quarter_of_its_budget_pays() -> None:
    assert decided(stop={"env_steps": 960_000, "evaluate/return_mean": 475}) is True


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "has_compiler", lambda: False)
    assert decided() is False


@pytest.mark.parametrize("said", [True, False])
def test_what_the_config_says_is_kept(said: bool) -> None:
    assert decided(learner={"compile": said}) is said


@pytest.mark.parametrize("before", [True, False])
def test_the_first_decision_stays(before: bool) -> None:
    config: RunConfig = case("ppo", stop=LONG if not before else {"updates": 3})
    earlier = replace(config, learner=replace(config.learner, compile=before))
    assert settled(config, earlier).learner.compile is before
