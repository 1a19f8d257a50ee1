"""One line of advice at the end of a run in which a role was starved; none when all is well.

    what the roles spent their time on -> rules, causes before effects -> the first that applies

What helps one role may starve another, so a run gets one piece of advice at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayloom.components import Component
from rayloom.config.evaluations import EpisodesConfig
from rayloom.config.schema import RunConfig
from rayloom.timeline import Spent

SHARE = "{share}"
SHORTEST_S = 3.0
"""Runs that are shorter are over before anything can be said about them (seconds)."""
CHECKPOINT_PERCENT = 20.0
EVALUATE_PERCENT = 30.0
LOG_PERCENT = 15.0
REDUCE_PERCENT = 40.0
STARVED_PERCENT = 30.0
"""From this share of its time on a learner that waits counts as starved: what holds its workers up is looked for."""
WAIT_PERCENT = 50.0
"""From this share on, whatever its workers do, there are too few of them."""
TRANSFER_PERCENT = 40.0
INFERENCE_PERCENT = 60.0
STEP_PERCENT = 60.0
SLOW_STEP_S = 1e-3
"""A step of all environments that takes longer is worth being made in other processes (seconds)."""
IDLE_PERCENT = 70.0


@dataclass(frozen=True)
class _Case:
    """A run that is over, as the rules see it."""

    config: RunConfig
    spent: Spent

    def share(self, role: str, activity: str) -> float:
        return self.spent.share(role, activity)

    @property
    def starved(self) -> bool:
        return self.share("learner", "wait") >= STARVED_PERCENT

    @property
    def step_s(self) -> float:
        """Seconds that one step of all environments took in the learner's process."""
        stepping = self.share("learner", "step") / 100 * self.spent.seconds
        num_envs: int = self.setting("source.num_envs")
        return stepping * num_envs / max(self.spent.env_steps, 1.0)

    def setting(self, key: str) -> Any:
        """Return the value at a dotted key, which must exist."""
        value: Any = self.config
        for name in key.split("."):
            value = getattr(value.settings if isinstance(value, Component) else value, name)
        return value

    def now(self, key: str, unset: str = "") -> str:
        """Return a key with its present value, or what stands for one that is not set."""
        value = self.setting(key)
        return f"{key} (now {unset if value is None else value})"


@dataclass(frozen=True)
class Advice:
    """When to give a piece of advice, and which."""

    name: str
    applies: Callable[[_Case], bool]
    share: tuple[str, str]
    """Role and activity whose percentage the advice tells."""
    advice: Callable[[_Case], str]
    """Gives the sentence, with SHARE in the percentage's place."""


def advise(config: RunConfig, spent: Spent) -> str | None:
    """Return one line that says which role was starved and which setting to change; None when all is well."""
    if spent.seconds < SHORTEST_S:
        return None
    case = _Case(config, spent)
    for rule in RULES:
        if rule.applies(case):
            return rule.advice(case).replace(SHARE, f"{case.share(*rule.share):.0f} %")
    return None


def _evaluations_help(case: _Case) -> bool:
    """Return whether evaluations can be made fewer or shorter."""
    return case.config.evaluate.settings.every is not None or _has_episodes(case)


def _has_episodes(case: _Case) -> bool:
    return isinstance(case.config.evaluate.settings, EpisodesConfig)


def _evaluate(case: _Case) -> str:
    ways = []
    if case.config.evaluate.settings.every is not None:
        ways.append(f"raise {case.now('evaluate.every')}")
    if _has_episodes(case):
        ways.append(f"lower {case.now('evaluate.episodes')}")
    return f"evaluations took {SHARE} of the run: {' or '.join(ways)}"


def _ahead(case: _Case) -> bool:
    """Return whether learner and workers wait for each other though they could work at the same time."""
    idle = case.share("rollout", "wait") >= STARVED_PERCENT
    return case.starved and idle and hasattr(case.config.source, "in_flight")


def _turns(case: _Case) -> str:
    return (
        f"the learner waited {SHARE} of the time for rollouts, and the rollout workers "
        f"{case.share('rollout', 'wait'):.0f} % for the learner: raise {case.now('source.in_flight')}, so that they "
        f"work at the same time"
    )


def _exchange(case: _Case) -> str:
    return (
        f"the learner waited {SHARE} of the time for rollouts, and the rollout workers "
        f"{case.share('rollout', 'wait'):.0f} % for the learner, since rollouts are short for the way between them: "
        f"raise {case.now('source.num_envs')} or {case.now(_rollout_length(case))}, or lower "
        f"{case.now('source.rollout_workers')}"
    )


