"""What every role spends its time on: sums of seconds by activity, cheap enough to be always on.

    rollout worker --Rollout.seconds--> source --> learner's role --time/<role>_<activity>_percent--> loop, tracker

    role     activity    what is counted
    rollout  step        the environments' steps
             inference   the policy's choice of actions
             transfer    new weights arriving from the learner
             wait        between two rollouts: nothing was ordered, or Ray moves orders and rollouts
             other       storing transitions, restarting environments
    learner  wait        blocked until rollout workers deliver; handing them new weights is part of it
             step, inference   as above, where the environments are stepped in the learner's own process: then it has
                         nobody to wait for, its `wait` is 0, and there are no metrics of rollout workers
             sample      the rest of drawing a batch: storing, sampling, `prepare`, augmentation
             transfer    experience on its way to the learner's device, where that is not the CPU
             learn       loss, gradient, optimiser, `after_update`, priorities
             reduce      sums over all learners: the network, and the wait for slower learners
             other       outside of `advance`: the driver logs, evaluates, checkpoints, or is on its way
    driver   train       learners at work
             log, evaluate, checkpoint   as the names say
             recover     making new learners after a loss, and back to their checkpoint
             other       starting, and what a study does between two calls

The activities of a role add up to 100 % of its time since the last log step; several rollout workers or learners show
their mean. An activity that a run does not have has no metric. Seconds are those of the host: CUDA works
asynchronously, so the time of its kernels shows where the host next waits for the device: in `learn` where priorities
or a full queue wait, else in `wait` (weights leave the device) or the driver's `log` (metrics do). Waiting for a
central policy server counts as inference. A seeded run repeats everything but these numbers, and nothing in it depends
on them. Members of a population share one gradient and have no timelines of learners.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

ROLES = ("learner", "rollout", "driver")
"""Who has a timeline; also the order in which advice looks at them."""
OTHER = "other"
"""What remains when all that is measured has been taken out."""
ACTIVITIES: Mapping[str, tuple[str, ...]] = {
    "learner": ("wait", "step", "inference", "sample", "transfer", "learn", "reduce", OTHER),
    "rollout": ("step", "inference", "transfer", "wait", OTHER),
    "driver": ("train", "log", "evaluate", "checkpoint", "recover", OTHER),
}
"""What each role may be seen at."""
_PREFIX, _SUFFIX = "time/", "_percent"


class Timeline:
    """Sums of seconds by activity. One activity goes on at any time, so that they add up. Used by one thread."""

    def __init__(self, activity: str = OTHER) -> None:
        """Begin with `activity`."""
        self._activity = activity
        self._since = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def begin(self, activity: str) -> str:
        """End what went on and begin `activity`; return what went on, for those who go back to it."""
        now = time.perf_counter()
        before, seconds = self._activity, self._seconds
        seconds[before] = seconds.get(before, 0.0) + now - self._since
        self._activity, self._since = activity, now
        return before

    def split(self, whole: str, parts: Mapping[str, float]) -> None:
        """Count `parts` (seconds by activity), which were counted as `whole`, apart."""
        self._seconds[whole] = self._seconds.get(whole, 0.0) - sum(parts.values())
        for activity, seconds in parts.items():
            self._seconds[activity] = self._seconds.get(activity, 0.0) + seconds

    def read(self) -> dict[str, float]:
        """Return the seconds by activity since the last `drain`, up to now."""
        self.begin(self._activity)
        return dict(self._seconds)

    def drain(self) -> dict[str, float]:
        """Return the seconds by activity since the last call, up to now, and forget them."""
        seconds = self.read()
        self._seconds = {}
        return seconds


def add_seconds(total: dict[str, float], seconds: Mapping[str, float]) -> None:
    """Add seconds by activity to `total`."""
    for activity, spent in seconds.items():
        total[activity] = total.get(activity, 0.0) + spent


def percentages(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return each activity's share of the total (percent); nothing where only `other` was seen."""
    total = sum(seconds.values())
    if total <= 0 or seconds.keys() <= {OTHER}:
        return {}
    # `split` may take out a little more than there is: clocks are read one after the other.
    return {activity: max(0.0, 100.0 * spent / total) for activity, spent in seconds.items()}


def as_metrics(role: str, seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the percentages by full metric name."""
    return {f"{_PREFIX}{role}_{name}{_SUFFIX}": value for name, value in percentages(seconds).items()}


def names_of_metrics() -> list[str]:
    """Return the full name of every metric that a timeline may have."""
    return [f"{_PREFIX}{role}_{name}{_SUFFIX}" for role, activities in ACTIVITIES.items() for name in activities]


def is_percentage(name: str) -> bool:
    """Tell whether a metric is a share of a role's time."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


@dataclass(frozen=True)
class Spent:
    """What a whole run spent its time on, as far as this process has driven it: a resumed run starts at 0."""

    seconds: float
    """Length of the run."""
    percent: Mapping[str, Mapping[str, float]]
    """Percentages by role and activity."""
    env_steps: float = 0.0
    """Environment steps in that time."""

    def share(self, role: str, activity: str) -> float:
        """Return a role's percentage for an activity; 0 for what the run does not have."""
        return self.percent.get(role, {}).get(activity, 0.0)


class RunTimeline(Timeline):
    """The driver's timeline, and sums of what the other roles report over the whole run."""

    def __init__(self) -> None:
        super().__init__()
        self._started = self._logged = time.perf_counter()
        self._before: dict[str, float] = {}
        self._roles: dict[str, dict[str, float]] = {}
        self._env_steps = 0.0

    def log(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Take a log step's metrics of the other roles; return the driver's since the log step before."""
        seconds = self.read()
        since = {name: spent - self._before.get(name, 0.0) for name, spent in seconds.items()}
        self._before = seconds
        now = time.perf_counter()
        elapsed, self._logged = now - self._logged, now
        self._env_steps += metrics.get("throughput/env_steps_per_s", 0.0) * elapsed
        for name, percent in metrics.items():
            if is_percentage(name):
                role, _, activity = name[len(_PREFIX) : -len(_SUFFIX)].partition("_")
                add_seconds(self._roles.setdefault(role, {}), {activity: percent / 100 * elapsed})
        return as_metrics("driver", since)

    def spent(self) -> Spent:
        """Return the whole run's percentages up to now."""
        seconds = {**self._roles, "driver": self.read()}
        percent = {role: percentages(spent) for role, spent in seconds.items()}
        return Spent(time.perf_counter() - self._started, percent, self._env_steps)
