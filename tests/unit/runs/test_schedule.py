"""When something is due, and when a run stops."""

from __future__ import annotations

import pytest

from rayloom.config.schema import Interval
from rayloom.runs.schedule import Schedule, reached, share_of_budget, smaller_is_better


def test_an_interval_is_due_at_each_multiple_once() -> None:
    schedule = Schedule(
        {"log": Interval(10, "env_steps"), "save": Interval(2, "updates"), "never": None}, {"updates": 99}
    )
    fired = []
    before = {"updates": 0, "env_steps": 0}
    for update in range(1, 7):
        after = {"updates": update, "env_steps": update * 4}  # 4, 8, 12, 16, 20, 24
        fired.append(schedule.due(before, after))
        before = after
    assert fired == [set(), {"save"}, {"log"}, {"save"}, {"log"}, {"save"}]


def test_a_jump_over_several_multiples_is_due_once() -> None:
    schedule = Schedule({"log": Interval(10, "env_steps")}, {})
    assert schedule.due({"env_steps": 5}, {"env_steps": 47}) == {"log"}
    assert schedule.due({"env_steps": 47}, {"env_steps": 49}) == set()


def test_fraction_and_budget() -> None:
    schedule = Schedule({}, {"updates": 100, "env_steps": 1000})
    assert schedule.fraction({"updates": 10, "env_steps": 500}) == 0.5
    assert schedule.fraction({"updates": 500, "env_steps": 0}) == 1.0
    assert schedule.exhausted({"updates": 99, "env_steps": 999}) is None
    assert schedule.exhausted({"updates": 3, "env_steps": 1000}) == "env_steps >= 1000"


@pytest.mark.parametrize(
    ("name", "value", "limit", "expected"),
    [
        ("evaluate/return_mean", 475.0, 475, "evaluate/return_mean >= 475"),
        ("evaluate/return_mean", 474.9, 475, None),
        ("evaluate/loss", 0.1, 0.2, "evaluate/loss <= 0.2"),
        ("evaluate/loss", 0.3, 0.2, None),
    ],
)
def test_metrics_stop_in_the_direction_in_which_they_improve(
    name: str, value: float, limit: float, expected: str | None
) -> None:
    assert reached({name: limit, "updates": 1}, {name: value}) == expected
    assert reached({name: limit}, {}) is None


def test_names_tell_the_direction() -> None:
    assert smaller_is_better("evaluate/loss") and smaller_is_better("train/critic_loss")
    assert smaller_is_better("evaluate/nll_iw50") and smaller_is_better("evaluate/error")
    assert not smaller_is_better("evaluate/accuracy") and not smaller_is_better("evaluate/return_mean")


def test_shares_of_a_budget() -> None:
    assert share_of_budget({"env_steps": 5000}, 100, None) == Interval(50, "env_steps")
    assert share_of_budget({"updates": 5}, 100, None) == Interval(1, "updates")
    assert share_of_budget({"epochs": 3}, 10, 40) == Interval(12, "updates")
