"""Evaluations beside the training: the same findings at the same steps, whenever they arrive and whatever dies."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rayloom
from beside import HeldConfig, LateRole
from cases import case
from processes import history
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.folders import make_run_folder
from rayloom.runs.observer import Result
from rayloom.runs.plan import make_plan
from rayloom.runs.record import Hosting
from rayloom.runs.session import Session
from rayloom.runs.weights import checkpoint_store
from rayloom.tracking.journal import read_records

EVERY: dict[str, dict[str, Any]] = {
    "ppo": {
        "evaluate": {"every": "300 env_steps"},
        "stop": {"env_steps": 1500},
        "checkpoint": {"every": "128 env_steps"},
    },
    "mlp_dropout": {
        "evaluate": {"every": "7 updates"},
        "stop": {"updates": 40},
        "checkpoint": {"every": "10 updates"},
    },
}


def configured(name: str, output: Path, wait: bool = False, **sections: dict[str, Any]) -> RunConfig:
    evaluate = {**EVERY[name]["evaluate"], "wait": wait, **sections.pop("evaluate", {})}
    more = {"cluster": {"evaluator": "actor"}, "tracking": {"every": "1 updates"}, **EVERY[name], **sections}
    return case(name, str(output), **{**more, "evaluate": evaluate})


class Run:
    """A run in this process whose evaluator judges beside it."""

    def __init__(self, config: RunConfig, lateness: float = 1, hosting: Hosting | None = None) -> None:
        self.config, self.lateness, self.hosting = config, lateness, hosting
        self.folder = make_run_folder(config)
        self.open(resumed=False)

    def open(self, resumed: bool) -> None:
        loaded = checkpoint_store(self.config, self.folder).load_latest() if resumed else None
        self.role = LateRole(self.config, self.lateness, begins=loaded is None)
        plan = make_plan(self.config)
        self.session = Session(self.config, plan, self.role, self.folder, resumed=resumed, hosting=self.hosting)
        if loaded is not None:
            self.session.restore(loaded)

    def finish(self) -> Result:
        result = self.session.finish(self.session.train())
        self.role.close()
        return result


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """Return what gives the same run with evaluations that it waits for."""
    folder = tmp_path_factory.mktemp("waits")
    return functools.cache(lambda name: rayloom.run(configured(name, folder, wait=True), local=True))


def points(folder: Path) -> list[tuple[str, int, float]]:
    return sorted((key, step, value) for step, key, value in history(folder))


def assert_once(folder: Path) -> None:
    counted = Counter(
        (record["step"], record["updates"], key)
        for record, _ in read_records(folder)
        if record["kind"] == "metrics"
        for key in record["values"]
        if key.startswith("evaluate/")
    )
    assert counted and set(counted.values()) == {1}
    figures = Counter((r["name"], r["step"]) for r, _ in read_records(folder) if r["kind"] == "figure")
    assert not figures or set(figures.values()) == {1}


@pytest.mark.parametrize("lateness", [1, 2, 4, math.inf])
@pytest.mark.parametrize("name", ["ppo", "mlp_dropout"])
def test_findings_are_the_same_at_the_same_steps_however_late(
    name: str, lateness: float, waiting: Callable[[str], Result], tmp_path: Path
) -> None:
    expected = waiting(name)
    run = Run(configured(name, tmp_path), lateness)
    result = run.finish()
    assert result.weights_sha256 == expected.weights_sha256
    assert points(result.run_dir) == points(expected.run_dir)
    evaluated = {name: value for name, value in result.metrics.items() if name.startswith("evaluate/")}
    assert evaluated and all(expected.metrics[name] == value for name, value in evaluated.items())
    assert len(run.role.begun) == len(set(run.role.begun)) >= 4
    assert_once(result.run_dir)


def test_the_training_goes_on_meanwhile(tmp_path: Path) -> None:
    result = Run(configured("mlp_dropout", tmp_path), lateness=4).finish()
    latest, late = 0, []
    for record, _ in read_records(result.run_dir):
        if record["kind"] == "metrics":
            if any(key.startswith("evaluate/") for key in record["values"]):
                late.append(latest - record["step"])
            latest = max(latest, record["step"])
    assert late == [3, 3, 3, 3, 3, 0], "each before what the fourth step after it logs, and the last at once"


@pytest.mark.parametrize("name", ["ppo", "mlp_dropout"])
@pytest.mark.parametrize("handed_over", [1, 2, 3])
def test_a_run_that_dies_with_an_evaluation_pending_does_it_again(
    name: str, handed_over: int, waiting: Callable[[str], Result], tmp_path: Path
) -> None:
    expected = waiting(name)  # first: where it is not trained yet, its training would move torch's one generator
    run = Run(configured(name, tmp_path), lateness=math.inf)
    while True:  # until a checkpoint is saved some updates after the weights were handed over
        saved = run.session.advance().checkpointed
        if saved and len(run.role.begun) >= handed_over and run.role.begun[-1] < run.role.counters()["updates"]:
            break
    run.role.close()
    run.session.tracker._journal.close()
    run.open(resumed=True)
    kept = run.session.loop._pending
    assert kept is not None and kept.policy.number < run.role.counters()["updates"], "its weights are older"
    assert run.role.begun == [kept.policy.number]
    result = run.finish()
    assert result.weights_sha256 == expected.weights_sha256
    assert points(result.run_dir) == points(expected.run_dir)
    assert_once(result.run_dir)


def test_what_arrived_before_the_death_is_not_told_again(waiting: Callable[[str], Result], tmp_path: Path) -> None:
    expected = waiting("mlp_dropout")
    run = Run(configured("mlp_dropout", tmp_path), lateness=5)
    saved = False
    while not (saved and run.session.loop._pending is None):  # pending in the checkpoint, arrived after it
        step = run.session.advance()
        saved = saved or (step.checkpointed and run.session.loop._pending is not None)
    run.role.close()
    run.session.tracker._journal.close()
    run.open(resumed=True)
    assert run.session.loop._pending is not None
    result = run.finish()
    assert points(result.run_dir) == points(expected.run_dir)
    assert_once(result.run_dir)


def test_figures_and_files_lie_at_the_step_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    own = {"import": "beside:Held", "until": str(tmp_path / "go")}
    late = Run(configured("mlp_dropout", tmp_path, evaluate=own), lateness=3).finish()
    waits = rayloom.run(configured("mlp_dropout", tmp_path / "waits", wait=True, evaluate=own), local=True)
    for name in ("artifacts/evaluations", "figures"):
        ours, theirs = (
            {path.relative_to(run.run_dir / name): path.read_bytes() for path in (run.run_dir / name).rglob("*.txt")}
            for run in (late, waits)
        )
        assert ours == theirs
    names = [sorted(path.name for path in run.run_dir.rglob("step_*.npz")) for run in (late, waits)]
    assert names[0] == names[1] and "step_000000007.npz" in names[0]
    assert_once(late.run_dir)
    assert points(late.run_dir) == points(waits.run_dir), "the progress that the evaluation sees is that of its step"


def test_a_mistake_of_an_evaluation_ends_the_run_when_it_arrives(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    own = {"import": "beside:Held", "until": str(tmp_path / "go"), "fault": True}
    run = Run(configured("mlp_dropout", tmp_path, evaluate=own), lateness=3)
    with pytest.raises(ValueError, match="the referee has left"):
        run.session.train()
    run.role.close()


def test_a_metric_stops_a_run_at_evaluations_only_also_after_a_resume(tmp_path: Path) -> None:
    stop = {"stop": {"updates": 40, "train/loss": "<= 99"}, "checkpoint": {"every": "5 updates"}}
    expected = Run(configured("mlp_dropout", tmp_path, **stop), lateness=math.inf).finish()
    assert "evaluate/loss" in expected.metrics, "the last evaluation is awaited"
    assert expected.counters["updates"] == 7, "its loss is low enough at update 5, but nothing is judged there"
    run = Run(configured("mlp_dropout", tmp_path, **stop))
    while not run.session.advance().checkpointed:
        pass
    run.role.close()
    run.session.tracker._journal.close()
    run.open(resumed=True)
    assert run.role.counters()["updates"] == 5
    assert run.finish().counters == expected.counters


@pytest.mark.parametrize(
    ("sections", "local", "why"),
    [
        ({}, False, None),
        ({"stop": {"updates": 9, "train/loss": "<= 0.1"}}, False, None),
        ({"evaluate": {"wait": True}}, False, "evaluate.wait is true"),
        ({}, True, "there is no evaluator of its own (cluster.evaluator: actor)"),
        ({"cluster": {"evaluator": "driver"}}, False, "there is no evaluator of its own (cluster.evaluator: actor)"),
        ({"stop": {"updates": 9, "evaluate/loss": 0.1}}, False, "stop needs evaluate/loss at its own step"),
        ({"checkpoint": {"best": "evaluate/loss"}}, False, "checkpoint.best needs evaluate/loss at its own step"),
    ],
)
def test_who_must_know_at_once_waits_and_the_plan_says_so(
    sections: dict[str, Any], local: bool, why: str | None, tmp_path: Path
) -> None:
    plan = make_plan(configured("mlp_dropout", tmp_path, **sections), local)
    assert plan.waits == why
    told = "learners do not wait for evaluations" if why is None else f"learners wait for evaluations, since {why}"
    assert plan.describe().splitlines()[-1] == told


def test_a_stop_by_an_evaluation_happens_at_its_own_step(tmp_path: Path) -> None:
    stop = {"stop": {"updates": 40, "evaluate/loss": 2.2}}
    run = Run(configured("mlp_dropout", tmp_path, **stop), lateness=math.inf)
    result = run.finish()
    assert run.role.begun == []
    expected = rayloom.run(configured("mlp_dropout", tmp_path / "waits", wait=True, **stop), local=True)
    assert result.stopped_by == expected.stopped_by == "evaluate/loss <= 2.2"
    assert result.counters == expected.counters and result.counters["updates"] < 40
    assert result.weights_sha256 == expected.weights_sha256


def test_a_trial_waits_for_its_study(tmp_path: Path) -> None:
    run = Run(configured("mlp_dropout", tmp_path), lateness=math.inf, hosting=Hosting({}))
    assert run.session.advance().stopped_by is None
    while not (step := run.session.advance()).evaluated:
        pass
    assert run.role.begun == [] and "evaluate/loss" in run.session.loop.evaluated and step.evaluated
    run.role.close()


def test_an_evaluation_that_was_begun_beside_needs_an_evaluator_to_go_on(tmp_path: Path) -> None:
    run = Run(configured("mlp_dropout", tmp_path), lateness=math.inf)
    while not (run.session.advance().checkpointed and run.session.loop._pending):
        pass
    loaded = checkpoint_store(run.config, run.folder).load_latest()
    assert loaded is not None
    run.role.begin_evaluation = super(LateRole, run.role).begin_evaluation  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"cluster\.evaluator: an evaluation is to be done beside"):
        run.session.restore(loaded)
    run.role.close()


def test_the_engines_own_settings_are_checked() -> None:
    with pytest.raises(UserError, match=r"evaluate\.deadline_s: input should be greater than 0, not 0"):
        HeldConfig(until="x", deadline_s=0.0)
