"""What a machine, environment or path refuses ends a command with one sentence; mistakes of ours keep their trace."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from rayloom.cli import commands
from rayloom.cli.main import main
from rayloom.errors import EnvironmentFault


def refused(code: int) -> OSError:
    return OSError(code, os.strerror(code), "/somewhere/file")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        *((refused(code), "/somewhere/file cannot be written or opened; free some room") for code in (28, 24, 122)),
        *((refused(code), "/somewhere/file cannot be written or opened; make it accessible") for code in (13, 30, 36)),
        (MemoryError(), "there is not enough memory (none is left); lower the sizes of batches"),
        (torch.OutOfMemoryError("CUDA out of memory"), "there is not enough memory (CUDA out of memory)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "there is not enough memory (Default"),
        (EnvironmentFault("environment 0 returned at its step 4 the reward nan"), "source.env: environment 0 returned"),
    ],
)
def test_what_the_machine_or_an_environment_refuses_is_one_sentence(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: object) -> int:
        raise error

    monkeypatch.setattr(commands, "runs_command", fail)
    assert main(["runs"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rayloom: ") and told in said and said.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyError("x"), OSError(errno.EIO, "x"), OverflowError("math")])
def test_a_mistake_of_ours_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> int:
        raise error

    monkeypatch.setattr(commands, "runs_command", fail)
    with pytest.raises(type(error)):
        main(["runs"])


@pytest.mark.parametrize("folder", ["x" * 300, "é" * 200, "x/" * 3000])
def test_an_output_folder_that_is_too_long_is_refused(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["runs"], ["evaluate", "abcdefgh"], ["resume", "abcdefgh"], ["rm", "abcdefgh"]):
        assert main([*words, "--output", folder]) == 2
        assert "letters is too long; write at most" in capsys.readouterr().err
