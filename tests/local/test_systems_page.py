"""docs/systems.md lists every shipped config with its algorithm and what the config itself says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from places import ROOT
from rayloom.config.load import load, shipped_configs

PAGE = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
RUNS = {name: path for name, path in shipped_configs().items() if path.parent.name not in ("search", "cluster")}


def said(path: Path) -> str:
    """Return the comment with which a config begins."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].strip())
    return " ".join(lines)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_config_says_what_it_does_and_the_page_repeats_it(name: str) -> None:
    text = said(RUNS[name])
    assert len(text) >= 20 and not {"TODO", "RESULT"} & set(text.replace(".", " ").split()), text
    assert f"| `{name}` | `{load(name).algorithm_path}` | {text} |" in PAGE
