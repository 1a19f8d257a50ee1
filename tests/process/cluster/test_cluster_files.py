"""The shipped cluster files: valid for Ray, complete, and without secrets or open doors."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from rayloom.config.load import load

CLUSTERS = ("aws", "gcp", "on_premise")


@pytest.fixture(scope="module")
def files(root: Path) -> Path:
    """Return the folder of the cluster files."""
    return root / "configs/cluster"


def cluster(files: Path, name: str) -> dict[str, Any]:
    """Return a cluster file as plain data."""
    tree: dict[str, Any] = yaml.safe_load((files / f"{name}.yaml").read_text())
    return tree


def image_version(image: str) -> str:
    match = re.fullmatch(r"rayproject/ray:([\d.]+)-py3(\d+)-(cpu|gpu)", image)
    assert match and match[2] in ("11", "12", "13"), image
    return match[1]


def ray_requirement(root: Path) -> str:
    """Return the Ray release series that rayloom needs, as "2.60."."""
    dependencies = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    (pinned,) = (text for text in dependencies if text.startswith("ray["))
    return str(re.fullmatch(r"ray\[default\]==([\d.]+)\*", pinned)[1])  # type: ignore[index]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_is_valid_for_ray(name: str, files: Path) -> None:
    prepared = prepare_config(copy.deepcopy(cluster(files, name)))
    validate_config(prepared)
    broken = copy.deepcopy(prepared)
    broken["available_node_types"][prepared["head_node_type"]]["min_worker"] = "two"
    with pytest.raises(Exception, match="min_worker"):
        validate_config(broken)


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_node_has_rays_release_the_token_and_the_shared_folder(name: str, root: Path, files: Path) -> None:
    tree = cluster(files, name)
    images = [tree["docker"]["image"]]
    images += [
        kind["docker"]["worker_image"] for kind in tree.get("available_node_types", {}).values() if "docker" in kind
    ]
    assert {image_version(image).startswith(ray_requirement(root)) for image in images} == {True}
    assert "--volume /mnt/shared:/mnt/shared" in tree["docker"]["run_options"]
    assert tree["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (tree["head_start_ray_commands"], tree["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert len(starts) == 1 and "export RAY_AUTH_MODE=token;" in starts[0]
        assert starts[0].index("RAY_AUTH_MODE") < starts[0].index("ray start")
    assert "--dashboard-host=127.0.0.1" in tree["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", ("aws", "gcp"))
def test_a_cloud_has_gpus_for_learners_and_cpus_for_rollouts_and_keeps_the_head_free(name: str, files: Path) -> None:
    prepared = prepare_config(copy.deepcopy(cluster(files, name)))
    kinds = prepared["available_node_types"]
    assert prepared["head_node_type"] == "head" and "GPU" not in kinds["head"]["resources"]
    assert kinds["gpu_learner"]["resources"]["GPU"] == 1 and kinds["gpu_learner"]["min_workers"] == 1
    assert "GPU" not in kinds["cpu_rollouts"]["resources"] and kinds["cpu_rollouts"]["min_workers"] == 0
    assert sum(kind["max_workers"] for kind in kinds.values()) == prepared["max_workers"]
    assert "-gpu" in kinds["gpu_learner"]["docker"]["worker_image"] and "docker" not in kinds["cpu_rollouts"]


@pytest.mark.parametrize("name", [*CLUSTERS, "kuberay_rayjob", "runtime_env"])
def test_there_is_no_secret_and_no_open_door(name: str, files: Path) -> None:
    text = (files / f"{name}.yaml").read_text()
    assert not re.search(r"AKIA[0-9A-Z]{12}|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{32}|ami-[0-9a-f]{8,}", text)
    assert not re.search(r"(?i)^[^#]*(password|secret_key|access_key|auth_token:\s*[\"']?\w{16})", text, re.MULTILINE)
    assert "0.0.0.0" not in text


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_is_copied_to_the_nodes_is_enough_to_install_rayloom(
    name: str, root: Path, files: Path, tmp_path: Path
) -> None:
    tree = cluster(files, name)
    mounts = {target: source for target, source in tree["file_mounts"].items() if "/rayloom/" in target}
    assert "-e /home/ray/rayloom" in " ".join(tree["setup_commands"])
    for target, source in mounts.items():
        path, copied = root / source, tmp_path / "rayloom" / Path(target).relative_to("/home/ray/rayloom")
        assert path.exists(), source
        copied.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(path, copied, ignore=ignored) if path.is_dir() else shutil.copy(path, copied)
    first = {source: target for target, source in cluster(files, CLUSTERS[0])["file_mounts"].items()}
    assert {source: target for target, source in tree["file_mounts"].items()} == first
    if name != CLUSTERS[0]:
        return  # the same files: once is enough
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(tmp_path / "site")]
    command = [sys.executable, "-m", "pip", "install", *options, str(tmp_path / "rayloom")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site/rayloom/configs/cluster/runtime_env.yaml").is_file()


def test_the_shipped_script_is_the_command_run_on_the_cluster_of_this_machine(files: Path, tmp_path: Path) -> None:
    code = (
        "import os, runpy, sys\n"
        "import rayloom.cli.main\n"
        "rayloom.cli.main.main = lambda words: print(os.environ['RAY_ADDRESS'], *words) or 3\n"
        "sys.argv = ['run.py', 'NAME', 'a=b', '--json']\n"
        f"runpy.run_path({str(files / 'run.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "auto run NAME a=b --json\n"), done.stderr


# --- Slurm ---------------------------------------------------------------------------------------------------------


def test_the_slurm_script_is_bash_and_asks_for_whole_nodes_that_are_requeued(files: Path) -> None:
    script = files / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    directives = re.findall(r"^#SBATCH (.+)$", script.read_text(), re.MULTILINE)
    assert {"--exclusive", "--requeue", "--ntasks-per-node=1", "--open-mode=append"} <= set(directives)


def test_the_slurm_script_hands_the_job_its_address_and_its_id(files: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    stubs = {
        "srun": '#!/bin/bash\n[[ "$*" == *hostname* ]] && echo "10.1.2.3 fd00::2 " || printf "%s\\n" "$@" > "$CALLS"\n',
        "scontrol": '#!/bin/bash\n[ "$1 $2 $3" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n',
        "ray": '#!/bin/bash\n[ "$1 $2" = "get-auth-token --generate" ] && echo secret\n',
    }
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "CALLS": str(calls),
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
    }
    command = ["bash", str(files / "slurm.sh"), "ppo_cartpole_ray", "output=/shared/my runs"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    words = calls.read_text().splitlines()
    entry = words[words.index("--") + 1 :]
    address = "10.1.2.3:24567"
    assert entry == [
        "env", f"RAY_ADDRESS={address}", "rayloom", "run", "ppo_cartpole_ray", "output=/shared/my runs",
        "--job", "slurm-1234567",
    ]  # fmt: skip
    start = words[words.index("ray") : words.index("--")]
    assert start[:6] == ["ray", "symmetric-run", "--address", address, "--min-nodes", "2"] and "--num-cpus=16" in start
    assert "secret" not in done.stdout + done.stderr
    without = subprocess.run(command[:2], env=variables, capture_output=True, text=True, timeout=30, check=False)
    assert without.returncode != 0 and "usage: sbatch" in without.stderr


# --- Kubernetes ----------------------------------------------------------------------------------------------------


def test_the_rayjob_tries_again_with_the_same_job_and_leaves_nothing_behind(root: Path, files: Path) -> None:
    job, claim = yaml.safe_load_all((files / "kuberay_rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"], claim["kind"]) == ("ray.io/v1", "RayJob", "PersistentVolumeClaim")
    spec = job["spec"]
    assert spec["backoffLimit"] >= 1 and spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] == "K8sJobMode" and spec["ttlSecondsAfterFinished"] > 0
    words = spec["entrypoint"].split()
    assert words[:2] == ["rayloom", "run"] and "--job" in words
    assert load(words[2], [word for word in words[3:] if "=" in word]).output == "/mnt/shared/runs"
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]) == {
        "MLFLOW_TRACKING_URI",
        "RAY_JOB_STOP_WAIT_TIME_S",
    }
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"].startswith(ray_requirement(root))
    head, (learners, rollouts) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"  # a string: KubeRay takes no numbers here
    for group, gpus in ((head, None), (learners, "1"), (rollouts, None)):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/mnt/shared"}]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in (learners, rollouts):
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", [*CLUSTERS, "kuberay_rayjob"])
def test_what_must_be_replaced_is_said_in_the_file(name: str, files: Path) -> None:
    text = (files / f"{name}.yaml").read_text()
    assert "Replace what begins with REPLACE_" in text
    assert len(set(re.findall(r"REPLACE_[A-Z_]*[A-Z]", text))) >= 2
