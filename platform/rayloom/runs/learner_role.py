"""The learner's role: algorithm, learner, source and evaluator of one run, in one process.

    driver's loop --advance(schedule)--> role: [ next -> update -> feedback -> publish ]* --counters--> driver

The same class runs in the driver's process and in a Ray actor. No batch leaves it.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rayloom.checkpoint.random_state import capture_random_state, restore_random_state
from rayloom.checkpoint.store import tensors_sha256
from rayloom.config.schema import RunConfig
from rayloom.config.shares import learner_share
from rayloom.config.validation import plain
from rayloom.contract import (
    Algorithm,
    Batch,
    Findings,
    GlobalNoise,
    Group,
    Input,
    Progress,
    Source,
    SourceContext,
    Spec,
    Table,
    TensorSpec,
)
from rayloom.datasets.dataset import Dataset
from rayloom.devices import choose_device
from rayloom.errors import Process, UserError
from rayloom.learner.group import SingleLearner, TimedGroup
from rayloom.learner.learner import Learner, changed_by
from rayloom.learner.state import cut_buffers, shared_state
from rayloom.memory import bounded, checked_tensors
from rayloom.rollouts.pool import LocalPool, OwnedPool
from rayloom.runs.evaluator import Evaluator
from rayloom.runs.not_finite import told
from rayloom.runs.schedule import Counters, Schedule
from rayloom.runs.starting import start_algorithm
from rayloom.seeding import derive_seed, seed_process
from rayloom.timeline import OTHER, Timeline, as_metrics

PoolFactory = Callable[[RunConfig, Algorithm, int], OwnedPool]
"""Config, algorithm and the learner's rank to the learner's rollout workers."""


@dataclass(frozen=True)
class Advance:
    """What happened in one call of `LearnerRole.advance`."""

    counters: Counters
    due: set[str]
    """Names of the schedule's intervals that have become due."""
    exhausted: str | None
    """The budget that is spent, if one is."""


@dataclass(frozen=True)
class Policy:
    """What an evaluator elsewhere judges."""

    number: int
    """The number of updates, which addresses the evaluation's seeds."""
    weights: Mapping[str, Tensor]
    """The module's whole state, on the CPU."""
    progress: Progress

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"number": self.number, "weights": dict(self.weights), "progress": asdict(self.progress)}

    @staticmethod
    def of_state(state: Mapping[str, Any]) -> Policy:
        """Return what `state_dict` was taken of."""
        return Policy(int(state["number"]), state["weights"], Progress(**state["progress"]))


def load_run_dataset(config: RunConfig) -> Dataset | None:
    """Return the run's data set; None for sources without one."""
    with bounded("source", "its data"):
        dataset: Dataset | None = config.source_class().load_data(config.source, config.seed)
    return dataset


def source_spec(config: RunConfig, dataset: Dataset | None) -> Spec:
    """Return what the algorithm will see, from the data set or as the source describes it."""
    if dataset is not None:
        return dataset.spec
    source = config.source_class()
    with bounded("source", "its spaces"):
        spec = source.describe(config.source)
    if not isinstance(spec, Mapping) or not all(isinstance(each, TensorSpec) for each in spec.values()):
        raise UserError(f"source: {source.__name__}.describe must return a TensorSpec by name, not {spec!r:.200}")
    return spec


