"""Faults times algorithms, with a seed: every run ends as if nothing had happened, and nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

import rayloom
from cases import case
from fault_checks import assert_nothing_left, assert_points_once, assert_survived
from loopback import free_port
from places import FAKES
from processes import finish, kill_after, run_folder, start, write_config
from rayloom.config.schema import RunConfig
from rayloom.errors import RoleDiedError, UserError
from rayloom.launch.chaos import parse
from rayloom.runs.folders import read_result
from rayloom.runs.observer import Result
from remarks import Notes
from tracking_servers import mlflow_server
from tracking_store import StoreView, empty_store, wait_for

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]

NODE_CPUS = 8
WORKERS: dict[str, Any] = {"rollout_workers": 2, "worker_cpus": 0}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often: these runs are short."""
    monkeypatch.setattr("rayloom.runs.session.PAUSE_S", 0.02)


@dataclass(frozen=True)
class Scenario:
    """One run and the faults that befall it."""

    case: str
    chaos: str
    stop: dict[str, int]
    learners: int = 1
    source: dict[str, Any] = field(default_factory=dict)
    learner: str = "driver"
    deadline_s: float = 60.0

    @property
    def exact(self) -> bool:
        """Whether the struck run must end with the same weights: no rollout was lost."""
        return not {fault.role for fault in parse(self.chaos)} & {"rollout", "hang", "node"}

    @property
    def faults(self) -> int:
        return sum(fault.count or 0 for fault in parse(self.chaos))

    def config(self, output: Path) -> RunConfig:
        roles = {fault.role for fault in parse(self.chaos)}
        unit, limit = next(iter(self.stop.items()))
        return case(
            self.case,
            str(output),
            source=self.source,
            stop=self.stop,
            learner={"count": self.learners},
            evaluate={"every": f"{limit // 8} {unit}"},
            tracking={"enabled": "tracker" in roles, "every": f"{max(1, limit // 40)} {unit}"},
            cluster={
                "learner": self.learner,
                "evaluator": "actor" if "evaluator" in roles else "driver",
                "evaluator_cpus": 0,
                "deadline_s": self.deadline_s,
            },
        )


SHORT = [
    Scenario("ppo", "rollout=3", {"env_steps": 8_000}, source=WORKERS),
    Scenario("impala", "rollout=2", {"env_steps": 8_000}, source=WORKERS),
    Scenario("softmax_regression", "learner=1,tracker=1,evaluator=1", {"epochs": 40}, learners=2),
]
LONG = [
    Scenario("dqn_ahead", "rollout=3", {"env_steps": 6_000}, source=WORKERS),
    Scenario("ppo", "learner=1", {"env_steps": 6_000}, learners=2, source=WORKERS),
    Scenario("ppo", "rollout=12,hang=2,evaluator=3,tracker=2", {"env_steps": 40_000}, source=WORKERS, deadline_s=25.0),
    Scenario("dqn", "rollout=10,tracker=1", {"env_steps": 30_000}, source=WORKERS),
    Scenario("dqn_ahead", "rollout=10,hang=2", {"env_steps": 30_000}, source=WORKERS, deadline_s=25.0),
    Scenario("impala", "rollout=10,hang=1", {"env_steps": 40_000}, source=WORKERS, deadline_s=25.0),
    Scenario("ppo", "rollout=6,learner=3", {"env_steps": 30_000}, learners=2, source=WORKERS),
    Scenario("ppo", "hang=2", {"env_steps": 10_000}, learners=2, source=WORKERS, deadline_s=25.0),
    Scenario("dqn_prioritized_n_step", "rollout=4,learner=2", {"env_steps": 15_000}, learners=2, source=WORKERS),
    Scenario("dqn_ahead", "learner=3", {"env_steps": 15_000}, learner="actor", source=WORKERS),
    Scenario("vae", "learner=5,tracker=3", {"epochs": 60}, learner="actor"),
    Scenario("vae", "learner=4", {"epochs": 60}, learners=2),
    Scenario("wgan_gp", "learner=4,evaluator=2", {"updates": 1_200}, learners=2),
    Scenario("wgan_gp", "learner=4", {"updates": 1_200}, learner="actor"),
    Scenario("softmax_regression", "learner=5,evaluator=3,tracker=3", {"epochs": 200}, learners=2),
]


def name(scenario: Scenario) -> str:
    return f"{scenario.case}-{scenario.learners}-{scenario.chaos}"


def survive(scenario: Scenario, output: Path) -> Result:
    """Run a scenario, and again in peace; compare."""
    config = scenario.config(output)
    store = None
    if config.tracking.enabled:
        empty_store(output)
        store = output / "mlflow.db"
    notes = Notes()
    struck = rayloom.run(config, observer=notes, chaos=scenario.chaos)
    assert_survived(config, struck, store)
    assert sum(line.startswith("chaos: struck ") for line in notes.lines) == scenario.faults + 1
    quiet = rayloom.run(scenario.config(output / "quiet"), "tracking.enabled=false")
    compare(config, struck, quiet, scenario.exact)
    return struck


