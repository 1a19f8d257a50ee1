"""A whole run as its user sees it: in one process, on Ray, when it fails and when it is stopped."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import rayloom
from cases import case
from processes import history, kill_after, run_folder, start, write_config
from rayloom.errors import UserError
from rayloom.runs.folders import read_result

_BROKEN = """
import gymnasium, numpy as np
from dataclasses import dataclass
from rayloom_agents.policy_gradient.ppo import PPO

class BrokenLoss(PPO):
    def loss(self, batch):
        raise ZeroDivisionError("the line of the user")  # marked line

class Stopping(PPO):
    def loss(self, batch):
        breakpoint()
        return super().loss(batch)

class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    def __init__(self, fault="raise", after=50):
        self.fault, self.after, self.count = fault, after, 0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.count += 1
        observation, reward = np.zeros(2, np.float32), 1.0
        if self.count >= self.after:
            if self.fault == "raise":
                raise RuntimeError("the pole is on fire")  # environment line
            if self.fault == "nan":
                reward = float("nan")
            if self.fault == "breakpoint":
                breakpoint()
            if self.fault == "outside":
                observation = np.full(2, 7, np.float32)
        return observation, reward, self.count % 10 == 0, False, {}

gymnasium.register("Broken-v0", entry_point=Broken)
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "broken_parts.py").write_text(textwrap.dedent(_BROKEN))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_parts", raising=False)  # another test's file of the same name
    return tmp_path


def test_a_run_returns_what_it_did(tmp_path: Path) -> None:
    config = case("softmax_regression", str(tmp_path), tracking={"every": "50 updates"})
    result = rayloom.run(config)
    assert result.status == "FINISHED" and result.stopped_by == "epochs >= 3"
    assert result.counters["epochs"] == 3 and result.counters["updates"] == 3 * (1197 // 64)
    assert result.metrics["evaluate/accuracy"] > 0.5
    assert len(result.weights_sha256) == 64
    assert read_result(result.run_dir)["weights_sha256"] == result.weights_sha256  # type: ignore[index]
    points = history(result.run_dir)
    assert ("evaluate/accuracy", result.metrics["evaluate/accuracy"]) in [(k, v) for _, k, v in points]
    steps = [step for step, key, _ in points if key == "train/loss"]
    assert steps == sorted(set(steps)), "one point per step"
    assert steps[-1] == result.counters["updates"], "the last steps are logged although no interval ends there"


def test_a_metric_ends_a_run_and_its_best_checkpoint_is_kept(tmp_path: Path) -> None:
    stop = {"epochs": 50, "evaluate/accuracy": 0.8}
    result = rayloom.run(case("softmax_regression", str(tmp_path), stop=stop, learner={"batch_size": 16}))
    assert result.stopped_by == "evaluate/accuracy >= 0.8"
    assert result.counters["epochs"] < 50


def test_overrides_and_trees_work_from_python(tmp_path: Path) -> None:
    tree = case("softmax_regression", str(tmp_path)).to_tree()
    result = rayloom.run(tree, "stop.epochs=1", "seed=5", local=True)
    assert result.counters["epochs"] == 1


@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("one_node")
@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_one_rollout_actor_gives_the_bits_of_one_process(name: str, tmp_path: Path) -> None:
    local = rayloom.run(case(name, str(tmp_path / "local")))
    remote = rayloom.run(case(name, str(tmp_path / "ray"), source={"rollout_workers": 1}))
    assert remote.weights_sha256 == local.weights_sha256
    assert history(remote.run_dir) == history(local.run_dir)


@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("one_node")
def test_every_role_can_be_an_actor(tmp_path: Path) -> None:
    local = rayloom.run(case("ppo", str(tmp_path / "local")))
    cluster = {"learner": "actor", "evaluator": "actor"}
    one = rayloom.run(case("ppo", str(tmp_path / "roles"), cluster=cluster))
    assert one.weights_sha256 == local.weights_sha256
    assert history(one.run_dir) == history(local.run_dir)
    data = rayloom.run(case("vae", str(tmp_path / "vae"), cluster=cluster))
    assert data.weights_sha256 == rayloom.run(case("vae", str(tmp_path / "vae-local"))).weights_sha256


@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("one_node")
def test_two_rollout_actors_share_the_environments(tmp_path: Path) -> None:
    workers = {"rollout_workers": 2, "worker_cpus": 0.5}
    first = rayloom.run(case("ppo", str(tmp_path / "1"), source=workers))
    second = rayloom.run(case("ppo", str(tmp_path / "2"), source=workers))
    assert first.counters["env_steps"] >= 1024
    assert first.weights_sha256 == second.weights_sha256, "waiting for all workers in order is deterministic"


@pytest.mark.xdist_group("ray")
def test_local_puts_everything_into_one_process(tmp_path: Path) -> None:
    config = case("ppo", str(tmp_path), source={"rollout_workers": 2})
    path = write_config(config, tmp_path)
    program = (
        "import sys, rayloom\n"
        f"result = rayloom.run({str(path)!r}, local=True)\n"
        "heavy = ('ray', 'mlflow', 'optuna', 'matplotlib', 'torch._dynamo', 'sympy')\n"
        "loaded = [name for name in heavy if name in sys.modules]\n"
        "print(result.status, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout.strip().endswith("FINISHED []"), done.stdout + done.stderr


def test_an_error_in_a_loss_shows_the_users_line(broken: Path) -> None:
    tree = case("ppo", str(broken / "out")).to_tree()
    tree["algorithm"]["import"] = "broken_parts:BrokenLoss"
    with pytest.raises(ZeroDivisionError) as caught:
        rayloom.run(tree)
    assert caught.traceback[-1].path == broken / "broken_parts.py"
    folder = run_folder(broken / "out")
    assert read_result(folder) == {"status": "FAILED", "stopped_by": "an exception"}


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("raise", RuntimeError, ["the pole is on fire"]),
        ("nan", RuntimeError, ["reward", "nan"]),
        ("outside", RuntimeError, ["observation"]),
    ],
)
def test_a_bad_environment_ends_the_run_and_is_named(
    fault: str, kind: type[Exception], words: list[str], broken: Path
) -> None:
    source = {"env": "broken_parts:Broken-v0", "env_options": {"fault": fault}, "num_envs": 4}
    with pytest.raises(kind) as caught:
        rayloom.run(case("ppo", str(broken / "out"), source=source))
    text = str(caught.value) + " ".join(getattr(caught.value, "__notes__", []))
    for word in [*words, "environment 0", "step 50"]:
        assert word in text, text


