"""A run without MLflow draws its figures in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cases import case
from processes import finish, kill_after, run_folder, start, write_config
from tracking_store import wait_for

CODE = """
import sys, json
import rayloom
from cases import case
config = case("softmax_regression", sys.argv[1], tracking={"pictures": sys.argv[2] == "yes"}, stop={"epochs": 1})
result = rayloom.run(config, local=True)
print(json.dumps({"folder": str(result.run_dir), "loaded": "matplotlib" in sys.modules}))
"""


def train(output: Path, pictures: str) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(output), pictures],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert not told["loaded"], "the process that trains draws nothing"
    return Path(told["folder"])


def test_figures_and_curves_are_drawn_without_mlflow(tmp_path: Path) -> None:
    folder = train(tmp_path, "yes")
    wait_for(lambda: (folder / "curves.png").exists(), "the curves")
    stored = list((folder / "figures" / "confusion_matrix").glob("step_*.npz"))
    assert stored
    for path in stored:
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "internal/drawing.log").read_text() == ""


def test_pictures_can_be_turned_off(tmp_path: Path) -> None:
    assert case("softmax_regression").tracking.pictures is False
    folder = train(tmp_path, "no")
    assert list((folder / "figures").rglob("*.npz"))
    assert not (folder / "internal/drawing.log").exists()


@pytest.mark.full
def test_the_animation_of_a_run_that_was_killed_is_that_of_one_that_was_not(tmp_path: Path) -> None:
    every = {"every": "10 updates"}
    animations = []
    for number, kill in enumerate((False, True)):
        output = tmp_path / str(number)
        config = case(
            "gan_averaged", str(output), tracking={"pictures": True, **every}, evaluate={"every": "40 updates"},
            checkpoint=every, stop={"updates": 400},
        )  # fmt: skip
        file = write_config(config, tmp_path)
        process = start("run", str(file), "--local", cwd=tmp_path)
        if kill:
            assert kill_after(process, output, 12), "it ended before it could be killed"
            assert not list(output.rglob("over_steps.gif"))
            process = start("resume", run_folder(output).name, "--output", str(output), cwd=tmp_path)
        finish(process)
        animation = run_folder(output) / "figures" / "samples" / "over_steps.gif"
        wait_for(animation.exists, "the animation")
        animations.append(animation.read_bytes())
    assert animations[0] == animations[1]
