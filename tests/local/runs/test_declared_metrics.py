"""Every metric that a shipped algorithm reports is declared, by the engine or by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayloom
from cases import TREES, case
from rayloom.checkpoint.store import CheckpointStore
from rayloom.contract import Batch, Metric
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.objectives import declaration, declared_metrics
from rayloom_supervised.tasks.classification import Classifier
from remarks import Notes

SHORT = {"ppo": {"env_steps": 256}, "dqn": {"env_steps": 300}, "impala": {"env_steps": 500}}


@pytest.mark.parametrize("name", ["ppo", "dqn", "impala", "softmax_regression", "vae", "wgan_gp"])
def test_all_that_is_reported_is_declared(name: str, tmp_path: Path) -> None:
    stop = SHORT.get(name, {"updates": 30})
    config = case(name, str(tmp_path), stop={**TREES[name]["stop"], **stop})
    role = LearnerRole(config)
    phases = tuple(role.parameter_counts())
    role.close()
    result = rayloom.run(config, local=True)
    known = declared_metrics(config, phases)
    reported = [metric for metric in result.metrics if metric.startswith(("train/", "evaluate/"))]
    assert reported
    for metric in result.metrics:
        declaration(known, metric, "test")


class Broken(Classifier):
    """Its second evaluation finds no number."""

    evaluations = 0

    def evaluate(self, batch: Batch) -> dict:
        found = super().evaluate(batch)
        type(self).evaluations += 1
        return {**found, "loss": found["loss"] * float("nan")} if self.evaluations == 2 else found


def test_an_evaluation_without_a_number_is_not_the_best_and_blocks_none_after_it(tmp_path: Path) -> None:
    Broken.evaluations = 0
    config = case(
        "softmax_regression",
        str(tmp_path),
        algorithm={"import": f"{__name__}:Broken"},
        checkpoint={"best": "evaluate/loss", "keep": 1},
        evaluate={"every": "5 updates"},
        stop={"updates": 20, "epochs": 99},
    )
    result = rayloom.run(config, local=True)
    assert Broken.evaluations == 4
    best = CheckpointStore(result.run_dir / "checkpoints", 1, "min").load_best()
    assert best is not None and best.step == 20, "a falling loss is best at the end"
    assert best.state["best"] == result.metrics["evaluate/loss"]


def test_a_metric_of_a_phase_that_does_not_exist_ends_before_a_folder_is_made(tmp_path: Path) -> None:
    config = case("wgan_gp", str(tmp_path / "runs"), checkpoint={"best": "train/critc_penalty"})
    with pytest.raises(UserError, match=r"checkpoint\.best: .* did you mean 'train/critic_penalty'"):
        rayloom.run(config, local=True)
    assert not (tmp_path / "runs").exists()


class Promising(Classifier):
    """Declares what it never returns."""

    metrics = {**Classifier.metrics, "calibration": Metric(better="max")}  # noqa: RUF012


@pytest.mark.parametrize("where", ["stop", "best"])
def test_a_declared_metric_that_never_comes_is_told_once(where: str, tmp_path: Path) -> None:
    sections = {"stop": {"epochs": 3, "evaluate/calibration": 0.9}, "best": {"epochs": 3}}
    config = case(
        "softmax_regression",
        str(tmp_path),
        algorithm={"import": f"{__name__}:Promising"},
        stop=sections[where],
        checkpoint={"best": "evaluate/calibration"} if where == "best" else {},
    )
    remarks = Notes()
    rayloom.run(config, local=True, observer=remarks)
    told = [note for note in remarks.lines if note.startswith("evaluate/calibration ")]
    assert len(told) == 1 and "nothing has returned it" in told[0]
    remarks.lines.clear()
    rayloom.run(config, "checkpoint.best=evaluate/accuracy", "stop={epochs: 1}", local=True, observer=remarks)
    assert not any("nothing has returned it" in note for note in remarks.lines)
