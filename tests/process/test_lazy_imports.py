"""What a fresh interpreter imports for a small task: nothing heavy that the task can do without."""

from __future__ import annotations

import json
import subprocess
import sys


def test_rich_is_imported_for_terminals_only() -> None:
    code = (
        "import io, sys; from rayloom.cli.run_display import make_observer\n"
        "display = make_observer(io.StringIO()); display.run_id('x')\n"
        "print('rich' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_nothing_heavy_is_imported_for_lines() -> None:
    code = (
        "import io, json, sys; from rayloom.cli.study_display import make_study_observer\n"
        "display = make_study_observer(io.StringIO()); display.study_id('x')\n"
        "print(json.dumps([name in sys.modules for name in ('rich', 'torch', 'optuna', 'matplotlib')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [False] * 4


def test_configs_run_nothing_heavy() -> None:
    code = "import sys, rayloom.config.load; print(sorted({'ray', 'mlflow', 'optuna', 'gymnasium'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_are_loaded_without_importing_scikit_learn() -> None:
    code = (
        "import sys; from rayloom import datasets; datasets.load('digits', 0);"
        "print(sorted({'sklearn', 'pooch', 'requests', 'pandas', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "[]"
