"""`resume RUN KEY=VALUE`: a run goes further than it was meant to, or goes on elsewhere, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import rayloom
from cases import case
from cut_runs import without_its_end
from processes import history
from rayloom.cli.main import main
from rayloom.errors import UserError
from rayloom.runs.folders import read_result
from remarks import Notes

EACH = {"checkpoint": {"every": "1 epochs"}, "tracking": {"every": "1 epochs"}}
STEPS = {part: {"every": "256 env_steps"} for part in ("checkpoint", "tracking", "evaluate")}


@pytest.mark.parametrize(
    ("name", "sections", "short", "long"),
    [
        ("softmax_regression", EACH, {"epochs": 2}, {"epochs": 4}),
        ("dqn", STEPS, {"env_steps": 512}, {"env_steps": 1024}),
    ],
)
def test_a_finished_run_goes_on_as_the_longer_run_would_have(
    name: str, sections: dict[str, dict[str, str]], short: dict[str, int], long: dict[str, int], tmp_path: Path
) -> None:
    whole = rayloom.run(case(name, str(tmp_path / "whole"), **sections, stop={**long, "updates": 10**6}), local=True)
    config = case(name, str(tmp_path), **sections, stop={**short, "updates": 10**6})
    first = rayloom.run(config, local=True)
    assert first.counters["updates"] < whole.counters["updates"]
    remarks = Notes()
    ((unit, limit),) = long.items()
    more = rayloom.resume(first.run_dir.name, f"stop.{unit}={limit}", output=str(tmp_path), observer=remarks)
    assert more.run_dir == first.run_dir
    assert (more.weights_sha256, more.counters) == (whole.weights_sha256, whole.counters)
    assert history(more.run_dir) == history(whole.run_dir)
    assert [note for note in remarks.lines if "from here on" in note] == [
        f"stop.{unit} is {float(limit)} from here on (it was {float(short[unit])})"
    ]
    recorded = yaml.safe_load((more.run_dir / "config.yaml").read_text())
    assert recorded["stop"][unit] == limit
    ended = read_result(more.run_dir)
    assert ended is not None and ended["stopped_by"] == f"{unit} >= {limit}"


def test_a_run_that_is_interrupted_again_keeps_what_was_changed(tmp_path: Path) -> None:
    config = case("softmax_regression", str(tmp_path), **EACH, stop={"epochs": 2})
    name = rayloom.run(config, local=True).run_dir.name
    more = rayloom.resume(name, "stop.epochs=5", output=str(tmp_path))
    cut = without_its_end(more, tmp_path / "cut")
    again = rayloom.resume(cut, output=str(tmp_path / "cut"))
    assert again.weights_sha256 == more.weights_sha256 and again.counters["epochs"] == 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), r"has finished \(epochs >= 2\); to go on, give it another limit than epochs >= 2, as in rayloom resume "),
        (("stop.epochs=2",), "has finished"),
        (("checkpoint.every=1 updates",), "has finished"),
        (("learner.batch_size=3",), r"^learner\.batch_size: a run that goes on keeps its settings"),
        (("source.dataset=mnist",), r"^source\.dataset: a run that goes on"),
        (("seed=4",), r"^seed: a run that goes on"),
        (("output=elsewhere",), r"^output: a run that goes on"),
        (("name=other",), r"^name: a run that goes on"),
        (("tracking.enabled=true",), r"^tracking\.enabled: a run that goes on"),
        (("stop.epoch=9",), r"^stop\.epoch"),
        (("stop.evaluate/acuracy=0.9", "stop.epochs=3"), "did you mean 'evaluate/accuracy'"),
    ],
)
def test_what_a_run_cannot_change_is_refused_and_leaves_it_as_it_was(
    words: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    config = case("softmax_regression", str(tmp_path), **EACH, stop={"epochs": 2})
    run = rayloom.run(config, local=True)
    before = {path: path.read_bytes() for path in (run.run_dir / "config.yaml", run.run_dir / "result.json")}
    with pytest.raises(UserError, match=sentence):
        rayloom.resume(run.run_dir.name, *words, output=str(tmp_path))
    assert {path: path.read_bytes() for path in before} == before


def test_a_goal_that_was_reached_can_be_raised(tmp_path: Path) -> None:
    stop = {"epochs": 30, "evaluate/accuracy": 0.3}
    first = rayloom.run(case("softmax_regression", str(tmp_path), **EACH, stop=stop), local=True)
    assert first.stopped_by == "evaluate/accuracy >= 0.3"
    with pytest.raises(UserError, match=r"another limit than evaluate/accuracy >= 0\.3"):
        rayloom.resume(first.run_dir.name, "stop.epochs=31", output=str(tmp_path))
    more = rayloom.resume(first.run_dir.name, "stop.evaluate/accuracy=0.8", output=str(tmp_path))
    assert more.stopped_by == "evaluate/accuracy >= 0.8" and more.metrics["evaluate/accuracy"] >= 0.8


def test_a_run_of_a_gpu_is_judged_and_goes_on_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = rayloom.run(case("softmax_regression", str(tmp_path), **EACH, stop={"epochs": 2}), local=True)
    here = rayloom.load(run.run_dir.name, output=str(tmp_path)).evaluate().metrics
    config = run.run_dir / "config.yaml"
    config.write_text(config.read_text().replace("device: auto", "device: cuda"))
    where = ["--output", str(tmp_path)]
    assert main(["evaluate", run.run_dir.name, *where]) == 0
    assert "this machine has none: computed on the CPU" in capsys.readouterr().err
    assert rayloom.load(run.run_dir.name, output=str(tmp_path)).evaluate().metrics == here
    assert main(["resume", run.run_dir.name, "stop.epochs=3", *where]) == 2
    assert "learner.device to cpu" in capsys.readouterr().err
    assert main(["resume", run.run_dir.name, "stop.epochs=3", "learner.device=cpu", "--json", *where]) == 0


def test_code_that_lies_elsewhere_is_told_where_to_look_for(tmp_path: Path) -> None:
    run = rayloom.run(case("softmax_regression", str(tmp_path), stop={"epochs": 1}), local=True)
    config = run.run_dir / "config.yaml"
    config.write_text(config.read_text().replace("rayloom_supervised.tasks.classification:", "somewhere_else:"))
    for use in (rayloom.load, rayloom.resume):
        with pytest.raises(UserError, match=r"there is no module 'somewhere_else'.*PYTHONPATH: go to the folder"):
            use(run.run_dir.name, output=str(tmp_path))
