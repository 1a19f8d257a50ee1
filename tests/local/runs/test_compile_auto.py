"""`learner.compile: auto` from the command to the files: one decision, written down, and kept by whoever goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from rayloom.cli.main import main
from rayloom.config.load import load
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.launch.run import resume
from rayloom.launch.search import run_study
from rayloom.runs import compiling
from rayloom_agents.policy_gradient.ppo import PPO

SHORT: dict[str, Any] = {"stop": {"env_steps": 128}, "evaluate": {"every": None}}


@pytest.fixture
def _no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every decision be true, and train eagerly all the same: the compiler takes long."""
    monkeypatch.setattr(PPO, "compiles_from", classmethod(lambda cls, config: 1))
    monkeypatch.setattr(compiling, "has_compiler", lambda: True)
    from rayloom.learner import compiled
    from rayloom.learner.phase import PhaseLearner

    monkeypatch.setattr(compiled, "CompiledPhaseLearner", PhaseLearner)


def _written(folder: Path, file: str = "config.yaml") -> Any:
    return load(str(folder / file)).learner.compile


def tiny(output: Path, **sections: Any) -> RunConfig:
    return case("ppo", str(output), **{**SHORT, **sections})


def test_a_short_run_is_eager_and_says_so(tmp_path: Path) -> None:
    assert tiny(tmp_path).learner.compile == "auto"
    assert _written(rayloom.run(tiny(tmp_path), local=True).run_dir) is False


@pytest.mark.usefixtures("_no_compiling")
def test_a_run_that_goes_on_keeps_its_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = rayloom.run(tiny(tmp_path), local=True).run_dir
    assert _written(folder) is True
    monkeypatch.setattr(compiling, "has_compiler", lambda: False)
    resume(folder.name, "stop.env_steps=256", output=str(tmp_path))
    assert _written(folder) is True


@pytest.mark.usefixtures("_no_compiling")
@pytest.mark.parametrize("first", [True, False])
def test_a_job_that_starts_again_elsewhere_keeps_its_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    from rayloom.runs.loop import Loop

    monkeypatch.setattr(compiling, "has_compiler", lambda: first)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "advance", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rayloom.run(tiny(tmp_path), local=True, job="moved")
    monkeypatch.setattr(compiling, "has_compiler", lambda: not first)
    result = rayloom.run(tiny(tmp_path), local=True, job="moved")
    assert result.status == "FINISHED" and _written(result.run_dir) is first
    assert rayloom.run(tiny(tmp_path), local=True, job="moved").weights_sha256 == result.weights_sha256
    with pytest.raises(UserError, match=r"other learner\.compile"):
        rayloom.run(tiny(tmp_path), f"learner.compile={str(not first).lower()}", local=True, job="moved")


@pytest.mark.usefixtures("_no_compiling")
def test_a_study_decides_once_and_its_best_config_says_what_was_done(tmp_path: Path) -> None:
    config = replace(tiny(tmp_path), evaluate=tiny(tmp_path, evaluate={"every": "64 env_steps"}).evaluate)
    found = run_study(
        config,
        "search={trials: 2, sampler: random, metric: evaluate/return_mean, "
        "space: {algorithm.clip_range: {float: [0.1, 0.3]}, learner.compile: [auto]}}",
        "tracking.enabled=false",
        local=True,
    )
    assert found.best_config is not None
    assert load(str(found.best_config)).learner.compile is True
    assert _written(found.study_dir, "study.yaml") is True


def test_show_tells_the_decision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compiling, "has_compiler", lambda: True)
    for budget, expected in (("2_000_000", True), ("1_000", False)):
        overrides = [f"stop={{env_steps: {budget}}}", "evaluate.every=null"]
        assert main(["show", "ppo_cartpole", *overrides, "--local", "--json"]) == 0
        out = capsys.readouterr().out
        assert json.loads(out.splitlines()[-1])["config"]["learner"]["compile"] is expected
