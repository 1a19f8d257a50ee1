"""The wheel holds what it should, works outside the checkout, and the layout hides no module of Python's own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PACKAGES = {"rayloom", "rayloom_agents", "rayloom_generative", "rayloom_supervised"}
STANDARD_LIBRARY = "import uuid, platform; assert platform.system() and uuid.uuid4(); print(platform.__file__)"


def python(
    *arguments: str, cwd: Path, path: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with `path` first on PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, once."""
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(root), cwd=folder, timeout=240)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without its dependencies, into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    python(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel), cwd=folder
    )
    return folder


@pytest.mark.xdist_group("packaging")
def test_the_wheel_holds_the_packages_the_configs_and_nothing_else(root: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    tops = {name.split("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert len(tops) == len(PACKAGES) + 1
    sources = {
        path.relative_to(root / folder).as_posix(): path
        for folder in ("platform", "agents", "generative", "supervised")
        for path in (root / folder).rglob("*.py")
    }
    shipped = [*(root / "configs").rglob("*.yaml"), *(root / "configs").rglob("*.py")]
    configs = {f"rayloom/{path.relative_to(root).as_posix()}": path for path in shipped}
    assert configs and len(sources) > 20
    for name, path in {**sources, **configs}.items():
        assert files[name] == path.read_bytes(), name
    players = {
        path.relative_to(root / "agents").as_posix(): path
        for path in (root / "agents/rayloom_agents/alphago/players").rglob("*")
        if path.suffix in (".yaml", ".safetensors")
    }
    assert len(players) >= 4 and all(files[name] == path.read_bytes() for name, path in players.items())
    packaged = {name for name in files if name.split("/")[0] in PACKAGES}
    rest = {
        name for name in packaged - sources.keys() - configs.keys() - players.keys() if not name.endswith("/py.typed")
    }
    assert not {name for name in rest if name.endswith((".py", ".pyc", ".yaml", ".db", ".so"))}
    assert {f"{package}/py.typed" for package in PACKAGES} <= packaged


@pytest.mark.xdist_group("packaging")
def test_the_installed_wheel_finds_a_shipped_config_by_name(installed: Path, tmp_path: Path) -> None:
    code = (
        "import rayloom, rayloom.config.load as config, rayloom_agents.policy_gradient.ppo as ppo\n"
        "print(rayloom.__file__, ppo.__file__, config.find_config('ppo_cartpole'), sep='\\n')\n"
        "print(config.load('ppo_cartpole', ['seed=9']).seed)"
    )
    lines = python("-c", code, cwd=tmp_path, path=installed).stdout.splitlines()
    assert lines == [
        str(installed / "rayloom/__init__.py"),
        str(installed / "rayloom_agents/policy_gradient/ppo.py"),
        str(installed / "rayloom/configs/agents/policy_gradient/ppo_cartpole.yaml"),
        "9",
    ]


@pytest.mark.xdist_group("packaging")
def test_the_installed_wheel_has_the_command(installed: Path, tmp_path: Path) -> None:
    (metadata,) = installed.glob("rayloom-*.dist-info")
    assert "rayloom = rayloom.cli.entry:main" in (metadata / "entry_points.txt").read_text()
    done = python("-m", "rayloom", "list", cwd=tmp_path, path=installed)
    assert "  ppo_cartpole " in done.stdout


def test_the_checkout_is_installed_with_its_command() -> None:
    (command,) = entry_points(group="console_scripts", name="rayloom")
    assert command.value == "rayloom.cli.entry:main"


def test_a_checkout_first_on_the_path_hides_nothing(root: Path, tmp_path: Path) -> None:
    done = python("-c", f"{STANDARD_LIBRARY}; import ray", cwd=tmp_path, path=root)
    assert Path(done.stdout.splitlines()[0]).parent == Path(os.__file__).parent


def test_a_checkout_as_the_current_folder_hides_nothing(root: Path) -> None:
    done = python("-c", STANDARD_LIBRARY, cwd=root)
    assert Path(done.stdout.splitlines()[0]).parent == Path(os.__file__).parent


ACTOR = """
import sys
from pathlib import Path
import ray

ray.init(
    address="local",
    num_cpus=2,
    include_dashboard=False,
    log_to_driver=False,
    runtime_env={"working_dir": sys.argv[1]},
)


@ray.remote(num_cpus=1)
class Probe:
    def look(self):
        import os, platform, sys, uuid
        assert platform.system() and uuid.uuid4()
        return platform.__file__, os.__file__, sorted(entry.name for entry in Path.cwd().iterdir()), sys.path


platform_file, os_file, uploaded, path = ray.get(Probe.remote().look.remote(), timeout=120)
assert Path(platform_file).parent == Path(os_file).parent, platform_file
assert any("working_dir" in entry for entry in path), path
print(*uploaded)
ray.shutdown()
"""


@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(240)
def test_an_actor_whose_working_folder_is_the_checkout_starts(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "actor.py"
    script.write_text(ACTOR)
    done = python(str(script), str(root), cwd=tmp_path, timeout=200)
    uploaded = set(done.stdout.splitlines()[-1].split())
    assert {"platform", "agents", "generative", "supervised", "configs", "pyproject.toml"} <= uploaded
    assert not {".venv", ".git", "rayloom-runs"} & uploaded  # .gitignore keeps them at home
