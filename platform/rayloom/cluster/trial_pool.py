"""Trials of a study as Ray actors that are used for one trial after the other.

A slot is an actor with a TrialHost: what it imports and builds once serves all its trials. A trial whose learner runs
in the actor's process has that process's CPUs and GPUs; roles of a trial that are actors themselves lie in the slot's
placement group, so that a slot never waits for resources that another slot holds.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayloom.cluster.nodes.connection import (
    check_room,
    extend_search_path,
    how_it_died,
    original,
    search_path,
    start_ray,
)
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.plan import Plan, make_plan
from rayloom.search.trials import Event, Order, PruningDecisions, RoleFactory, TrialHost

_PAUSE_S = 5.0
_START_DEADLINE_S = 120.0
_DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError, ObjectLostError)
"""What Ray says when a slot's process is gone; killed for memory, it has an exception of its own."""


class _TrialActor:
    """A TrialHost with a process of its own."""

    def __init__(self, paths: list[str], make_role: RoleFactory) -> None:
        extend_search_path(paths)
        self._host = TrialHost(make_role)

    def work(self, begin: Sequence[Order], decisions: PruningDecisions, pause_s: float) -> list[Event]:
        """Let the host work."""
        return self._host.work(begin, decisions, pause_s)


@dataclass
class _Slot:
    """One actor, and what it is asked to do at the moment."""

    group: PlacementGroup | None
    actor: Any = None
    ref: Any = None
    asked_at: float = 0.0


def _start_ray(config: RunConfig) -> bool:
    """Start Ray and keep the study's answer to SIGTERM: Ray's own would end it as if it had failed."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return start_ray(config)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def trial_resources(config: RunConfig, plan: Plan) -> list[dict[str, float]]:
    """Return what one trial needs, a bundle for each process: first the trial's own, then those of its actors."""
    learner = plan.role("learner")
    own: dict[str, float] = {}
    if learner.place == "driver":
        # Like a run's driver, a trial's process reserves no CPU for itself when others do the rollouts.
        own = {"CPU": 0.0 if plan.uses_ray else float(config.learner.threads), "GPU": learner.gpus}
    bundles = [own]
    for role in plan.roles:
        if role.place == "actor":
            bundles += [{"CPU": role.cpus, "GPU": role.gpus}] * role.count
    return [{name: amount for name, amount in bundle.items() if amount > 0} for bundle in bundles]


class RayTrialPool:
    """As many slots as were asked for and as the cluster holds."""

    def __init__(self, config: RunConfig, most: int, make_role: RoleFactory, exact: bool) -> None:
        """`most` slots at most; with `exact` that many, or a UserError."""
        plan = make_plan(config)
        self._make_role = make_role
        self._started = _start_ray(config)
        self._deadline_s = config.cluster.deadline_s + _PAUSE_S
        self._bundles = trial_resources(config, plan)
        self._slots: list[_Slot] = []
        try:
            check_room(plan.bundles(), config)
            self.slots = self._count_slots(most, exact)
            self._slots = [_Slot(self._make_group()) for _ in range(self.slots)]
            for slot in self._slots:
                self._start_actor(slot)
        except BaseException:
            self.close()
            raise

    def _count_slots(self, most: int, exact: bool) -> int:
        have = ray.cluster_resources()
        fits = most
        for name in ("CPU", "GPU"):
            each = sum(bundle.get(name, 0.0) for bundle in self._bundles)
            if each > 0:
                # Fractions like 0.1 do not add up exactly.
                fits = min(fits, int(have.get(name, 0.0) / each + 1e-6))
        if fits < 1 or (exact and fits < most):
            needs = ", ".join(f"{sum(b.get(n, 0.0) for b in self._bundles):g} {n}s" for n in ("CPU", "GPU"))
            key = "search.parallel" if fits >= 1 else "learner"
            cluster = f"{have.get('CPU', 0.0):g} CPUs and {have.get('GPU', 0.0):g} GPUs"
            raise UserError(
                f"{key}: each trial needs {needs} and the cluster has {cluster}, which is enough for {fits} trials at "
                f"once, not {most if exact else 1}; ask for less"
            )
        return fits

    def _make_group(self) -> PlacementGroup | None:
        bundles = [bundle for bundle in self._bundles if bundle]
        if len(self._bundles) == 1:
            return None
        group = placement_group(bundles, strategy="PACK")
        if not group.wait(_START_DEADLINE_S):
            remove_placement_group(group)
            raise UserError(
                f"search.parallel: the cluster's nodes have no room for one more trial of {bundles} within "
                f"{_START_DEADLINE_S:g} s; run fewer trials at once"
            )
        return group

    def _start_actor(self, slot: _Slot) -> None:
        own = self._bundles[0]
        options: dict[str, Any] = {"num_cpus": own.get("CPU", 0.0), "num_gpus": own.get("GPU", 0.0), "max_restarts": 0}
        if slot.group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                slot.group, placement_group_capture_child_tasks=True
            )
        slot.actor = ray.remote(_TrialActor).options(**options).remote(search_path(), self._make_role)

    def submit(self, slot: int, begin: Sequence[Order], decisions: PruningDecisions) -> None:
        """Let an idle slot begin trials, and judge those that wait there."""
        asked = self._slots[slot]
        assert asked.ref is None
        self._ask(asked, begin, decisions)

    def _ask(self, slot: _Slot, begin: Sequence[Order], decisions: PruningDecisions) -> None:
        slot.ref = slot.actor.work.remote(list(begin), dict(decisions), _PAUSE_S)
        slot.asked_at = time.monotonic()

    def wait(self, timeout_s: float) -> list[tuple[int, list[Event] | str]]:
        """Return the answers that have come within `timeout_s` seconds, the first of them at once."""
        refs = {slot.ref: index for index, slot in enumerate(self._slots) if slot.ref is not None}
        if not refs:
            return []
        ready, late = ray.wait(list(refs), num_returns=1, timeout=timeout_s)
        answers = [(refs[ref], self._receive(self._slots[refs[ref]])) for ref in ready]
        now = time.monotonic()
        for ref in late:
            slot = self._slots[refs[ref]]
            if now - slot.asked_at > self._deadline_s:
                answers.append((refs[ref], self._replace(slot, f"no answer within {self._deadline_s:g} s")))
        return answers

    def _receive(self, slot: _Slot) -> list[Event] | str:
        ref, slot.ref = slot.ref, None
        try:
            events: list[Event] = ray.get(ref)
        except RayTaskError as error:
            raise original(error) from None
        except _DEATHS as error:
            return self._replace(slot, f"its process died: {how_it_died(error)}")
        return events

    def _replace(self, slot: _Slot, reason: str) -> str:
        ray.kill(slot.actor)
        slot.ref = None
        self._start_actor(slot)
        return reason

    def close(self, decisions: PruningDecisions | None = None) -> None:
        """End the actors, and Ray if this study started it: the driver records what became of trials. Idempotent."""
        for slot in self._slots:
            if slot.actor is not None:
                ray.kill(slot.actor)
            if slot.group is not None:
                remove_placement_group(slot.group)
        self._slots = []
        if self._started and ray.is_initialized():
            ray.shutdown()
            self._started = False
