"""Mistakes that only a run can find: exit code 2, one sentence that says what to change, and nothing left behind.

What the config alone can tell is in test_config_refusals.py, what the command line can tell in test_cli.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cases import case
from processes import write_config
from rayloom.cli.main import main

PPO, DQN, DIGITS = "ppo", "dqn", "softmax_regression"


def _refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("rayloom: ") and "\n" not in error and "Traceback" not in error, error
    return error


@pytest.mark.parametrize(
    ("name", "override", "words"),
    [
        (PPO, "source.env=CartPol-v1", ["CartPol-v1", "CartPole-v1"]),
        (PPO, "source.env=no_such_module:Env-v0", ["no_such_module"]),
        (PPO, "source.env_options={gravitas: 3}", ["gravitas"]),
        (DQN, "source.env=Pendulum-v1", ["DQN", "discrete"]),
        (PPO, "source.num_envs=5", ["source.num_envs", "source.rollout_workers"]),
        (PPO, "learner.batch_size=100000", ["learner.batch_size"]),
        (DQN, "source.capacity=10", ["source.learning_starts"]),
        (PPO, "learner.gpus=64", ["learner.gpus", "64"]),
        (PPO, "learner.device=cuda", ["GPU", "learner.device"]),
        (DIGITS, "source.dataset=digit", ["digit", "digits"]),
        (DIGITS, "source.dataset={kind: digits, sise: 3}", ["sise"]),
        (DIGITS, "learner.batch_size=5000", ["batch_size"]),
        (DIGITS, "tracking.uri=file:./mlruns", ["tracking.uri", "sqlite:///"]),
        (DIGITS, "algorithm.network=lenet6", ["algorithm.network.kind", "lenet5"]),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_run(
    name: str, override: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["source.rollout_workers=2"] if "num_envs" in override else []
    path = write_config(case(name, str(tmp_path / "out")), tmp_path)
    local = [] if options else ["--local"]
    error = _refused(["run", str(path), override, *options, *local], capsys)
    for word in words:
        assert word in error, error
    assert not list((tmp_path / "out").glob("*/config.yaml")), "a run folder was made"


def test_more_cpus_than_the_machine_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(case(PPO, str(tmp_path / "out"), source={"num_envs": 512}), tmp_path)
    error = _refused(["run", str(path), "source.rollout_workers=512"], capsys)
    assert "source.rollout_workers" in error and "512" in error


def test_an_output_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    path = write_config(case(DIGITS, str(blocked / "out")), tmp_path)
    assert "output:" in _refused(["run", str(path), "--local"], capsys)


def test_runs_that_cannot_be_found_or_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert "no runs yet" in _refused(["resume", "abcdef1234", f"--output={output}"], capsys)
    path = write_config(case(DIGITS, str(output)), tmp_path)
    assert main(["run", str(path), "--local"]) == 0
    capsys.readouterr()
    folder = next(output.glob("*/config.yaml")).parent.name
    assert "has finished" in _refused(["resume", folder, f"--output={output}"], capsys)
    assert "there is no run" in _refused(["evaluate", "abcdef1234", f"--output={output}"], capsys)
    assert "generative" in _refused(["sample", folder, f"--output={output}"], capsys)
