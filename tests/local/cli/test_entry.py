"""Ctrl-C in the first moments of a command: 130 and one line, whatever was being imported."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest

from rayloom.cli import entry


def test_an_interrupted_import_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real: Callable[..., Any] = builtins.__import__

    def interrupted(name: str, *more: Any) -> Any:
        if name == "rayloom.cli.main":
            raise KeyboardInterrupt
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert entry.main() == 130
    assert capsys.readouterr().err == "rayloom: interrupted\n"


def test_the_entry_imports_nothing_that_takes_time() -> None:
    with open(entry.__file__, encoding="utf-8") as file:
        assert [line for line in file if line.startswith(("import", "from"))] == ["import sys\n"]
