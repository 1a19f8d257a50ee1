"""Whatever is damaged in a run's folder: commands end with success or one sentence, and other runs stay usable."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

import rayloom
from cases import case
from damage import ANY, BOOKKEEPING, damage
from examples import examples
from outcomes import outcome

MUTANTS = examples(full=2000, short=100)
COMMANDS = ("resume", "evaluate", "sample", "runs", "compare")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with a killed run, one that has finished, a twin of the first, and a stranger."""
    output = tmp_path_factory.mktemp("pristine")
    parts: dict[str, dict[str, object]] = {
        "checkpoint": {"every": "1 epochs"},
        "stop": {"epochs": 3},
        "algorithm": {"latent_size": 2},
    }
    for seed in (1, 2):
        rayloom.run({**case("vae", str(output), **parts).to_tree(), "seed": seed}, local=True)
    killed, whole = sorted(output.glob("*-vae-*"), key=lambda folder: "seed: 2" in (folder / "config.yaml").read_text())
    killed.rename(output / "20260101-000000-killed-000000")
    whole.rename(output / "20260101-000001-whole-000000")
    others: dict[str, dict[str, dict[str, object]]] = {"vae": parts, "softmax_regression": {"stop": {"epochs": 2}}}
    for name, sections in others.items():
        rayloom.run({**case(name, str(output), **sections).to_tree(), "seed": 1, "name": f"other_{name}"}, local=True)
    killed = output / "20260101-000000-killed-000000"
    for name in ("writer.lock", "writer.log", "drawing.lock", "drawing.log"):
        (killed / "internal" / name).touch()
    (killed / "result.json").unlink()
    process = json.loads((killed / "internal/process.json").read_text())
    (killed / "internal/process.json").write_text(json.dumps({**process, "pid": 2**22 + 1}))
    (killed / "internal/mlflow.json").write_text(json.dumps({"run_id": "1" * 32, "uri": "", "experiment_id": "1"}))
    (killed / "internal/journal.ack").write_text(json.dumps({"offset": 0, "status": None, "problem": None}))
    shutil.rmtree(max((killed / "checkpoints").glob("step_*")))
    return output


def check(output: Path, command: str, name: str, what: str) -> int:
    """Check how a command ends, and that the other run is usable; return the first one's exit code."""
    other = "20260101-000001-whole-000000"
    words = {
        "resume": ["resume", name, "--quiet"],
        "evaluate": ["evaluate", name],
        "sample": ["sample", name, "--count", "2", "--destination", str(output / "sample.png")],
        "runs": ["runs"],
        "compare": ["compare", name, other],
    }[command]
    code, told = outcome(*words, "--output", str(output))
    assert code in (0, 2), f"{what}: {command} ended with {code}: {told}"
    if code == 2:
        sentence = told.splitlines()[-1]
        assert sentence.startswith("rayloom: ") and len(told) < 2000, f"{what}: {command} said {told}"
        assert "Traceback" not in told
    others, told = outcome("evaluate", other, "--output", str(output))
    assert others == 0, f"{what}: the other run cannot be evaluated: {told}"
    return code


@pytest.mark.parametrize("seed", range(MUTANTS))
def test_a_damaged_folder_is_one_sentence_or_no_matter(seed: int, pristine: Path, tmp_path: Path) -> None:
    chance = random.Random(seed)
    output = tmp_path / "runs"
    shutil.copytree(pristine, output)
    name = "20260101-000000-killed-000000"
    what = damage(output / name, chance)
    code = check(output, command := COMMANDS[seed % len(COMMANDS)], name, what)
    assert code == 2 or not what.startswith("checkpoints of") or command in ("runs", "compare"), what


@pytest.mark.parametrize("name", BOOKKEEPING[1:6])
def test_one_old_runs_bookkeeping_stops_nobody_else(name: str, pristine: Path, tmp_path: Path) -> None:
    for number, mutation in enumerate(ANY):
        output = tmp_path / str(number)
        shutil.copytree(pristine, output)
        path = output / "20260101-000000-killed-000000" / name
        if not path.exists():
            path.write_text("{}")
        mutation(path, random.Random(number))
        for words in (["evaluate", "20260101-000001-whole-000000"], ["runs"]):
            code, told = outcome(*words, "--output", str(output))
            assert code == 0, f"{name} {mutation.__name__}: {words[0]} said {told}"
        assert os.access(output, os.R_OK)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the newest checkpoint of another algorithm's run."""
    config = case("softmax_regression", str(tmp_path_factory.mktemp("foreign")), stop={"epochs": 2})
    return max((rayloom.run(config, local=True).run_dir / "checkpoints").glob("step_*"))


@pytest.mark.parametrize("command", ["resume", "evaluate", "sample"])
@pytest.mark.parametrize("whose", ["other", "same_algorithm"])
def test_a_checkpoint_of_another_run_is_refused(
    whose: str, command: str, pristine: Path, foreign: Path, tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    shutil.copytree(pristine, output)
    killed, whole = output / "20260101-000000-killed-000000", output / "20260101-000001-whole-000000"
    given = foreign if whose == "other" else max((whole / "checkpoints").glob("step_*"))
    for place in list((killed / "checkpoints").glob("step_*")):
        shutil.rmtree(place)
        shutil.copytree(given, place)
    check(output, command, killed.name, f"the checkpoint of {whose}")
    code, told = outcome(command, killed.name, "--output", str(output))
    assert code == 2 and "was made with" in told, told


def test_a_manifest_that_names_a_file_outside_reads_none(pristine: Path, tmp_path: Path) -> None:
    """Even with a hash that fits: what a manifest says of its tensors never becomes a path."""
    output = tmp_path / "runs"
    shutil.copytree(pristine, output)
    killed = output / "20260101-000000-killed-000000"
    for path in (killed / "checkpoints").glob("step_*/manifest.json"):
        manifest = json.loads(path.read_text())
        content = manifest["content"]
        text = content if isinstance(content, str) else json.dumps(content)
        changed = text.replace("state/role/learner/algorithm", "../../../../etc/passwd")
        manifest["content"] = changed if isinstance(content, str) else json.loads(changed)
        path.write_text(json.dumps(manifest))
    for command in ("resume", "evaluate"):
        check(output, command, killed.name, "a manifest that names files outside")
