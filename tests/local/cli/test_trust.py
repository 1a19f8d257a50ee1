"""What docs/trust.md says about a stranger's run: looking at it runs none of its code, and checkpoints are data."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import case
from rayloom.checkpoint.store import CheckpointStore
from rayloom.cli.main import main
from rayloom.errors import UserError
from rayloom.runs.folders import RESULT

CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from rayloom_supervised.tasks.classification import Classifier
class Strange(Classifier):
    pass
"""


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an output folder with two runs whose configs name code of the working folder."""
    output = tmp_path / "runs"
    for _ in range(2):
        rayloom.run(case("softmax_regression", str(output)), "stop={updates: 1}", "evaluate.every=null", local=True)
    for config in output.glob("*/config.yaml"):
        text = config.read_text()
        assert "rayloom_supervised.tasks.classification:Classifier" in text
        config.write_text(text.replace("rayloom_supervised.tasks.classification:Classifier", "strange_code:Strange"))
    (tmp_path / "strange_code.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return output


def test_looking_at_a_run_imports_none_of_its_code(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sorted(folder.name for folder in output.iterdir() if folder.is_dir())
    for words in (["runs"], ["compare", first, second], ["rm", first]):
        assert main([*words, f"--output={output}"]) == 0, capsys.readouterr().err
        assert not (tmp_path / "ran").exists(), words
    assert "strange" not in capsys.readouterr().err
    main(["evaluate", second, f"--output={output}"])
    assert (tmp_path / "ran").exists(), "a run folder is a program for the other commands"


def test_what_a_strangers_files_say_cannot_steer_a_terminal(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sorted(folder for folder in output.iterdir() if folder.is_dir())
    result = json.loads((first / RESULT).read_text())
    (first / RESULT).write_text(
        json.dumps({**result, "stopped_by": "\x1b[2J\r\x07", "metrics": {}, "status": "A\x1bB"})
    )
    (first / "internal/journal.jsonl").write_text("")
    second = second.rename(second.with_name("x\x1b[31m\u202ey"))
    (second / "config.yaml").write_text('name: ["\\e[31m": {')
    assert main(["runs", f"--output={output}"]) == 0
    assert main(["compare", first.name, first.name, f"--output={output}"]) == 0
    said = capsys.readouterr()
    assert r"\x1b[2J" in said.out and r"A\x1bB" in said.out
    assert all(sign.isprintable() or sign == "\n" for sign in said.out + said.err)


def test_nothing_is_unpickled(root: Path) -> None:
    unsafe = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch.load"}
    found = []
    for folder in ("platform", "agents", "generative", "supervised"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [ast.unparse(node.func)] if isinstance(node, ast.Call) else []
                found += [f"{path.name}: {name}" for name in names if name in unsafe]
    assert found == []


def test_a_checkpoint_that_is_a_pickle_is_damaged_and_not_run(output: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    folder = next(path for path in output.glob("*/checkpoints/*") if path.is_dir())
    for path in folder.iterdir():
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="damaged"):
        CheckpointStore(folder.parent, 1, "max").load(folder)
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())  # noqa: S301  that it could run is the point
    assert (tmp_path / "ran").exists(), "it was none"
