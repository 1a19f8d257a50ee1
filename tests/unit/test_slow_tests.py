"""The list of tests that `make quick` leaves out names tests that there are."""

from __future__ import annotations

import ast
from pathlib import Path


def test_every_slow_test_exists_and_the_list_is_in_order(root: Path) -> None:
    lines = (root / "tests" / "slow_tests.txt").read_text(encoding="utf-8").splitlines()
    assert lines == sorted(set(lines)), "sort tests/slow_tests.txt"
    functions: dict[str, set[str]] = {}
    for line in lines:
        file, _, test = line.partition("::")
        if file not in functions:
            tree = ast.parse((root / file).read_text(encoding="utf-8"))
            functions[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test.partition("[")[0].rpartition("::")[2] in functions[file], f"{line} is no test any more"
