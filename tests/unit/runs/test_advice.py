"""The rules of advice: golden sentences, thresholds on both sides, and keys that exist."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cases import case
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig, flatten
from rayloom.runs import advice
from rayloom.runs.advice import RULES, advise
from rayloom.timeline import Spent
from tiny_algorithm import Tiny


class Streamer(Tiny):
    """Learns from a stream of rollouts, so it says."""

    sources = frozenset({"asynchronous"})


AHEAD: dict[str, Any] = {
    "name": "ahead",
    "algorithm": {"import": f"{__name__}:Streamer"},
    "source": {"kind": "asynchronous", "env": "CartPole-v1", "rollout_workers": 2, "in_flight": 1},
    "stop": {"env_steps": 1000},
}
WORKERS = {"source": {"rollout_workers": 2}}


def spent(seconds: float = 100.0, env_steps: float = 0.0, **shares: float) -> Spent:
    """Return a run's timelines from percentages given as role_activity; `other` fills up to 100."""
    percent: dict[str, dict[str, float]] = {"learner": {}, "rollout": {}, "driver": {}}
    for name, share in shares.items():
        role, activity = name.split("_")
        percent[role][activity] = share
    for shared in percent.values():
        shared["other"] = 100.0 - sum(shared.values())
        assert shared["other"] >= 0
    return Spent(seconds, percent, env_steps)


def ahead() -> RunConfig:
    """Return a run with an asynchronous source."""
    return from_tree(AHEAD)


GOLDEN: list[tuple[str, RunConfig, Spent, str]] = [
    (
        "checkpoint",
        case("ppo"),
        spent(driver_checkpoint=20),
        "checkpoints took 20 % of the run: raise checkpoint.every (now a tenth of the budget)",
    ),
    (
        "checkpoint",
        case("ppo", checkpoint={"every": "7 updates"}),
        spent(driver_checkpoint=33.4),
        "checkpoints took 33 % of the run: raise checkpoint.every (now 7 updates)",
    ),
    (
        "evaluate",
        case("ppo"),
        spent(driver_evaluate=40),
        "evaluations took 40 % of the run: raise evaluate.every (now 256 env_steps) or lower evaluate.episodes (now 4)",
    ),
    (
        "evaluate",
        case("ppo", evaluate={"every": None}),
        spent(driver_evaluate=40),
        "evaluations took 40 % of the run: lower evaluate.episodes (now 4)",
    ),
    (
        "evaluate",
        case("softmax_regression"),
        spent(driver_evaluate=30),
        "evaluations took 30 % of the run: raise evaluate.every (now 1 epochs)",
    ),
    (
        "log",
        case("softmax_regression"),
        spent(driver_log=15),
        "logging took 15 % of the run: raise tracking.every (now a hundredth of the budget)",
    ),
    (
        "reduce",
        case("softmax_regression", learner={"count": 2}),
        spent(learner_reduce=40),
        "the learners spent 40 % of the time on adding up gradients and waiting for each other: lower learner.count "
        "(now 2) or raise learner.batch_size (now 64)",
    ),
    (
        "transfer",
        case("dqn", **WORKERS),
        spent(learner_wait=30, rollout_transfer=40),
        "new weights took 40 % of the rollout workers' time: raise source.collect_steps (now 1), so that they come "
        "less often",
    ),
    (
        "transfer",
        ahead(),
        spent(learner_wait=30, rollout_transfer=40),
        "new weights took 40 % of the rollout workers' time: raise source.rollout_steps (now 20), so that they come "
        "less often",
    ),
    (
        "inference",
        case("ppo", **WORKERS),
        spent(learner_wait=80, rollout_inference=60),
        "inference took 60 % of the rollout workers' time: raise source.num_envs (now 4), so that each call serves "
        "more environments",
    ),
    (
        "turns",
        case("dqn", **WORKERS),
        spent(learner_wait=55, rollout_wait=45),
        "the learner waited 55 % of the time for rollouts, and the rollout workers 45 % for the learner: raise "
        "source.in_flight (now 0), so that they work at the same time",
    ),
    (
        "turns",
        ahead(),
        spent(learner_wait=30, rollout_wait=30),
        "the learner waited 30 % of the time for rollouts, and the rollout workers 30 % for the learner: raise "
        "source.in_flight (now 1), so that they work at the same time",
    ),
    (
        "exchange",
        case("ppo", **WORKERS),
        spent(learner_wait=33, rollout_wait=80),
        "the learner waited 33 % of the time for rollouts, and the rollout workers 80 % for the learner, since "
        "rollouts are short for the way between them: raise source.num_envs (now 4) or source.rollout_steps (now 32), "
        "or lower source.rollout_workers (now 2)",
    ),
    (
        "wait",
        case("ppo", **WORKERS),
        spent(learner_wait=71, rollout_step=90),
        "the learner waited 71 % of the time for rollouts: raise source.rollout_workers (now 2) or source.num_envs "
        "(now 4)",
    ),
    (
        "idle",
        case("ppo", **WORKERS),
        spent(learner_learn=80, rollout_wait=80),
        "the rollout workers were idle 80 % of the time, the learner is the bottleneck: lower source.rollout_workers "
        "(now 2), or make the learner faster with learner.gpus (now 0) or learner.compile: true",
    ),
    (
        "idle",
        case("ppo", **WORKERS, learner={"compile": True, "gpus": 1}),
        spent(learner_learn=80, rollout_wait=80),
        "the rollout workers were idle 80 % of the time, the learner is the bottleneck: lower source.rollout_workers "
        "(now 2)",
    ),
    (
        "local step",
        case("ppo"),
        # 60 s of stepping for 240,000 steps of 4 environments: 1 ms for each step of all four.
        spent(learner_step=60, env_steps=240_000),
        "environments took 60 % of the learner's time: raise source.rollout_workers (now 0), so that processes of "
        "their own step them",
    ),
    (
        "local step",
        case("ppo", **WORKERS),
        spent(learner_step=60, env_steps=240_000),
        "environments took 60 % of the learner's time: run without --local, so that source.rollout_workers (2) step "
        "them",
    ),
    (
        "local inference",
        case("dqn"),
        spent(learner_inference=60),
        "inference took 60 % of the learner's time: raise source.num_envs (now 4), so that each call serves more "
        "environments",
    ),
]


