"""The cluster guide: its commands exist with these options, its configs are valid, and its tracking server works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click
import pytest

from cases import case
from loopback import clean_environment, end_tree, free_port
from processes import finish, start, write_config
from rayloom.cli.main import build_parser
from rayloom.config.load import load
from rayloom.runs.plan import make_plan
from rayloom.tracking import journal

DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def guide(root: Path) -> str:
    """Return the guide."""
    return (root / "docs/cluster.md").read_text()


def commands(guide: str) -> list[list[str]]:
    """Return the words of every command in the guide, without variables in front and comments behind."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", guide, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                found.append(words)
    return found


def test_every_command_of_ours_is_accepted_and_its_config_is_valid(guide: str, root: Path) -> None:
    ours = [words[1:] for words in commands(guide) if words[0] == "rayloom"]
    ours += [words[words.index("rayloom") + 1 :] for words in commands(guide) if "rayloom" in words[1:]]
    ours += [["run", *words[words.index("--") + 1 :]] for words in commands(guide) if words[:2] == ["ray", "submit"]]
    ours += [["run", *words[2:]] for words in commands(guide) if words[0] == "sbatch"]
    assert len(ours) >= 8
    for words in ours:
        options, rest = build_parser().parse_known_args(words)
        assert not [word for word in rest if word.startswith("-")], words
        config = load(options.config, [*options.overrides, *rest])
        make_plan(config, getattr(options, "local", False))


def test_every_option_of_ray_and_mlflow_is_theirs(guide: str) -> None:
    from mlflow.cli import cli as mlflow
    from ray.scripts.scripts import cli as ray

    checked = 0
    for words in commands(guide):
        group: click.Command | None = {"ray": ray, "mlflow": mlflow}.get(words[0])
        rest = words[1:]
        while isinstance(group, click.Group):
            group = group.get_command(click.Context(group), rest.pop(0))
        if group is None:
            assert words[0] not in ("ray", "mlflow"), words
            continue
        known = {option for parameter in group.params for option in [*parameter.opts, *parameter.secondary_opts]}
        own = rest[: rest.index("--")] if "--" in rest else rest
        assert {word for word in own if word.startswith("--")} <= known, words
        checked += 1
    assert checked >= 8


def test_every_file_and_every_key_of_the_guide_is_there(guide: str, root: Path) -> None:
    named = set(re.findall(r"configs/[\w/]+\.(?:yaml|sh|py)", guide))
    assert len(named) >= 4 and all((root / name).is_file() for name in named)
    assert {f"configs/cluster/{path.name}" for path in (root / "configs/cluster").iterdir()} - named <= {
        "configs/cluster/gcp.yaml",
        "configs/cluster/on_premise.yaml",
    }  # the guide names them without the folder
    assert "`aws.yaml`" in guide.replace("configs/cluster/", "") and "`gcp.yaml`" in guide


@pytest.mark.full
@pytest.mark.timeout(300)
def test_the_guides_tracking_server_takes_runs_and_artifacts_and_refuses_other_hosts(
    guide: str, tmp_path: Path
) -> None:
    (words,) = (words for words in commands(guide) if words[:2] == ["mlflow", "server"])
    port = free_port()
    here = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--backend-store-uri": f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination": (tmp_path / "artifacts").as_uri(),
        "--allowed-hosts": f"127.0.0.1:{port}",
    }
    words = [here.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=tmp_path, stdout=log, stderr=log, env=clean_environment()
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not answers(url):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.2)
        config = case("softmax_regression", str(tmp_path / "runs"), stop={"epochs": 1}, tracking={"enabled": True})
        result = finish(
            start("run", str(write_config(config, tmp_path)), "--local", cwd=tmp_path, MLFLOW_TRACKING_URI=url)
        )
        assert result["tracking_uri"] == url and journal.is_delivered(Path(result["run_dir"]))
        (stored,) = (tmp_path / "artifacts").glob(f"**/{result['run_id']}/**/config.yaml")
        assert stored.read_text() == (Path(result["run_dir"]) / "config.yaml").read_text()
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(f"{url}/api/2.0/mlflow/experiments/search", headers={"Host": "other.org"}), timeout=30)
    finally:
        end_tree(server)
    assert "MLFLOW_TRACKING_URI" not in os.environ


def answers(url: str) -> bool:
    """Return whether the server is up."""
    try:
        urlopen(f"{url}/health", timeout=5).close()
    except (URLError, OSError):
        return False
    return True
