"""Everything that the README tells a reader to do, done."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

TEXT = (ROOT / "README.md").read_text()
DEADLINE_S = 300


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.S | re.M)


def _commands() -> list[str]:
    return [line for block in _blocks("bash") for line in block.splitlines() if line.strip()]


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _rayloom(line: str, folder: Path) -> str:
    words = shlex.split(line)
    assert words[0] == "rayloom", line
    # The console script, as the reader types it: unlike `python -m`, it does not search the working folder by itself.
    return _run([str(Path(sys.executable).with_name("rayloom")), *words[1:]], folder)


@pytest.mark.xdist_group("ray")
def test_every_command_works_in_the_order_of_the_text(tmp_path: Path) -> None:
    commands = _commands()
    assert len(commands) == 14, "a command was added: see that it is run here"
    run_id = ""
    for line in commands:
        if line == "rayloom ui" or "reinforce" in line:
            continue  # each has a test of its own
        out = _rayloom(re.sub(r"\bRUN\b", run_id, line), tmp_path)
        if line.startswith("rayloom run "):
            run_id = out.splitlines()[0].strip()
            assert out.strip().splitlines()[-1] == run_id
        if line.startswith("rayloom sample"):
            assert (tmp_path / f"sample-{run_id}.png").stat().st_size > 1000
        if line.startswith("rayloom search"):
            assert "24 complete" in out and "best config" in out
        if "--chaos" in line:
            assert "chaos: struck" in out


def test_the_python_example_prints_an_accuracy(tmp_path: Path) -> None:
    example = next(block for block in _blocks("python") if "rayloom.run(" in block)
    assert len([line for line in example.splitlines() if line.strip()]) <= 6
    out = _run([sys.executable, "-c", example], tmp_path)
    assert float(out.split("accuracy ")[1].split(",")[0]) > 0.9


def test_the_readers_own_algorithm_learns(tmp_path: Path) -> None:
    (tmp_path / "reinforce.py").write_text(next(block for block in _blocks("python") if "class Reinforce" in block))
    (tmp_path / "reinforce_cartpole.yaml").write_text(next(b for b in _blocks("yaml") if "reinforce:Reinforce" in b))
    command = next(line for line in _commands() if "reinforce" in line)
    out = _rayloom(f"{command} tracking.enabled=false", tmp_path)
    best = max(float(value.replace(",", "")) for value in re.findall(r"evaluate/return_mean\s+([\d.,]+)", out))
    assert best >= 150, out[-2000:]


@pytest.mark.parametrize(
    ("algorithm", "part"),
    [("rayloom_agents.value_based.dqn", "# plan"), ("rayloom_agents.policy_gradient.ppo", "# search")],
)
def test_the_configs_in_the_text_are_valid(algorithm: str, part: str, tmp_path: Path) -> None:
    block = next(block for block in _blocks("yaml") if algorithm in block)
    (tmp_path / "mine.yaml").write_text(block)
    assert part in _rayloom("rayloom show mine.yaml", tmp_path)


@pytest.mark.xdist_group("ray")
def test_make_run_trains_until_475(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    virtual = Path(sys.executable).parent.parent
    if not (virtual / ".installed-dev").exists():
        pytest.skip("the tests do not run in the environment that `make install` makes")
    # The folder of the runs is the working directory's: run the recipe there, on the installed environment.
    recipe = subprocess.run(
        ["make", "--dry-run", "--silent", "run", f"VENV={virtual}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.strip()
    assert recipe.endswith("rayloom run ppo_cartpole_ray"), recipe
    out = subprocess.run(
        recipe.splitlines()[-1].split(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment,
    )
    assert out.returncode == 0, out.stderr[-4000:]
    assert "FINISHED (evaluate/return_mean >= 475)" in out.stdout
    assert "rayloom ui" in out.stdout


def test_the_pictures_are_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT):
        assert (ROOT / path).stat().st_size > 5_000, path


def test_platform_has_no_init_file() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
