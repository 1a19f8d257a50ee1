"""A terminal or file system that lacks letters, few file handles, a full disk, a Ray that does not start."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
extends: softmax_regression_digits
name: größe-ж
stop: {updates: 3}
tracking: {enabled: false}
"""


def rayloom(folder: Path, *words: str, limit: tuple[int, int] | None = None, **environment: str) -> tuple[int, str]:
    """Return exit code and both streams of a command line, with a limit (which, how much) on what it may use."""
    (folder / "odd.yaml").write_text(CONFIG, encoding="utf-8")

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(limit[0], (limit[1], limit[1]))

    done = subprocess.run(
        [sys.executable, "-m", "rayloom", *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
        preexec_fn=restrict,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.mark.parametrize("words", [("run", "odd.yaml", "--local"), ("show", "odd.yaml"), ("run", "odd.yaml", "--json")])
def test_what_the_terminal_cannot_write_is_escaped(words: tuple[str, ...], tmp_path: Path) -> None:
    code, text = rayloom(tmp_path, *words, PYTHONIOENCODING="ascii")
    assert code == 0 and r"gr\xf6\xdfe-\u0436" in text and "Traceback" not in text


def test_a_file_system_without_the_letters_is_told(tmp_path: Path) -> None:
    code, text = rayloom(tmp_path, "run", "odd.yaml", "--local", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert code == 2 and len(text.splitlines()) == 1, text
    assert "name: the encoding of file names here, ascii, lacks" in text and "PYTHONUTF8=1" in text


def test_few_file_handles_are_enough(tmp_path: Path) -> None:
    code, text = rayloom(tmp_path, "run", "odd.yaml", "--local", limit=(resource.RLIMIT_NOFILE, 24))
    assert code == 0 and "FINISHED" in text


def test_a_ray_that_does_not_start_is_a_sentence(tmp_path: Path) -> None:
    words = ("run", "ppo_cartpole_ray", "stop.updates=1", "tracking.enabled=false")
    code, text = rayloom(tmp_path, *words, RAY_TMPDIR="/proc/none")
    assert code == 2 and "Traceback" not in text
    assert "cluster: Ray did not start on this machine, twice (" in text.splitlines()[-1]


@pytest.mark.parametrize("size", [100, 4_000, 100_000])
def test_a_disk_that_is_full_from_the_first_moments_on(size: int, tmp_path: Path) -> None:
    # A limit on the size of a file is what a full disk is to whoever writes: the write fails (EFBIG for ENOSPC).
    code, text = rayloom(tmp_path, "run", "odd.yaml", "--local", limit=(resource.RLIMIT_FSIZE, size))
    assert code in (0, 2), text
    assert code == 0 or (text.splitlines()[-1].startswith("rayloom: ") and "Traceback" not in text), text