def _rollout_length(case: _Case) -> str:
    return "source.rollout_steps" if hasattr(case.config.source, "rollout_steps") else "source.collect_steps"


def _step(case: _Case) -> str:
    workers = case.setting("source.rollout_workers")
    if workers:  # the run was kept in one process
        way = f"run without --local, so that source.rollout_workers ({workers}) step them"
    else:
        way = f"raise {case.now('source.rollout_workers')}, so that processes of their own step them"
    return f"environments took {SHARE} of the learner's time: {way}"


def _idle(case: _Case) -> str:
    learner = case.config.learner
    ways = [] if learner.gpus else [case.now("learner.gpus")]
    ways += [] if learner.compile is True else ["learner.compile: true"]
    faster = f", or make the learner faster with {' or '.join(ways)}" if ways else ""
    return (
        f"the rollout workers were idle {SHARE} of the time, the learner is the bottleneck: lower "
        f"{case.now('source.rollout_workers')}{faster}"
    )


RULES = (
    Advice(
        "checkpoint",
        lambda case: case.share("driver", "checkpoint") >= CHECKPOINT_PERCENT,
        ("driver", "checkpoint"),
        lambda case: (
            f"checkpoints took {SHARE} of the run: raise {case.now('checkpoint.every', 'a tenth of the budget')}"
        ),
    ),
    Advice(
        "evaluate",
        lambda case: case.share("driver", "evaluate") >= EVALUATE_PERCENT and _evaluations_help(case),
        ("driver", "evaluate"),
        _evaluate,
    ),
    Advice(
        "log",
        lambda case: case.share("driver", "log") >= LOG_PERCENT,
        ("driver", "log"),
        lambda case: (
            f"logging took {SHARE} of the run: raise {case.now('tracking.every', 'a hundredth of the budget')}"
        ),
    ),
    Advice(
        "reduce",
        lambda case: case.share("learner", "reduce") >= REDUCE_PERCENT,
        ("learner", "reduce"),
        lambda case: (
            f"the learners spent {SHARE} of the time on adding up gradients and waiting for each other: lower "
            f"{case.now('learner.count')} or raise {case.now('learner.batch_size')}"
        ),
    ),
    Advice(
        "transfer",
        lambda case: case.starved and case.share("rollout", "transfer") >= TRANSFER_PERCENT,
        ("rollout", "transfer"),
        lambda case: (
            f"new weights took {SHARE} of the rollout workers' time: raise {case.now(_rollout_length(case))}, so "
            f"that they come less often"
        ),
    ),
    Advice(
        "inference",
        lambda case: case.starved and case.share("rollout", "inference") >= INFERENCE_PERCENT,
        ("rollout", "inference"),
        lambda case: (
            f"inference took {SHARE} of the rollout workers' time: raise {case.now('source.num_envs')}, so that "
            f"each call serves more environments"
        ),
    ),
    Advice("turns", _ahead, ("learner", "wait"), _turns),
    Advice(
        "exchange",
        lambda case: case.starved and case.share("rollout", "wait") >= IDLE_PERCENT,
        ("learner", "wait"),
        _exchange,
    ),
    Advice(
        "wait",
        lambda case: case.share("learner", "wait") >= WAIT_PERCENT,
        ("learner", "wait"),
        lambda case: (
            f"the learner waited {SHARE} of the time for rollouts: raise {case.now('source.rollout_workers')} or "
            f"{case.now('source.num_envs')}"
        ),
    ),
    Advice(
        "idle",
        lambda case: case.share("rollout", "wait") >= IDLE_PERCENT,
        ("rollout", "wait"),
        _idle,
    ),
    Advice(
        "local step",
        lambda case: case.share("learner", "step") >= STEP_PERCENT and case.step_s >= SLOW_STEP_S,
        ("learner", "step"),
        _step,
    ),
    Advice(
        "local inference",
        lambda case: case.share("learner", "inference") >= INFERENCE_PERCENT,
        ("learner", "inference"),
        lambda case: (
            f"inference took {SHARE} of the learner's time: raise {case.now('source.num_envs')}, so that each call "
            f"serves more environments"
        ),
    ),
)
"""Causes before effects: a learner that evaluates most of the time leaves its workers idle."""
