"""YAML that would take all memory or never end is one sentence."""

from __future__ import annotations

import time

import pytest

from rayloom.config.load import parse_yaml
from rayloom.errors import UserError


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (bomb(9), "more than 100,000 values: leave out aliases of aliases"),
        ("a: &a [*a]", "more than 100,000 values"),
        ("a: &a {b: {c: *a}}", "more than 100,000 values"),
        (f"a: [{', '.join(['1'] * 100_001)}]", "more than 100,000 values"),
        ("a: " + "[" * 60 + "]" * 60, "nested deeper than 50 levels"),
        ("a: " + "[" * 100_000, "nested deeper than 50 levels"),
        ("\n".join(" " * depth + "a:" for depth in range(300)), "nested deeper than 50 levels"),
        ("? [a, b]\n: 1", "a key must be a word"),
        ("a: 1\na: 2", "stands twice"),
    ],
    ids=["bomb", "itself", "itself inside", "long", "deep", "very deep", "deep mappings", "list key", "twice"],
)
def test_it_is_refused_at_once(text: str, sentence: str) -> None:
    started = time.process_time()
    with pytest.raises(UserError, match=rf"^it: .*{sentence}"):
        parse_yaml(text, "it")
    assert time.process_time() - started < 30


def test_aliases_that_save_some_writing_are_fine() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {d: *a}", "it") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
    assert parse_yaml(bomb(3), "it")["a2"][0][0][0] == "x"
    assert parse_yaml("", "it") is None and parse_yaml("7", "it") == 7
    assert len(parse_yaml("{" + ", ".join(f"k{n}: 1" for n in range(20_000)) + "}", "it")) == 20_000
