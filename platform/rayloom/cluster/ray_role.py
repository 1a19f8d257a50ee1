"""Roles as Ray actors.

    driver ----owns----> learner actors (or the driver itself) ----owns----> rollout actors
       \\---owns----> evaluator actor

Ownership is the supervision tree: an actor dies with its owner. Weights go through the object store once per version;
trajectories go straight from rollout actors to their learner. Every wait has the deadline `cluster.deadline_s`.
Learners that die, hang or lose each other raise LearnersLostError, after which `recover` makes a new group of as many
as the cluster has room for; the run's checkpoint then tells them where to go on.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import ray
from ray.exceptions import RayError

from rayloom.cluster.nodes.connection import live_nodes, search_path, start_ray, wait
from rayloom.cluster.nodes.packing import Node
from rayloom.cluster.nodes.placement import Placement, fit
from rayloom.cluster.nodes.processes import strike
from rayloom.cluster.role_actors import EvaluatorActor, LearnerActor, learner_deadline_s, pool_factory
from rayloom.config.schema import RunConfig
from rayloom.contract import Findings, Input
from rayloom.errors import LearnersLostError, Process, RoleDiedError, RoleTimeoutError, UserError
from rayloom.runs.learner_role import Advance, LearnerRole, Policy
from rayloom.runs.plan import Plan, make_plan
from rayloom.runs.schedule import Counters, Schedule
from rayloom.sources.resharding import reshard

_PAUSE_S = 10.0
_PLACEMENT_S = 10.0
_NODE_PAUSE_S = 1.0


class RayRole:
    """What the loop drives when any role is an actor."""

    def __init__(self, config: RunConfig, plan: Plan, resumed: bool = False, begins: bool = True) -> None:
        """Make all roles; a run that is `resumed` makes do with fewer learners and rollout workers where it must.

        `begins`: whether it starts here and not from a checkpoint.
        """
        self._started = start_ray(config)
        self._config = config
        self._present = config  # with as many learners and rollout workers as there are at the moment
        self._deadline_s = config.cluster.deadline_s
        self._learners: list[Any] = []
        self._processes: list[Process] = []
        self._local: LearnerRole | None = None
        self._evaluator: Any = None
        self._answer: Any = None  # what it will find
        self._judged: Policy | None = None
        self._tried = 0
        self._recoveries = 0
        self._begins = begins
        self._stride = 1  # updates between two answers of the learners
        self._placement: Placement | None = None
        self._events: list[str] = []
        try:
            plan = self._place(plan, resumed)
            self._make_roles(self._present, plan)
        except LearnersLostError as error:
            self.close()
            raise RuntimeError(str(error)) from error
        except BaseException:
            self.close()
            raise

    # --- making and losing roles -----------------------------------------------------------------------------------

    def _place(self, plan: Plan, resumed: bool) -> Plan:
        """Reserve what the plan needs or, for a resumed run, what there is; return the plan for that."""
        try:
            self._placement = Placement.make(plan, self._config, self._events.append)
        except UserError:
            smaller = fit(self._config, _free_nodes()) if resumed else None
            if smaller is None:
                raise
            plan = make_plan(smaller)
            self._placement = Placement.make(plan, smaller, self._events.append)
            self._present = smaller
            self._events.append(f"the cluster has room for {self._told()}")
        return plan

    def _make_roles(self, config: RunConfig, plan: Plan) -> None:
        learner = plan.role("learner")
        remote = any(role.name == "rollout" and role.place == "actor" for role in plan.roles)
        if plan.role("evaluator").place == "actor":
            self._make_evaluator(config)
        if learner.place == "driver":
            self._local = LearnerRole(config, pool_factory(remote, self._placement), begins=self._begins)
            return
        assert self._placement is not None
        self._learners = [
            ray.remote(LearnerActor)
            .options(**self._placement.options("learner", rank))
            .remote(config.to_tree(), remote, search_path(), rank, self._placement, self._begins)
            for rank in range(learner.count)
        ]
        self._processes = self._call_all("process")  # each is there, or the one that is not is named
        if learner.count > 1:
            address, port = self._call("rendezvous")
            self._call_all("connect", address, port)

    def _make_evaluator(self, config: RunConfig) -> None:
        assert self._placement is not None
        # A second thread answers while an evaluation is being done.
        actor = ray.remote(EvaluatorActor).options(max_concurrency=2, **self._placement.options("evaluator", 0))
        self._evaluator = actor.remote(config.to_tree(), search_path())

    def recover(self) -> str:
        """Make a new group of as many learners as there is room for, up to the configured number; say who they are.

        Waits at most `cluster.deadline_s` for room. The new learners stand at the start of the run.
        """
        self._close_roles()
        self._recoveries += 1
        self._begins = True  # there may have been no checkpoint yet
        deadline = time.monotonic() + self._deadline_s
        nodes = live_nodes()
        while True:
            config = fit(self._config, nodes)
            if config is not None:
                patience = min(_PLACEMENT_S, max(1.0, deadline - time.monotonic()))
                hurried = replace(config, cluster=replace(config.cluster, deadline_s=patience))
                try:
                    # Nodes that have just died may still count as alive: do not wait for them for long.
                    self._placement = Placement.make(make_plan(config), hurried, self._events.append)
                    break
                except UserError as error:
                    if time.monotonic() >= deadline:
                        raise LearnersLostError(str(error)) from error
            elif time.monotonic() >= deadline:
                raise LearnersLostError(f"the cluster has had no room for a learner for {self._deadline_s:g} s")
            time.sleep(_NODE_PAUSE_S)
            # What others use at the moment does not count any more.
            nodes = _free_nodes()
        self._present = config
        self._make_roles(config, make_plan(config))
        return self._told()

    def _told(self) -> str:
        """Return how many of the roles there are at the moment."""
        (learners, workers), (all_learners, all_workers) = _size(self._present), _size(self._config)
        rollouts = f" and {workers} of {all_workers} rollout workers" if all_workers else ""
        return f"{learners} of {all_learners} learners{rollouts}"

    def can_grow(self) -> bool:
        """Return whether there is room for learners or rollout workers that an earlier fault has cost."""
        if self._local is not None or _size(self._present) == _size(self._config):
            return False
        assert self._placement is not None
        larger = fit(self._config, self._placement.room())
        return larger is not None and _size(larger) > _size(self._present)

    def _names(self) -> list[str]:
        if self._config.learner.count == 1:
            return ["the learner"]
        return [f"learner {rank}" for rank in range(len(self._learners))]

    # --- calls -----------------------------------------------------------------------------------------------------

    def _wait(self, refs: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """Return the learners' answers; LearnersLostError when one died or is late."""
        try:
            return wait(refs, names, learner_deadline_s(self._present))
        except (RoleDiedError, RoleTimeoutError) as error:
            raise LearnersLostError(str(error)) from error

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call one learner: the driver's own, or rank 0."""
        if self._local is not None:
            return getattr(self._local, method)(*arguments)
        return self._wait([getattr(self._learners[0], method).remote(*arguments)], self._names()[:1])[0]

    def _call_all(self, method: str, *arguments: Any) -> list[Any]:
        """Call every learner at once."""
        if self._local is not None:
            return [getattr(self._local, method)(*arguments)]
        return self._wait([getattr(learner, method).remote(*arguments) for learner in self._learners], self._names())

    def counters(self) -> Counters:
        """Return the learners' counters."""
        return cast(Counters, self._call("counters"))

    def updates_per_epoch(self) -> int | None:
        """Return the updates in one pass over the data; None for environments."""
        return cast(int | None, self._call("updates_per_epoch"))

    def advance(self, schedule: Schedule, pause_s: float = math.inf) -> Advance:
        """Update until something is due. Learner actors answer every few seconds, so that a dead one is noticed.

        All pause after the same number of updates, which is chosen by the driver's clock: by clocks of their own, one
        would now and then begin an update for which the others are not there.
        """
        if self._local is not None:
            return self._local.advance(schedule, pause_s)
        resume_at = time.monotonic() + pause_s
        while True:
            started = time.monotonic()
            answers: list[Advance] = self._call_all("advance", schedule, math.inf, self._stride)
            assert all(answer == answers[0] for answer in answers), answers
            now = time.monotonic()
            if answers[0].due or answers[0].exhausted or now >= resume_at:
                return answers[0]
            pause = min(_PAUSE_S, self._deadline_s / 4, resume_at - now)
            self._stride = max(1, min(2 * self._stride, int(self._stride * pause / (now - started))))

    def samples_per_epoch(self) -> int | None:
        """Return the examples that one pass over the data delivers; None for environments."""
        return cast(int | None, self._call("samples_per_epoch"))

    def metrics(self) -> dict[str, float]:
        """Return and clear the metrics: rank 0's, with the mean of train/ and time/ and the sum of faults/ over all."""
        first, *others = self._call_all("metrics")
        for name in first:
            values = [metrics[name] for metrics in (first, *others) if name in metrics]
            if name.startswith(("train/", "time/")):
                first[name] = sum(values) / len(values)
            elif name.startswith("faults/"):
                first[name] = sum(values)
        metrics: dict[str, float] = first
        if self._recoveries:
            metrics["faults/learner_restarts"] = float(self._recoveries)
        return metrics

    def events(self) -> list[str]:
        """Return and forget one line for everything that befell the roles."""
        events, self._events = self._events, []
        return events + [line for lines in self._call_all("events") for line in lines]

    def processes(self) -> list[Process]:
        """Return the processes of all actors."""
        processes = self._processes + [process for each in self._call_all("processes") for process in each]
        if self._evaluator is not None:
            ready, _ = ray.wait([self._evaluator.process.remote()], timeout=1.0)
            with contextlib.suppress(RayError):  # one that died is replaced when it is needed
                processes += ray.get(ready)
        return processes

    def first_not_finite(self) -> tuple[int, str] | None:
        """Return the earliest update in which a loss of any learner was not finite, and what is known of it."""
        found: list[tuple[int, str] | None] = self._call_all("first_not_finite")
        return min((each for each in found if each is not None), default=None)

    def policy(self) -> Policy:
        """Return a copy of what an evaluator judges."""
        return cast(Policy, self._call("policy"))

    def evaluate(self) -> Findings:
        """Evaluate the present weights, in the evaluator's actor where there is one, and wait for it."""
        if self._evaluator is None:
            evaluation: Findings = self._call("evaluate")
            return evaluation
        self.begin_evaluation(self.policy())
        found = self.findings(wait=True)
        assert found is not None
        return found

    def begin_evaluation(self, policy: Policy) -> None:
        """Let the evaluator's actor judge these weights; ask for the `findings` before the next ones."""
        self._tried = 0
        self._hand_over(policy)

    def _hand_over(self, policy: Policy | None) -> None:
        assert policy is not None, "no evaluation has begun"
        self._judged = policy
        self._answer = self._evaluator.evaluate.remote(policy)

    def findings(self, wait: bool) -> Findings | None:
        """Return what the evaluator has found; None if it has not finished and is not to be waited for.

        An evaluator that dies is replaced, and begins anew.
        """
        while True:
            try:
                if not wait and not ray.wait([self._answer], timeout=0)[0]:
                    return None
                return self._await_findings()
            except (RoleDiedError, RoleTimeoutError) as error:
                self._tried += 1
                if self._tried == self._config.cluster.tries:
                    raise
                self._events.append(f"the evaluator was replaced: {' '.join(str(error).split())[:300]}")
            ray.kill(self._evaluator)
            self._make_evaluator(self._present)
            self._hand_over(self._judged)

    def _await_findings(self) -> Findings:
        """Wait as long as units of work are done within the deadline: an evaluation may take longer than that."""
        done = 0
        while True:
            try:
                found: Findings = wait([self._answer], ["the evaluator"], self._deadline_s)[0]
                return found
            except RoleTimeoutError:
                units = wait([self._evaluator.units.remote()], ["the evaluator"], self._deadline_s)[0]
                if units <= done:
                    raise
                done = units

    # --- state -----------------------------------------------------------------------------------------------------

    def barrier_and_state(self) -> dict[str, Any]:
        """Return the learners' whole state after a barrier: what all share once, and what each has of its own."""
        first, *others = self._call_all("barrier_and_state")
        own = [{name: value for name, value in state.items() if name != "learner"} for state in others]
        return {**first, "others": own} if own else first

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the learners, also from the state of more or fewer of them."""
        states = own_states(state)
        states = reshard(saved_config(self._config, states), self._present, states)
        if self._local is not None:
            self._local.load_state(states[0])
            return
        refs = [actor.load_state.remote(own) for actor, own in zip(self._learners, states, strict=True)]
        self._wait(refs, self._names())

    def start_from(self, inputs: Mapping[str, Input]) -> None:
        """Let all learners take over what earlier runs have learnt."""
        self._call_all("start_from", inputs)

    def weights_sha256(self) -> str:
        """Return the hash of all parameters and buffers, which must be equal on all learners."""
        hashes = self._call_all("weights_sha256")
        if len(set(hashes)) > 1:
            found = dict(zip(self._names(), hashes, strict=True))
            raise RuntimeError(f"the learners' parameters or buffers have drifted apart: {found}")
        return str(hashes[0])

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of trained parameters of each phase."""
        counts: dict[str, int] = self._call("parameter_counts")
        return counts

    def data(self) -> dict[str, str]:
        """Return what identifies the run's data set."""
        data: dict[str, str] = self._call("data")
        return data

    def _close_roles(self) -> None:
        if self._local is not None:
            self._local.close()
        for actor in (*self._learners, self._evaluator):
            if actor is not None:
                ray.kill(actor)
        for process in self._processes:
            strike(process, signal.SIGCONT)  # a process that is stopped does not hear Ray
        if self._placement is not None:
            self._placement.remove()
        self._learners, self._processes, self._evaluator, self._placement = [], [], None, None

    def close(self) -> None:
        """End all actors, and Ray if this run started it. Idempotent."""
        self._close_roles()
        if self._started and ray.is_initialized():
            ray.shutdown()
            self._started = False


def _free_nodes() -> list[Node]:
    """Return the living nodes with what nobody uses on them."""
    return [node.freed() for node in live_nodes() if node.alive]


def _size(config: RunConfig) -> tuple[int, int]:
    """Return the number of learners and that of rollout workers."""
    workers = config.workers()
    return config.learner.count, workers.rollout_workers if workers is not None else 0


def own_states(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the whole state of each learner from that of the group."""
    first = {name: value for name, value in state.items() if name != "others"}
    return [first, *({**first, **own} for own in state.get("others", []))]


def saved_config(config: RunConfig, states: Sequence[Mapping[str, Any]]) -> RunConfig:
    """Return the config with as many learners and rollout workers as the states are of."""
    saved = replace(config, learner=replace(config.learner, count=len(states)))
    workers = config.workers()
    if workers is None or not workers.rollout_workers:
        return saved
    number = sum(len(state["pool"]["workers"]) for state in states)
    return replace(saved, source=replace(workers, rollout_workers=number))


def make_ray_role(config: RunConfig, plan: Plan, resumed: bool = False, begins: bool = True) -> RayRole:
    """Return the roles of a run on Ray."""
    return RayRole(config, plan, resumed, begins)
