"""What every algorithm must hold to, and the source, data and evaluation it is used with, without a test framework.

Each check takes a complete run's config, trains a little in this process, and raises `ConformanceError` with one
sentence. It returns why it does not apply, or None. `check_algorithm` does all of them on a small form of the config.
"""

from __future__ import annotations

import itertools
import math
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rayloom.checkpoint.random_state import capture_random_state
from rayloom.checkpoint.store import CheckpointStore
from rayloom.config.schema import RunConfig
from rayloom.contract import Batch, Loss, Phase
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.loop import make_schedule
from rayloom.seeding import seed_process
from rayloom.testing.acting import actions_fit
from rayloom.testing.datasets import data_repeat
from rayloom.testing.devices import tensors_share_a_device
from rayloom.testing.evaluations import evaluations_keep_their_word
from rayloom.testing.failures import ConformanceError, require
from rayloom.testing.networks import deployed_rows_do_not_mix, parameters_take_part
from rayloom.testing.roles import NO_PHASE, cut_noise, phase_learners, row_count, run_role
from rayloom.testing.row_noise import RowNoise
from rayloom.testing.rules import rules_add_up
from rayloom.testing.sources import batches_fit, shares_differ, sources_continue

Check = Callable[[RunConfig], str | None]

_STEPS = 60
_SHARED_ROWS = 32
_SMALL = {"rollout_workers": 0, "in_flight": 1, "num_envs": 4, "epochs": 2, "learning_starts": 64, "capacity": 96}
_SMALL_UPDATES = 24
_GAMES = 2  # or episodes, in an evaluation


def losses_fall(config: RunConfig) -> str | None:
    """Check that every phase lowers its loss on a fixed batch."""
    with run_role(config) as role:
        if not phase_learners(role):
            return NO_PHASE
        batch = role.source.next()
        for learner in phase_learners(role):
            losses = [float(learner.step(batch)[0].per_example.detach().mean()) for _ in range(_STEPS)]
            first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
            require(
                last < first,
                f"phase {learner.phase.name} does not lower its loss in {_STEPS} steps on one and the same batch: "
                f"{first:.4g} in the first ten, {last:.4g} in the last ten; check the sign of the loss, its gradient "
                "(detached?) and learner.optimizer.learning_rate",
            )
    return None


def _gradient(phase: Phase, batch: Batch, count: float | None) -> tuple[Tensor, float]:
    """Return the gradient of the batch's share of the objective, and how much its examples count for."""
    loss = phase.loss(batch)
    own = float(row_count(batch) if loss.count is None else loss.count.sum())
    weight = batch.get("weight")
    weighted = loss.per_example if weight is None else loss.per_example * weight
    gradients = torch.autograd.grad(weighted.sum() / (count or own), phase.parameters, allow_unused=True)
    flat = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(phase.parameters, gradients, strict=True)
    ]
    return torch.cat([gradient.reshape(-1) for gradient in flat]), own


