"""When something is due, and when a budget is spent."""

from __future__ import annotations

from rayloom.config.schema import Interval
from rayloom.runs.schedule import Schedule, share_of_budget


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


def test_shares_of_a_budget() -> None:
    assert share_of_budget({"env_steps": 5000}, 100, None) == Interval(50, "env_steps")
    assert share_of_budget({"updates": 5}, 100, None) == Interval(1, "updates")
    assert share_of_budget({"epochs": 3}, 10, 40) == Interval(12, "updates")


def test_within_an_epoch_the_spent_share_of_the_budget_follows_the_samples() -> None:
    schedule = Schedule({}, {"epochs": 2}, samples_per_epoch=100)
    points = [(0, 0), (0, 25), (0, 99), (1, 100), (1, 150), (2, 200)]
    shares = [schedule.fraction({"updates": 1, "epochs": epochs, "samples": samples}) for epochs, samples in points]
    assert shares == [0.0, 0.125, 0.495, 0.5, 0.75, 1.0]
    # A length that is not quite true never leaves the epoch.
    wrong = Schedule({}, {"epochs": 2}, samples_per_epoch=40)
    assert [wrong.fraction({"epochs": e, "samples": s}) for e, s in points] == [0.0, 0.3125, 0.5, 1.0, 1.0, 1.0]
    assert Schedule({}, {"epochs": 2}).fraction({"epochs": 1, "samples": 150}) == 0.5