@pytest.mark.xdist_group("ray")
def test_an_error_in_an_actor_keeps_its_type_and_traceback(broken: Path) -> None:
    source = {"env": "broken_parts:Broken-v0", "rollout_workers": 1}
    with pytest.raises(RuntimeError, match="the pole is on fire") as caught:
        rayloom.run(case("ppo", str(broken / "out"), source=source))
    assert "broken_parts.py" in " ".join(caught.value.__notes__)
    assert read_result(run_folder(broken / "out"))["status"] == "FAILED"  # type: ignore[index]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_run_with_a_true_status(number: int, code: int, tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = case("ppo", str(output), stop={"env_steps": 10_000_000}, tracking={"every": "1000 env_steps"})
    process = start("run", str(write_config(config, tmp_path)), "--local", cwd=tmp_path)
    assert kill_after(process, output, 5, number)
    assert process.returncode == code
    assert process.stdout is not None
    assert json.loads(process.stdout.read().strip().splitlines()[-1])["status"] == "KILLED"
    assert read_result(run_folder(output)) == {"status": "KILLED", "stopped_by": "interrupted"}


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    learner = {"optimizer": {"kind": "sgd", "learning_rate": 1e30}}
    with pytest.raises(FloatingPointError, match=r"learner\.optimizer\.learning_rate"):
        rayloom.run(case("vae", str(tmp_path), learner=learner))


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoint = {"every": "1 epochs", "keep": 2, "best": "evaluate/accuracy"}
    learner: dict[str, Any] = {"optimizer": {"kind": "sgd", "learning_rate": 0.5}}
    config = case("softmax_regression", str(tmp_path), checkpoint=checkpoint, learner=learner, stop={"epochs": 8})
    result = rayloom.run(config)
    kept = sorted((result.run_dir / "checkpoints").glob("step_*"))
    assert 2 <= len(kept) <= 3
    assert kept[-1].name == f"step_{result.counters['updates']:012d}"


def _full_disk(*arguments: Any, **keywords: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_while_saving_is_one_sentence_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = case("softmax_regression", str(tmp_path), checkpoint={"every": "1 epochs"}, stop={"epochs": 6})
    saves = []
    original = safetensors.torch.save_file

    def fill(*arguments: Any, **keywords: Any) -> Any:
        saves.append(arguments)
        return original(*arguments, **keywords) if len(saves) <= 2 else _full_disk()

    monkeypatch.setattr(safetensors.torch, "save_file", fill)
    with pytest.raises(UserError, match="No space left"):
        rayloom.run(config)
    folder = run_folder(tmp_path)
    assert read_result(folder)["status"] == "FAILED"  # type: ignore[index]
    monkeypatch.undo()
    resumed = rayloom.resume(folder.name, output=str(tmp_path))
    whole = rayloom.run(case("softmax_regression", str(tmp_path / "whole"), stop={"epochs": 6}))
    assert resumed.weights_sha256 == whole.weights_sha256


def test_a_full_disk_while_logging_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayloom.tracking.journal.Journal.append", _full_disk)
    config = case("softmax_regression", str(tmp_path))
    with pytest.raises(UserError, match="free some disk space"):
        rayloom.run(config)


def test_a_breakpoint_in_a_loss_and_in_an_environment_stops_in_this_process(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = []

    def hook() -> None:
        frame = sys._getframe(1)
        stops.append((frame.f_code.co_name, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(sys, "breakpointhook", hook)
    tree = case("ppo", str(broken / "out")).to_tree()
    tree["algorithm"]["import"] = "broken_parts:Stopping"
    tree["source"].update(
        {"env": "broken_parts:Broken-v0", "env_options": {"fault": "breakpoint"}, "rollout_workers": 2}
    )
    rayloom.run(tree, local=True)
    assert {name for name, _ in stops} == {"loss", "step"}
    assert all(in_main for _, in_main in stops)