def compare(config: RunConfig, struck: Result, quiet: Result, exact: bool) -> None:
    """Compare a run that was struck with its undisturbed twin."""
    if exact:
        assert struck.weights_sha256 == quiet.weights_sha256
        assert struck.counters == quiet.counters
        return
    unit, limit = next(iter(config.budget().items()))
    assert unit == "env_steps"
    source: Any = config.source
    chunk = source.num_envs * getattr(source, "rollout_steps", getattr(source, "collect_steps", 1))
    # Steps after an episode's end are dead and do not count: two runs end at most one round of rollouts apart.
    for result in (struck, quiet):
        assert limit <= result.counters["env_steps"] < limit + max(chunk, 2 * config.learner.batch_size)
    per_update = quiet.counters["env_steps"] / quiet.counters["updates"]
    slack = (chunk + 2 * config.learner.batch_size) / per_update + 0.02 * quiet.counters["updates"]
    assert abs(struck.counters["updates"] - quiet.counters["updates"]) <= slack
    learnt = struck.counters["updates"] * config.learner.batch_size
    if source.kind == "asynchronous":  # a batch is of trajectories, in which some steps are dead
        learnt *= source.rollout_steps
        assert 0.9 * learnt <= struck.counters["samples"] <= learnt
    else:
        assert struck.counters["samples"] == learnt