@pytest.mark.parametrize(("rule", "config", "timelines", "sentence"), GOLDEN, ids=[entry[0] for entry in GOLDEN])
def test_every_rule_gives_its_sentence(rule: str, config: RunConfig, timelines: Spent, sentence: str) -> None:
    assert advise(config, timelines) == sentence


def test_every_rule_is_tried_here() -> None:
    assert [rule.name for rule in RULES] == list(dict.fromkeys(entry[0] for entry in GOLDEN))


@pytest.mark.parametrize(("rule", "config", "timelines", "sentence"), GOLDEN, ids=[entry[0] for entry in GOLDEN])
def test_advice_names_keys_that_exist(rule: str, config: RunConfig, timelines: Spent, sentence: str) -> None:
    named = re.findall(r"\b[a-z]+\.[a-z_]+\b", sentence)
    keys = {".".join(key.split(".")[:2]) for key in flatten(config.to_tree())}
    assert named and set(named) <= keys


@pytest.mark.parametrize(
    ("config", "timelines"),
    [
        (case("ppo"), spent(driver_checkpoint=19.9, driver_evaluate=29.9, driver_log=14.9)),
        (case("ppo"), spent(learner_reduce=39.9, learner_wait=0)),
        (case("ppo", **WORKERS), spent(learner_wait=49.9, rollout_wait=50.1)),  # taking turns is what PPO does
        (case("ppo", **WORKERS), spent(learner_wait=29.9, rollout_wait=69.9)),
        (case("ppo", **WORKERS), spent(learner_wait=45, rollout_wait=69.9)),
        (case("dqn", **WORKERS), spent(learner_wait=29.9, rollout_wait=60)),
        (case("dqn", **WORKERS), spent(learner_wait=45, rollout_wait=29.9, rollout_inference=59.9)),
        (case("dqn", **WORKERS), spent(learner_wait=45, rollout_transfer=39.9)),
        (case("dqn", **WORKERS), spent(learner_wait=29.9, rollout_transfer=60)),  # nobody is kept waiting
        (case("dqn", **WORKERS), spent(learner_wait=29.9, rollout_inference=80)),
        (case("ppo"), spent(learner_step=59.9, learner_wait=0)),
        (case("ppo"), spent(learner_step=90, env_steps=400_000)),  # 0.9 ms a step: cheaper here than elsewhere
        (case("ppo"), spent(learner_inference=59.9)),
        (case("softmax_regression", evaluate={"every": None}), spent(driver_evaluate=90)),  # only once, at the end
        (case("softmax_regression"), spent(learner_learn=99, driver_train=99)),
        (case("softmax_regression"), Spent(1000.0, {})),
    ],
)
def test_no_advice_where_all_is_well(config: RunConfig, timelines: Spent) -> None:
    assert advise(config, timelines) is None


def test_causes_come_before_effects() -> None:
    config = case("ppo", **WORKERS)
    idle = advise(config, spent(rollout_wait=75))
    assert idle is not None and idle.startswith("the rollout workers were idle 75 %")
    busy = advise(config, spent(rollout_wait=75, driver_evaluate=60))
    assert busy is not None and busy.startswith("evaluations took 60 %")


def test_there_is_nothing_to_say_about_a_run_of_seconds() -> None:
    shortest = advice.SHORTEST_S
    assert advise(case("ppo"), spent(shortest, driver_checkpoint=90)) is not None
    assert advise(case("ppo"), spent(shortest - 0.01, driver_checkpoint=90)) is None
