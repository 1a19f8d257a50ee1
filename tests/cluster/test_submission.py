"""Jobs on a real Ray cluster on loopback: uploaded as they lie here, recorded with the commit of here, continued."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

import rayloom
from cases import case
from loopback import RAY, Cluster, clean_environment, copy_of_checkout, free_port, git, loopback_cluster
from processes import history
from rayloom.runs.folders import read_result
from rayloom.tracking import journal
from rayloom.tracking.journal import read_metrics
from tracking_store import StoreView, bound, empty_store

pytestmark = pytest.mark.xdist_group("ray")

DEADLINE_S = 180.0
ROOTS = ("platform", "agents", "generative", "supervised")
LONG: dict[str, Any] = {"stop": {"env_steps": 40_000}, "checkpoint": {"every": "2_000 env_steps"}}
ALGORITHM = '''
"""Only in the uploaded tree; in every process of the cluster rayloom must come from there, too."""
import os

import rayloom
from rayloom_agents.policy_gradient.ppo import PPO

if "_ray_pkg_" in os.getcwd():
    assert rayloom.__file__.startswith(os.getcwd()), rayloom.__file__


class Submitted(PPO):
    pass
'''


def _namespaces() -> list[str]:
    """Return the command that gives a process a view of its own processes alone; empty where it is not allowed."""
    for user in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *user, "--pid", "--fork", "--mount-proc", "--kill-child"]
        try:
            subprocess.run([*command, "true"], check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return []


NAMESPACES = _namespaces()


@pytest.fixture(scope="module")
def cluster(checkout: Path) -> Iterator[Cluster]:
    """Start one cluster for the whole file; on its nodes the checkout is installed."""
    with loopback_cluster(PYTHONPATH=installed(checkout)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a git tree of rayloom with uncommitted changes: an algorithm that exists nowhere else, and its config."""
    folder = copy_of_checkout(root, tmp_path_factory.mktemp("checkout") / "tree")
    (folder / "agents/rayloom_agents/submitted.py").write_text(ALGORITHM)
    write(folder, "submitted", stop={"env_steps": 256})
    write(folder, "long", **LONG)
    with open(folder / "README.md", "a") as readme:
        readme.write("changed\n")
    git(folder, "add", "--intent-to-add", ".")  # what git does not track is not in the patch
    return folder


def write(folder: Path, name: str, **sections: dict[str, Any]) -> None:
    """Write a config with one rollout worker."""
    tree = case("ppo", source={"rollout_workers": 1}, tracking={"enabled": True}, **sections).to_tree()
    tree["algorithm"]["import"] = "rayloom_agents.submitted:Submitted"
    del tree["output"], tree["name"]
    (folder / "configs/agents" / f"{name}.yaml").write_text(yaml.safe_dump(tree))


def installed(checkout: Path) -> str:
    """Return the search path of a machine on which this checkout is installed."""
    return os.pathsep.join(str(checkout / name) for name in ROOTS)