def shards_add_up(config: RunConfig) -> str | None:
    """Check that the gradients of a batch's shards add up to the gradient of the whole batch."""
    with run_role(config) as role:
        if not phase_learners(role):
            return NO_PHASE
        for _ in range(5):  # away from weights that are equal at the start, of which all rows would make the same
            role.learner.update(role.source.next, role.source.feedback)
        batch = {name: value[:_SHARED_ROWS] for name, value in role.source.next().items()}
        rows = row_count(batch)
        batch.setdefault("weight", torch.linspace(0.5, 1.5, rows, device=next(iter(batch.values())).device))
        cuts = sorted({0, rows // 6, rows // 3, rows})
        shared: list[str] = []
        with RowNoise() as noise:

            def shard(index: int, start: int, end: int) -> None:
                noise.shard(start, end - start)
                cut_noise(role, start, rows, index)

            for index, phase in enumerate(learner.phase for learner in phase_learners(role)):
                shard(index, 0, rows)
                role.algorithm.sum_over_learners = partial(_noted, shared, phase.name)
                whole, count = _gradient(phase, batch, None)
                if phase.name in shared:
                    continue  # a shard by itself is none: it lacks what the others would add
                require(bool(whole.abs().max() > 0), f"phase {phase.name}: its loss has no gradient for its parameters")
                total = torch.zeros_like(whole)
                for start, end in itertools.pairwise(cuts):
                    shard(index, start, end)
                    total += _gradient(phase, {name: value[start:end] for name, value in batch.items()}, count)[0]
                error = float((total - whole).abs().max() / whole.abs().max())
                require(
                    torch.allclose(total, whole, rtol=1e-4, atol=1e-6),
                    f"phase {phase.name}: the gradients of a batch's shards add up to something else than that of the "
                    f"whole batch (they differ by {error:.2g} of the largest element), so that K learners are not one: "
                    "an example's loss must not depend on the other examples of its batch",
                )
    if shared:
        return f"the loss of {' and '.join(dict.fromkeys(shared))} itself adds up over learners (sum_over_learners)"
    return None


def _noted(callers: list[str], phase: str, tensor: Tensor) -> Tensor:
    """Note that a phase has asked for the sum over all learners, and return that of one."""
    callers.append(phase)
    return tensor


class _OnTheDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "_local_scalar_dense" in name:
            self.found.append("reads a tensor's value on the host (item, float, bool or if)")
        elif "nonzero" in name:
            self.found.append("makes a tensor whose size depends on data (nonzero or a boolean index)")
        return func(*args, **(kwargs or {}))


def losses_stay_on_the_device(config: RunConfig) -> str | None:
    """Check the form of what every phase proposes, and that it never waits for the device."""
    with run_role(config) as role:
        if not phase_learners(role):
            return NO_PHASE
        batch = role.source.next()
        for phase in (learner.phase for learner in phase_learners(role)):
            with _OnTheDevice() as watched:
                loss: Loss = phase.loss(batch)
            require(not watched.found, f"phase {phase.name}: its loss {(watched.found or [''])[0]}, which stops a GPU")
            shape = tuple(loss.per_example.shape)
            require(
                shape == (row_count(batch),),
                f"phase {phase.name}: per_example must have the shape [{row_count(batch)}], one loss for each example, "
                f"not {list(shape)}",
            )
            for name, value in loss.metrics.items():
                require(not value.requires_grad, f"phase {phase.name}: detach its metric {name!r}")
                require(
                    value.device == loss.per_example.device,
                    f"phase {phase.name}: its metric {name!r} lies on {value.device}, its loss on "
                    f"{loss.per_example.device}",
                )
    return None


@dataclass(frozen=True)
class _Trained:
    """How a run went."""

    sha256: str
    history: list[dict[str, float]]
    """Metrics that do not depend on time."""


def _finish(role: LearnerRole, evaluating: bool = True) -> _Trained:
    """Train to the end as the loop does."""
    schedule = make_schedule(role.config, role.updates_per_epoch())
    history: list[dict[str, float]] = []
    while True:
        advance = role.advance(schedule)
        if "log" in advance.due or advance.exhausted:
            history.append({name: value for name, value in role.metrics().items() if name.startswith("train/")})
        if evaluating and ("evaluate" in advance.due or advance.exhausted):
            history.append(dict(role.evaluate(_GAMES).metrics))
        if advance.exhausted:
            return _Trained(role.weights_sha256(), history)
        if "checkpoint" in advance.due:
            role.source.barrier()


def _train(config: RunConfig, evaluating: bool = True) -> _Trained:
    with run_role(config) as role:
        return _finish(role, evaluating)


def _difference(first: list[dict[str, float]], second: list[dict[str, float]]) -> str:
    """Say where two histories differ first."""
    for number, (mine, theirs) in enumerate(zip(first, second, strict=False), 1):
        for name in mine:
            if mine[name] != theirs.get(name):
                return f"{name} differs at log step {number}: {mine[name]:.9g} and {theirs.get(name, math.nan):.9g}"
    return "the weights differ"


def seeded_runs_agree(config: RunConfig) -> None:
    """Check that a seed decides everything, and that everything that is measured is finite."""
    first, again, other = (_train(replace(config, seed=seed)) for seed in (3, 3, 4))
    for number, entry in enumerate(first.history, 1):
        for name, value in entry.items():
            require(math.isfinite(value), f"{name} is {value} at log step {number}")
    require(
        (first.sha256, first.history) == (again.sha256, again.history),
        f"two runs with the same seed are not the same ({_difference(first.history, again.history)}): draw only from "
        "self.noise, torch's global generator or the generator that `act` gets, never from one that is not seeded",
    )
    # A closed form over a whole pass has the same weights in the end, but not the same batches on the way.
    require(
        first.sha256 != other.sha256 or first.history != other.history or _calculates(config),
        "runs with other seeds end with the same weights: nothing is random in it",
    )


def _calculates(config: RunConfig) -> bool:
    """Tell whether nothing need be random: rules alone over what the source gives (closed forms, planning)."""
    with run_role(config) as role:
        return config.source_class().worker is None and not any(True for _ in role.learner.algorithm.parameters())


def saved_runs_continue(config: RunConfig) -> None:
    """Check that a run that is saved, and loaded into a new role, goes on as if nothing had happened."""
    with tempfile.TemporaryDirectory() as folder, run_role(config) as role:
        schedule = make_schedule(config, role.updates_per_epoch())
        while "checkpoint" not in (advance := role.advance(schedule)).due:
            require(advance.exhausted is None, "the run ends before its first checkpoint: lower checkpoint.every")
        store = CheckpointStore(Path(folder), 1, "max")
        store.save(role.learner.updates, role.barrier_and_state())
        expected = _finish(role)
        seed_process(99, "another process")
        with run_role(config) as copy:
            loaded = store.load_latest()
            assert loaded is not None
            copy.load_state(loaded.state)
            found = _finish(copy)
            require(
                (found.sha256, found.history) == (expected.sha256, expected.history),
                "a run that goes on from its checkpoint is another run "
                f"({_difference(expected.history, found.history)}): what changes during training must be a parameter "
                "or a registered buffer, or follow from self.progress",
            )
            require(copy.counters() == role.counters(), f"counters differ: {role.counters()} and {copy.counters()}")


def _same(first: Any, second: Any) -> bool:
    """Return whether two random states, or two module states, are equal."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_same(value, second[name]) for name, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


def evaluations_change_nothing(config: RunConfig) -> None:
    """Check that an evaluation repeats itself, and leaves the weights, the generators and the training alone."""
    with run_role(config) as role:
        role.learner.update(role.source.next, role.source.feedback)
        before = {name: value.clone() for name, value in role.algorithm.state_dict().items()}
        random.random()  # Python's generator takes part
        generators, training = capture_random_state(), role.algorithm.training
        first = role.evaluate(_GAMES).metrics
        for name, value in role.algorithm.state_dict().items():
            require(torch.equal(value, before[name]), f"an evaluation changes {name!r} of the algorithm's state")
        require(
            _same(generators, capture_random_state()),
            "an evaluation draws from the global generators of the training: draw from torch inside evaluate(), whose "
            "generator is put back, and never from `random` or `numpy.random`",
        )
        require(role.algorithm.training == training, "an evaluation leaves the module in another mode (train or eval)")
        again = role.evaluate(_GAMES).metrics
        require(again == first, f"an evaluation does not repeat itself ({_difference([first], [again])})")
    with_them, without = _train(config), _train(config, evaluating=False)
    require(
        with_them.sha256 == without.sha256,
        "a run with evaluations ends with other weights than the same run without: evaluate(), figures(), summarize() "
        "and greedy acting must change nothing",
    )


def metrics_have_shared_names(config: RunConfig) -> None:
    """Check the names of metrics, and that they are finite."""
    with run_role(config) as role:
        for _ in range(3):
            role.learner.update(role.source.next, role.source.feedback)
        metrics = role.metrics()
        always = any(learner.phase.when is None and learner.phase.every == 1 for learner in phase_learners(role))
        for name in (*["train/loss"] * always, "throughput/updates_per_s", "time/wait_fraction"):
            require(name in metrics, f"the metric {name} is missing")
        for name, value in {**metrics, **(evaluated := role.evaluate(_GAMES).metrics)}.items():
            rooms = ("evaluate",) if name in evaluated else ("train", "throughput", "time")
            require(name.split("/")[0] in rooms, f"the metric {name} must begin with one of {', '.join(rooms)}")
            require(math.isfinite(value), f"the metric {name} is {value}")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        data_repeat,
        batches_fit,
        losses_stay_on_the_device,
        tensors_share_a_device,
        parameters_take_part,
        losses_fall,
        shards_add_up,
        rules_add_up,
        shares_differ,
        sources_continue,
        actions_fit,
        deployed_rows_do_not_mix,
        metrics_have_shared_names,
        evaluations_keep_their_word,
        evaluations_change_nothing,
        seeded_runs_agree,
        saved_runs_continue,
    )
}
"""All checks by name, the quick ones first."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check found."""

    name: str
    promise: str
    """What it checks, in a line."""
    failure: str | None = None
    """One sentence; None when the promise is kept."""
    skipped: str | None = None
    """Why it does not apply."""


def small(config: RunConfig) -> RunConfig:
    """Return the same run, so small that it trains in a second: fewer environments, rows and updates."""
    batch_size = min(config.learner.batch_size, 32)
    sizes = {**_SMALL, "rollout_steps": max(16, math.ceil(2 * batch_size / _SMALL["num_envs"]))}
    if config.source_class().kind == "asynchronous":  # whose batches are of trajectories, not of steps
        sizes["rollout_steps"] = 8
    present = {field.name for field in fields(config.source)}
    lowered = {name: min(getattr(config.source, name), sizes[name]) for name in sizes.keys() & present}
    return replace(
        config,
        source=replace(config.source, **lowered),
        learner=replace(config.learner, count=1, batch_size=batch_size, compile=False),
        evaluate=replace(
            config.evaluate, settings=replace(config.evaluate.settings, every=_SMALL_UPDATES // 3, wait=True)
        ),
        checkpoint=replace(config.checkpoint, every=_SMALL_UPDATES // 2),
        tracking=replace(config.tracking, every=_SMALL_UPDATES // 4, enabled=False, system_metrics=False),
        cluster=replace(config.cluster, learner="driver", evaluator="driver"),
        stop={"updates": _SMALL_UPDATES},
        search=None,
    )


def check_algorithm(config: RunConfig, observe: Callable[[CheckResult], None] | None = None) -> list[CheckResult]:
    """Do all checks on a small form of the config, in this process; `observe` sees each result at once.

    Exceptions of the algorithm itself are not caught.
    """
    config = small(config)
    results = []
    for name, check in CHECKS.items():
        promise = (check.__doc__ or "").splitlines()[0].removeprefix("Check ").removesuffix(".")
        try:
            skipped = check(config)
        except ConformanceError as error:
            result = CheckResult(name=name, promise=promise, failure=str(error))
        else:
            result = CheckResult(name=name, promise=promise, skipped=skipped)
        results.append(result)
        if observe:
            observe(result)
    return results