@pytest.mark.parametrize("scenario", SHORT, ids=name)
def test_a_run_survives(scenario: Scenario, one_node: None, tmp_path: Path) -> None:
    survive(scenario, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("scenario", LONG, ids=name)
def test_a_run_survives_many_faults(scenario: Scenario, one_node: None, tmp_path: Path) -> None:
    survive(scenario, tmp_path)


def test_the_long_matrix_has_a_hundred_faults() -> None:
    assert sum(scenario.faults for scenario in LONG) >= 100


# --- runs that must fail -------------------------------------------------------------------------------------------


def poisoned(tmp_path: Path, fault: str) -> RunConfig:
    (tmp_path / "marks").mkdir()
    empty_store(tmp_path)
    options = {"fault": fault, "marks": str(tmp_path / "marks"), "at": 5, "times": 0}
    environment = {"env": "faulty_environment:Failing-v0", "env_options": options, "num_envs": 1}
    one = {**WORKERS, "rollout_workers": 1}
    return case("ppo", str(tmp_path), source={**environment, **one}, tracking={"enabled": True})


@pytest.mark.parametrize(
    ("fault", "expected", "text"),
    [("raise", ArithmeticError, "poisoned"), ("die", RoleDiedError, "rollout worker 0 failed 3 times in a row")],
)
def test_a_poisoned_environment_ends_the_run(
    fault: str, expected: type[Exception], text: str, one_node: None, tmp_path: Path
) -> None:
    with pytest.raises(expected, match=text):
        rayloom.run(poisoned(tmp_path, fault))
    assert len(list((tmp_path / "marks").iterdir())) == 3
    folder = run_folder(tmp_path)
    recorded = read_result(folder)
    assert recorded is not None and recorded["status"] == "FAILED"
    traceback = (folder / "artifacts" / "traceback.txt").read_text()
    assert text in traceback and ("faulty_environment.py" in traceback) == (fault == "raise")
    store = StoreView(tmp_path / "mlflow.db")
    (run_id,) = store.runs()
    assert store.status(run_id) == "FAILED"
    assert_nothing_left()


@pytest.mark.full
def test_the_command_ends_a_poisoned_run_with_one(tmp_path: Path) -> None:
    process = start(
        "run",
        str(write_config(poisoned(tmp_path, "raise"), tmp_path)),
        cwd=tmp_path,
        PYTHONPATH=str(FAKES),
    )
    out, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "ArithmeticError: poisoned" in err and "faulty_environment.py" in err
    assert '"status": "FAILED"' in out


@pytest.mark.full
def test_a_driver_killed_amid_chaos_is_resumed(tmp_path: Path) -> None:
    config = Scenario("ppo", "rollout=1", {"env_steps": 30_000}, source=WORKERS).config(tmp_path / "runs")
    process = start("run", str(write_config(config, tmp_path)), "--chaos", "rollout=30/min", cwd=tmp_path)
    below: list[psutil.Process] = []
    watcher = threading.Timer(20.0, lambda: below.extend(psutil.Process(process.pid).children(recursive=True)))
    watcher.start()
    assert kill_after(process, tmp_path / "runs", 20)
    watcher.cancel()
    folder = run_folder(tmp_path / "runs")
    resumed = finish(start("resume", folder.name, "--output", str(tmp_path / "runs"), cwd=tmp_path))
    assert resumed["status"] == "FINISHED" and resumed["stopped_by"] == "env_steps >= 30000"
    assert "chaos" not in resumed  # it does not strike again
    wait_for(lambda: not [one for one in below if one.is_running()], "the end of the killed driver's processes")


# --- what lies around the run --------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_tracking_server_is_away_for_a_while(one_node: None, tmp_path: Path) -> None:
    empty_store(tmp_path)
    port = free_port()
    scenario = Scenario("ppo", "rollout=5,tracker=2", {"env_steps": 20_000}, source=WORKERS)
    config = scenario.config(tmp_path / "runs")
    results: list[Result] = []
    uri = f"tracking.uri=http://127.0.0.1:{port}"
    with mlflow_server(tmp_path, port):
        thread = threading.Thread(
            target=lambda: results.append(rayloom.run(config, uri, observer=Notes(), chaos=scenario.chaos))
        )
        thread.start()
        wait_for(lambda: StoreView(tmp_path / "mlflow.db").runs(), "the run in the store")
    time.sleep(8.0)
    with mlflow_server(tmp_path, port):
        thread.join(400)
        (result,) = results
        wait_for(lambda: StoreView(tmp_path / "mlflow.db").status(result.run_id) == "FINISHED", "the end in the store")
    assert_survived(config, result)
    assert_points_once(result, tmp_path / "mlflow.db")


@pytest.mark.full
def test_an_object_store_that_is_nearly_full(tmp_path: Path) -> None:
    ray.shutdown()
    ray.init(address="local", include_dashboard=False, num_cpus=4, log_to_driver=False, object_store_memory=80 * 2**20)
    try:
        held = [ray.put(np.ones(2**20)) for _ in range(9)]  # 8 MiB each, which Ray may spill to disk but not forget
        scenario = Scenario("dqn_ahead", "rollout=2", {"env_steps": 4_000}, source=WORKERS)
        config = scenario.config(tmp_path)
        assert_survived(config, rayloom.run(config, chaos=scenario.chaos))
        assert all(float(ray.get(ref).sum()) == 2**20 for ref in held)
    finally:
        ray.shutdown()


# --- nodes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.full
@pytest.mark.parametrize(
    ("case_name", "sections"),
    [
        ("ppo", {"source": {"rollout_workers": 2, "worker_cpus": 1}, "stop": {"env_steps": 20_000}}),
        ("dqn_ahead", {"source": {"rollout_workers": 2, "worker_cpus": 1}, "stop": {"env_steps": 15_000}}),
        ("softmax_regression", {"learner": {"count": 2}, "stop": {"epochs": 600}}),
    ],
)
def test_a_node_is_lost(case_name: str, sections: dict[str, Any], two_nodes: Cluster, tmp_path: Path) -> None:
    cluster = {"placement": "spread", "deadline_s": 30.0}
    config = case(case_name, str(tmp_path), cluster=cluster, **sections)
    result = rayloom.run(config, chaos="node=1")
    assert_survived(config, result)
    assert sorted(node["Alive"] for node in ray.nodes()) == [False, True]
    if case_name == "softmax_regression":
        quiet = rayloom.run(case(case_name, str(tmp_path), **sections))
        assert (result.weights_sha256, result.counters) == (quiet.weights_sha256, quiet.counters)


def test_a_single_node_is_not_struck(one_node: None, tmp_path: Path) -> None:
    config = Scenario("ppo", "rollout=1", {"env_steps": 1_000}, source=WORKERS).config(tmp_path / "runs")
    with pytest.raises(UserError, match="only the driver's node carries roles"):
        rayloom.run(config, chaos="node=1")
    assert not (tmp_path / "runs").exists()
    assert_nothing_left()


# --- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_learning_stays_inside_the_spread(one_node: None, tmp_path: Path) -> None:
    """PPO under fire reaches what undisturbed seeds reach, with no more steps than the slowest of them by far."""
    overrides = ["tracking.enabled=false", f"output={tmp_path}", "cluster.deadline_s=60"]
    quiet = [rayloom.run("ppo_cartpole", *overrides, f"seed={seed}", local=True) for seed in range(4)]
    assert all(result.stopped_by.startswith("evaluate/return_mean") for result in quiet)
    slowest = max(result.counters["env_steps"] for result in quiet)
    # Sleeping does not change what is learnt, but no machine is too fast for the faults.
    overrides += ["source.env=faulty_environment:Sleeping-v0", "source.env_options={sleep_s: 0.001}"]
    struck = 0
    for seed in range(2):
        result = rayloom.run("ppo_cartpole_ray", *overrides, f"seed={seed}", chaos="rollout=40")
        assert result.stopped_by.startswith("evaluate/return_mean")
        assert result.counters["env_steps"] <= 1.5 * slowest
        assert result.chaos is not None
        struck += result.chaos["struck"]["rollout"]
    assert struck >= 3  # of 80 over runs that stop long before their budget is spent
    assert_nothing_left()
