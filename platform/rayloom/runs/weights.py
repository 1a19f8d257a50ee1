"""Which of a run's weights to use: the best that it kept, its last, or those of a step."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rayloom.checkpoint.store import CheckpointStore, Loaded
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, GlobalNoise, Progress, Spec
from rayloom.datasets.dataset import Dataset
from rayloom.devices import choose_device
from rayloom.errors import UserError
from rayloom.files import DamagedFileError
from rayloom.learner.resharding import whole_state
from rayloom.memory import bounded
from rayloom.runs.learner_role import load_run_dataset, source_spec
from rayloom.runs.objectives import read_objectives
from rayloom.runs.sameness import check_origin, check_same
from rayloom.runs.schedule import Schedule
from rayloom.tracking.journal import read_identity

Which = Literal["best", "last"] | int
"""The weights with the best metric, the newest ones, or those after so many updates."""


@dataclass(frozen=True)
class Weights:
    """The state of a run's algorithm at one of its checkpoints."""

    which: str
    """best, last, or step."""
    step: int
    """Updates that led to it."""
    metric: str | None
    """The metric by which it is the best."""
    loaded: Loaded = field(repr=False)

    @property
    def state(self) -> dict[str, Tensor]:
        """The state of the algorithm's module, on the CPU."""
        return whole_state(self.loaded.state["role"])

    def __str__(self) -> str:
        by = f" by {self.metric}" if self.metric else ""
        name = "weights" if self.which == "step" else f"{self.which} weights{by}"
        return f"{name} (update {self.step})"


def parse_which(text: str, key: str) -> Which:
    """Read best, last, or a number of updates; the sentence of the error names `key`."""
    if text == "best":
        return "best"
    if text == "last":
        return "last"
    if not text.isdecimal():
        raise UserError(f"{key}: write best, last, or the update of a checkpoint, not {text!r}")
    return int(text)


def find_weights(config: RunConfig, folder: Path, which: Which | None = None) -> Weights:
    """Return the weights of the run in `folder`; None takes the best where the run kept one, else the last.

    UserError when the run has no such checkpoint, or one of another run.
    """
    store, metric = checkpoint_store(config, folder), read_objectives(config).best
    if isinstance(which, int):
        steps = store.steps()
        if which not in steps:
            there = f"there are {', '.join(map(str, steps))}" if steps else "there is none yet"
            raise UserError(f"the run in {folder} has no checkpoint of update {which}; {there}")
        return _own(config, Weights("step", which, None, store.load_step(which)), folder)
    if which != "last" and metric is not None:
        best = store.load_best()
        if best is not None:
            return _own(config, Weights("best", best.step, metric, best), folder)
    if which == "best":
        why = f"none has a value of {metric}" if metric else "its config names no metric (checkpoint.best)"
        raise UserError(f"the run in {folder} kept no best checkpoint: {why}; use its last weights")
    last = store.load_latest()
    if last is None:
        raise UserError(f"the run in {folder} has no checkpoint yet; wait for its first one")
    return _own(config, Weights("last", last.step, None, last), folder)


def _own(config: RunConfig, weights: Weights, folder: Path) -> Weights:
    """Return weights that the run in this folder has learnt; UserError for those of another one."""
    check_same(config, weights.loaded, ("algorithm", "seed"))
    with contextlib.suppress(DamagedFileError):  # what was learnt does not depend on the journal
        check_origin(weights.loaded, read_identity(folder))
    return weights


@dataclass(frozen=True)
class TrainedAlgorithm:
    """An algorithm as a checkpoint of a run has it, in evaluation mode, without source and learner."""

    config: RunConfig
    algorithm: Algorithm
    spec: Spec
    dataset: Dataset | None
    """The run's data set; None for environments."""
    weights: Weights


def build_trained(config: RunConfig, folder: Path, which: Which | None = None, device: str = "") -> TrainedAlgorithm:
    """Build the run's algorithm with its weights, on its own device or on `device`.

    UserError for a checkpoint of another run.
    """
    weights = find_weights(config, folder, which)
    dataset = load_run_dataset(config)
    spec = source_spec(config, dataset)
    place = torch.device(device) if device else choose_device(config)
    if place.type == "cuda" and not torch.cuda.is_available():
        place, note = torch.device("cpu"), "the run learnt on a GPU and this machine has none: computed on the CPU"
        loaded = replace(weights.loaded, notes=[*weights.loaded.notes, note])
        weights = replace(weights, loaded=loaded)
    with bounded("algorithm", "its tensors", place.type == "cpu"):
        algorithm = config.algorithm_class()(config.algorithm, spec).to(place)
    algorithm.noise = GlobalNoise(place)
    algorithm.load_state_dict(weights.state)
    counters = weights.loaded.metadata["counters"]
    fraction = Schedule({}, config.budget()).fraction(counters)
    algorithm.progress = Progress(
        counters["updates"], counters.get("env_steps", 0), counters.get("epochs", 0), fraction
    )
    algorithm.eval()
    return TrainedAlgorithm(config, algorithm, spec, dataset, weights)


def checkpoint_store(config: RunConfig, folder: Path) -> CheckpointStore:
    """Return the checkpoints of a run."""
    return CheckpointStore(folder / "checkpoints", config.checkpoint.keep, read_objectives(config).mode)