class LearnerRole:
    """Everything of a run that learns. Used by one thread."""

    group: Group = SingleLearner()
    _totals: Counters | None = None

    def __init__(
        self,
        config: RunConfig,
        pool_factory: PoolFactory = LocalPool,
        group: Group | None = None,
        begins: bool = True,
    ) -> None:
        """Build everything; `group` holds the other learners, which need not have met before the first update.

        `begins`: whether the run starts here and not from a checkpoint that is loaded next.
        """
        self.timeline = Timeline()
        self.group = TimedGroup(group, self.timeline) if group else SingleLearner()
        torch.set_num_threads(config.learner.threads)
        # Its own copy: whoever is handed settings may change what is nested in them, and the record must stay true.
        self.config = config = copy.deepcopy(config)
        self.device = choose_device(config)
        self.dataset = self._load_dataset()
        seed_process(config.seed, "learner", 0)
        spec = source_spec(config, self.dataset)
        on_cpu = self.device.type == "cpu"  # a GPU's driver reserves addresses that are no memory
        with bounded("algorithm", "its tensors", on_cpu), checked_tensors("algorithm", "its tensors"):
            algorithm = config.algorithm_class()(config.algorithm, spec)
        self.algorithm = algorithm.to(self.device)
        if begins:
            self._initialize()
        cut_buffers(self.algorithm, self.group.rank, self.group.world_size)
        if self.group.world_size > 1:
            self.algorithm.sum_over_learners = self._sum_over_learners
            # Equal weights so far; what is random from here on is each learner's own.
            seed_process(config.seed, "learner", self.group.rank)
        self.learner = self._make_learner()
        self.evaluator = Evaluator(config, self.algorithm, self.dataset)
        self.pool, self.source = self._make_source(pool_factory)
        self.learner.attach(self.source)
        self._last_rates = (time.perf_counter(), self.counters(), 0.0)
        self.timeline.drain()

    def _load_dataset(self) -> Dataset | None:
        return load_run_dataset(self.config)

    def _make_learner(self) -> Learner:
        return Learner(self.algorithm, self.config.learner, self.group, self.config.seed)

    def _initialize(self) -> None:
        """Let the algorithm take statistics of the training data, on every learner alike."""
        data: Table | None = None if self.dataset is None else self.dataset.train
        with torch.no_grad(), bounded("algorithm", "its statistics of the data", self.device.type == "cpu"):
            self.algorithm.initialize(data)

    def _source_class(self) -> type[Source]:
        return self.config.source_class()

    def _make_source(self, pool_factory: PoolFactory) -> tuple[OwnedPool | None, Source]:
        config, group = self.config, self.group
        share, batch_size = learner_share(config, group.rank)
        # Actors that are started meanwhile would keep the limit.
        here = self.device.type == "cpu" and (config.workers() is None or pool_factory is LocalPool)
        pool = None
        if config.workers() is not None:
            with bounded("source", "its environments", here):
                pool = pool_factory(config, self.algorithm, group.rank)
        context = SourceContext(
            algorithm=self.algorithm,
            batch_size=batch_size,
            global_batch_size=config.learner.batch_size,
            seed=config.seed,
            derive_seed=partial(derive_seed, config.seed, "source"),
            device=self.device,
            group=group,
            pool=pool,
            data=self.dataset,
        )
        with bounded("source", "its buffers", here):
            return pool, self._source_class()(share, context)

    def _sum_over_learners(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        self.group.all_reduce(total)
        return total

    def counters(self) -> Counters:
        """Return updates and the source's counters, over all learners as of the last update."""
        return dict(self._totals) if self._totals is not None else self._own_counters()

    def _own_counters(self) -> Counters:
        return {"updates": self.learner.updates, **self.source.counters()}

    def _count(self) -> Counters:
        """Return the counters after an update; all learners call it."""
        own = self._own_counters()
        if self.group.world_size > 1 and self.source.counts_own:
            names = [name for name in own if name != "updates"]
            own.update(zip(names, self.group.sum_counts([own[name] for name in names]), strict=True))
            self._totals = own
        return own

    def updates_per_epoch(self) -> int | None:
        """Return the updates in one pass over the data; None for environments."""
        if self.dataset is None:
            return None
        examples = len(self.dataset.train)
        draws = sum(each.repeat for each in self.learner.declared if each.repeat > 1) or 1
        return max(1, examples // (self.config.learner.batch_size * draws))

    def samples_per_epoch(self) -> int | None:
        """Return the examples that one pass over the data delivers; None for sources without data."""
        return self.source.samples_per_epoch()

    def advance(self, schedule: Schedule, pause_s: float = math.inf, most_updates: float = math.inf) -> Advance:
        """Update until an interval becomes due, the budget is spent, `pause_s` seconds or `most_updates` have passed.

        A pause only answers the caller, who calls again: it changes nothing in the run. Several learners must pause
        after the same update, so by their number and not by their clocks.
        """
        resume_at = time.monotonic() + pause_s
        source, learner, progress = self.source, self.learner, self.algorithm.progress
        draw, feedback = self._draw, source.feedback
        before = self.counters()
        self._set_progress(progress, before, schedule)
        self.timeline.begin("learn")
        while True:
            learner.update(draw, feedback)
            after = self._count()
            self._set_progress(progress, after, schedule)
            due = schedule.due(before, after)
            exhausted = schedule.exhausted(after)
            most_updates -= 1
            if due or exhausted or most_updates <= 0 or time.monotonic() > resume_at:
                self.timeline.begin(OTHER)
                return Advance(after, due, exhausted)
            before = after

    def _draw(self) -> Batch:
        self.timeline.begin("sample")
        batch = self.source.next()
        self.timeline.begin("learn")
        return batch

    @staticmethod
    def _set_progress(progress: Progress, counters: Counters, schedule: Schedule) -> None:
        progress.updates = counters["updates"]
        progress.env_steps = counters.get("env_steps", 0)
        progress.epochs = counters.get("epochs", 0)
        progress.fraction = schedule.fraction(counters)

    def metrics(self) -> dict[str, float]:
        """Return and clear the training metrics since the last call, by full name; rates are over that time."""
        values = {f"train/{name}": value for name, value in self.learner.drain_metrics().items()}
        values.update({f"train/{name}": value for name, value in self.source.metrics().items()})
        rate = self.learner.learning_rate()
        if rate is not None:
            values["train/learning_rate"] = rate
        now, counters, waited = time.perf_counter(), self.counters(), self.source.wait_s
        before, old, waited_before = self._last_rates
        elapsed = max(now - before, 1e-9)
        for unit in ("env_steps", "samples", "updates"):
            if unit in counters:
                values[f"throughput/{unit}_per_s"] = (counters[unit] - old.get(unit, 0)) / elapsed
        values["time/wait_fraction"] = (waited - waited_before) / elapsed
        self._last_rates = (now, counters, waited)
        if self.pool is not None and self.pool.restarts:
            values["faults/rollout_restarts"] = float(self.pool.restarts)
        return {**values, **self._time_metrics()}

    def _time_metrics(self) -> dict[str, float]:
        own, workers = self.source.spent()
        if "learn" in self.timeline.read():  # not in a member of a population, which is trained from outside
            self.timeline.split("sample", own)
        return {**as_metrics("learner", self.timeline.drain()), **as_metrics("rollout", workers)}

    def evaluate(self, count: int | None = None) -> Findings:
        """Evaluate the present weights here; what is drawn meanwhile is none of the training's noise.

        `count` asks for so many episodes or games, whatever the settings say.
        """
        noise, self.algorithm.noise = self.algorithm.noise, GlobalNoise(self.device)
        try:
            return self.evaluator.evaluate(self.learner.updates, count)
        finally:
            self.algorithm.noise = noise

    def begin_evaluation(self, policy: Policy) -> None:
        """Refuse: this process trains, and has no copy of the algorithm to judge meanwhile."""
        raise UserError(
            "cluster.evaluator: an evaluation is to be done beside the training; go on with an actor, as before"
        )

    def findings(self, wait: bool) -> Findings | None:
        """Return None: nothing is judged beside the training."""
        return None

    def start_from(self, inputs: Mapping[str, Input]) -> None:
        """Take over what earlier runs have learnt; once, when the run begins."""
        start_algorithm(self.algorithm, self.config, inputs)

    def first_not_finite(self) -> tuple[int, str] | None:
        """Return in which update a loss of this learner was NaN or infinite first, or the weights are, with what is
        known of the batch; as far as `metrics` or `barrier_and_state` have looked."""
        found = self.learner.first_not_finite()
        if found is None:
            return None
        return found.update, told(found, self.source.drawn(self.learner.draws - found.draws + 1))

    def policy(self) -> Policy:
        """Return a copy of what an evaluator elsewhere judges."""
        weights = {name: value.detach().to("cpu", copy=True) for name, value in self.algorithm.state_dict().items()}
        return Policy(self.learner.updates, weights, replace(self.algorithm.progress))

    def weights_sha256(self) -> str:
        """Return the hash of all parameters and buffers that are equal on all learners."""
        return tensors_sha256(shared_state(self.algorithm))

    def parameter_counts(self) -> dict[str, int]:
        """Return how many numbers each phase trains, or each rule changes."""
        return {each.name: sum(t.numel() for t in changed_by(each)) for each in self.learner.declared}

    def data(self) -> dict[str, str]:
        """Return what identifies the run's data set, in words: name, digest, source, fields, rows; {} without one."""
        dataset, source = self.dataset, self.config.source
        if dataset is None:
            return {}
        fields = {name: [str(part.dtype), *part.shape] for name, part in dataset.spec.items()}
        rows = {split: len(getattr(dataset, split)) for split in ("train", "validation", "test")}
        named = {"source": getattr(source, "dataset", source), "fields": fields, "rows": rows}
        return {
            "name": dataset.name,
            "digest": dataset.digest,
            **{name: json.dumps(plain(value)) for name, value in named.items()},
        }

    def barrier_and_state(self) -> dict[str, Any]:
        """Bring source and workers to a barrier and return everything that a resumed run needs."""
        self.source.barrier()
        if self.pool is not None:
            self.pool.barrier()
        return {
            "learner": self.learner.state_dict(),
            "own": self.learner.own_state_dict(),
            "source": self.source.state_dict(),
            "pool": None if self.pool is None else self.pool.state_dict(),
            "random": capture_random_state(),
            "totals": self.counters(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `barrier_and_state` returned."""
        self.learner.load_state_dict(state["learner"], state["own"])
        if self.pool is not None:
            self.pool.load_state_dict(state["pool"])
        self.source.load_state_dict(state["source"])
        restore_random_state(state["random"])
        together = self.group.world_size > 1 and self.source.counts_own
        self._totals = dict(state["totals"]) if together else None
        self._last_rates = (time.perf_counter(), self.counters(), self.source.wait_s)
        self.timeline.begin(OTHER)
        self.timeline.drain()

    def events(self) -> list[str]:
        """Return and forget one line for everything that befell the rollout workers."""
        return self.pool.events() if self.pool is not None else []

    def processes(self) -> list[Process]:
        """Return the processes of the rollout workers that are actors."""
        return self.pool.processes() if self.pool is not None else []

    def can_grow(self) -> bool:
        """Return False: this process is all that there is."""
        return False

    def recover(self) -> str:
        """Never called: what befalls the learner befalls the run."""
        raise AssertionError("a learner in the driver's process cannot be lost")

    def close(self) -> None:
        """Close environments and workers."""
        self.source.close()
        if self.pool is not None:
            self.pool.close()
        self.evaluator.close()