def command(cluster: Cluster, checkout: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout, with the checkout's own rayloom."""
    variables = {"PYTHONPATH": installed(checkout), "RAY_API_SERVER_ADDRESS": cluster.url, **variables}
    environment = cluster.environment(**variables)
    return subprocess.run(
        words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def submit(cluster: Cluster, checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return command(cluster, checkout, sys.executable, "-m", "rayloom", "submit", *words, "--json")


def only_run(output: Path) -> tuple[Path, str, StoreView]:
    """Return the only run of an output folder: its folder, its id and its store."""
    (config,) = output.glob("*/config.yaml")
    store = StoreView(output / "mlflow.db")
    (run_id,) = store.runs()
    return config.parent, run_id, store


def test_a_job_is_uploaded_as_it_lies_here_and_recorded_with_the_commit_of_here(
    cluster: Cluster, checkout: Path, tmp_path: Path
) -> None:
    empty_store(tmp_path / "runs")
    done = submit(cluster, checkout, "configs/agents/submitted.yaml", f"output={tmp_path / 'runs'}", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    submission_id = answer["submission_id"]
    assert answer["status"] == "FINISHED" and answer["job"] == submission_id
    assert done.stderr.splitlines()[0] == submission_id  # first, before anything that may take time
    folder, run_id, store = only_run(tmp_path / "runs")
    assert done.stderr.splitlines()[-1] == folder.name and "Running entrypoint" in done.stderr  # the job's own log
    assert folder.name == f"job-{submission_id}" and store.status(run_id) == "FINISHED"
    tags = store.tags(run_id)
    assert tags["mlflow.source.git.commit"] == git(checkout, "rev-parse", "HEAD").strip()
    assert tags["mlflow.source.git.branch"] == "trunk" and tags["rayloom.dirty"] == "true"
    assert tags["rayloom.job"] == tags["rayloom.ray_job"] == submission_id
    # The patch brings a clean checkout to what ran.
    clean = tmp_path / "clean"
    git(tmp_path, "clone", "-q", str(checkout), str(clean))
    git(clean, "apply", str(folder / "artifacts/diff.patch"))
    for name in ("README.md", "agents/rayloom_agents/submitted.py", "configs/agents/submitted.yaml"):
        assert (clean / name).read_bytes() == (checkout / name).read_bytes(), name


def test_a_job_killed_in_the_middle_is_submitted_again_and_goes_on_with_its_own_run(
    cluster: Cluster, checkout: Path, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    empty_store(output)
    # The first time by Ray's own command, which takes no commit along.
    environment = ("--working-dir", ".", "--runtime-env", "configs/cluster/runtime_env.yaml", "--no-wait")
    words = ("run", "configs/agents/long.yaml", f"output={output}", "--job", "nightly")
    first = command(cluster, checkout, RAY, "job", "submit", *environment, "--", "rayloom", *words)
    assert first.returncode == 0, first.stdout + first.stderr
    folder = output / "job-nightly"
    deadline = time.monotonic() + DEADLINE_S
    while len(list((folder / "checkpoints").glob("*"))) < 2:
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.05)
    driver = psutil.Process(journal.owner(folder)["pid"])
    assert "_ray_pkg_" in driver.cwd()
    driver.kill()
    psutil.wait_procs([driver], timeout=60)
    assert read_result(folder) is None
    started = journal.last_start(folder)
    assert started is not None and started[0]["tags"]["rayloom.commit"].startswith("unknown: ")
    assert "mlflow.source.git.commit" not in started[0]["tags"]

    second = submit(cluster, checkout, *words[1:], "--wait")
    assert second.returncode == 0, second.stdout + second.stderr
    assert json.loads(second.stdout)["job"] == "nightly" and "job nightly goes on with its run" in second.stderr
    _, run_id, store = only_run(output)
    tags = store.tags(run_id)
    assert store.status(run_id) == "FINISHED" and tags["rayloom.job"] == "nightly"
    assert tags["mlflow.source.git.commit"] == git(checkout, "rev-parse", "HEAD").strip()
    points = [(step, key) for step, key, _ in read_metrics(folder) if not key.startswith("system/")]
    assert points and len(points) == len(set(points))
    alone = rayloom.run(case("ppo", str(tmp_path / "alone"), **LONG), local=True)
    result = read_result(folder)
    assert result is not None and result["counters"] == alone.counters
    assert result["weights_sha256"] == tags["rayloom.weights_sha256"] == alone.weights_sha256
    assert history(folder) == history(alone.run_dir)


def test_a_study_is_submitted_its_trials_run_on_the_cluster_and_its_job_knows_it_again(
    cluster: Cluster, checkout: Path, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    store = empty_store(output)
    part = ("search.space={algorithm.l2: [0.0, 0.1]}", "stop={epochs: 1}", f"output={output}")
    words = ("grid_softmax_regression_digits", *part, "--search", "--wait")
    first = submit(cluster, checkout, *words)
    assert first.returncode == 0, first.stdout + first.stderr
    answer = json.loads(first.stdout)
    folder = output / f"job-{answer['job']}"
    result = read_result(folder)
    assert answer["status"] == "FINISHED" and result is not None and result["counts"]["COMPLETE"] == 2
    binding = bound(folder)
    tags = store.tags(binding["run_id"])
    assert tags["rayloom.job"] == tags["rayloom.ray_job"] == answer["submission_id"]
    assert tags["mlflow.source.git.commit"] == git(checkout, "rev-parse", "HEAD").strip()
    assert len(store.runs()) == 3 and {store.status(run_id) for run_id in store.runs()} == {"FINISHED"}
    driver, *hosts = (json.loads(path.read_text())["pid"] for path in (folder / journal.PROCESS, *folder.glob(TRIALS)))
    assert len(hosts) == 2 and driver not in hosts
    again = submit(cluster, checkout, *words, "--job", answer["job"])
    assert again.returncode == 0 and "has finished its study before" in again.stderr
    assert len(store.runs()) == 3


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "Missing authentication token"),
        ({"RAY_AUTH_TOKEN": "0" * 32}, "Invalid authentication token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, ""),
    ],
)
def test_without_the_clusters_token_nothing_is_sent_and_the_sentence_says_what_is_missing(
    variables: dict[str, str], reason: str, cluster: Cluster, checkout: Path
) -> None:
    words = ("submit", "ppo_cartpole_ray", "output=/tmp/runs")
    done = command(cluster, checkout, sys.executable, "-m", "rayloom", *words, **variables)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert reason in line and "RAY_AUTH_MODE=token" in line and "RAY_AUTH_TOKEN_PATH" in line
    assert not done.stdout


def test_the_shipped_script_trains_on_the_cluster_of_its_head(cluster: Cluster, checkout: Path, tmp_path: Path) -> None:
    # `ray submit` copies this one file into the home folder of the head and runs it there.
    script = tmp_path / "run.py"
    script.write_bytes((checkout / "configs/cluster/run.py").read_bytes())
    before = len(driver_ids(cluster))
    words = ("stop={updates: 2}", "checkpoint.every=null", "tracking.enabled=false", f"output={tmp_path / 'runs'}")
    done = subprocess.run(
        [sys.executable, str(script), "ppo_cartpole_ray", *words],
        cwd=tmp_path,
        # By itself the script takes the one Ray of its machine; here others may run.
        env=cluster.environment(PYTHONPATH=installed(checkout), RAY_ADDRESS=f"127.0.0.1:{cluster.port}"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "runs").glob("*-ppo_cartpole_ray-*")
    assert done.stdout.splitlines()[-1] == folder.name
    result = read_result(folder)
    assert result is not None and result["counters"]["updates"] >= 2
    assert len(driver_ids(cluster)) == before + 1  # on this cluster, not on a Ray of its own


def driver_ids(cluster: Cluster) -> list[str]:
    """Return the drivers that the cluster has seen."""
    request = Request(f"{cluster.url}/api/jobs/", headers={"Authorization": f"Bearer {cluster.token.read_text()}"})
    with urlopen(request, timeout=60) as answer:
        return [job["job_id"] for job in json.load(answer) if job["job_id"]]


TRIALS = f"trials/*/{journal.PROCESS}"
"""Where a study's trials say which process trains them."""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
"""Runs its command here and now, as on a single node."""


@pytest.mark.full
def test_rays_own_command_with_the_hook_records_the_commit_and_a_stopped_job_is_killed(
    cluster: Cluster, checkout: Path, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    store = empty_store(output)
    environment = ("--working-dir", ".", "--runtime-env", "configs/cluster/runtime_env.yaml")
    endless = ("rayloom", "run", "configs/agents/long.yaml", f"output={output}", "stop={env_steps: 100_000_000}")
    variables = {"RAY_JOB_SUBMIT_HOOK": "rayloom.cluster.submission.submit_hook"}
    done = command(cluster, checkout, RAY, "job", "submit", *environment, "--no-wait", "--", *endless, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    submission_id = done.stdout.splitlines()[-1]
    deadline = time.monotonic() + DEADLINE_S
    while not (runs := store.runs()):
        assert time.monotonic() < deadline, "no run"
        time.sleep(0.1)
    stopped = command(cluster, checkout, RAY, "job", "stop", "--address", cluster.url, submission_id)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    while store.status(runs[0]) == "RUNNING":
        assert time.monotonic() < deadline, "the stopped run stays RUNNING"
        time.sleep(0.1)
    tags = store.tags(runs[0])
    assert store.status(runs[0]) == "KILLED" and tags["rayloom.ray_job"] == submission_id
    assert tags["mlflow.source.git.commit"] == git(checkout, "rev-parse", "HEAD").strip()
    # A failure's exit code comes back: 2 for a mistake in the config.
    wrong = command(cluster, checkout, RAY, "job", "submit", *environment, "--", "rayloom", "run", "nix", **variables)
    assert wrong.returncode == 2 and "there is no config file" in wrong.stdout


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux" or not NAMESPACES, reason="namespaces of processes are not allowed here")
def test_the_slurm_script_trains_on_a_ray_of_its_own_nodes(checkout: Path, tmp_path: Path) -> None:
    stubs = {"srun": SRUN, "scontrol": "#!/bin/bash\necho here\n", "hostname": "#!/bin/bash\necho 127.0.0.1\n"}
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    home = Path(tempfile.mkdtemp(prefix="rl"))
    environment = clean_environment(
        HOME=str(home),
        PYTHONPATH=installed(checkout),
        SLURM_JOB_ID=str(free_port()),
        SLURM_JOB_NODELIST="here",
        SLURM_JOB_NUM_NODES="1",
        SLURM_CPUS_PER_TASK="2",
    )
    environment["PATH"] = os.pathsep.join([str(tmp_path), environment["PATH"]])
    words = ("stop={updates: 2}", "tracking.enabled=false", f"output={tmp_path / 'runs'}")
    script = ["bash", str(checkout / "configs/cluster/slurm.sh"), "ppo_cartpole_ray", *words]
    # In a namespace of its own, because `ray symmetric-run` ends with `ray stop`, which stops every Ray that it sees.
    done = subprocess.run(
        [*NAMESPACES, *script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    shutil.rmtree(home)
    shutil.rmtree(f"/tmp/rayloom-{environment['SLURM_JOB_ID']}", ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / f"job-slurm-{environment['SLURM_JOB_ID']}"
    result = read_result(folder)
    assert result is not None and result["status"] == "FINISHED" and result["counters"]["updates"] >= 2
    assert "Running command on head node" in done.stdout and folder.name in done.stdout
    assert not (folder / "internal/local").exists()
