"""Keys as MLflow takes them: every one valid, and no two the same."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from rayloom.tracking.writer.keys import LONGEST_KEY, mlflow_key

ODD = ["", ".", "..", "/", "//", "a//b", "a/_/b", "a/../b", "a/./b", "/a", "a/", "a@b", "a_b", "a(b", "a\nb", "a\0b"]
ODD += ["é", "e\u0301", "a\ud800", "x" * 250, "x" * 251, "x" * 252, "x" * 249 + "@", "x" * 250 + "@", " ", "a b", "a:b"]
ODD += ["recall@1", "recall_1", mlflow_key("recall@1"), mlflow_key(mlflow_key("recall@1"))]


@pytest.mark.parametrize("key", ["train/loss", "evaluate/return_mean", "stop.evaluate/accuracy", "a b:c-d.e", "é/x"])
def test_keys_that_mlflow_takes_stay(key: str) -> None:
    assert mlflow_key(key) == key


@pytest.mark.parametrize("key", ODD)
def test_every_key_becomes_one_that_mlflow_takes(key: str) -> None:
    found = mlflow_key(key)
    assert 0 < len(found) <= LONGEST_KEY and found.isprintable()
    for validate in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        validate(found)


def test_no_two_keys_become_one() -> None:
    assert len({mlflow_key(key) for key in ODD}) == len(set(ODD))


@given(st.lists(st.text("a_@/.x0 (", max_size=6), unique=True, max_size=30))
def test_no_two_of_any_keys_become_one(keys: list[str]) -> None:
    assert len({mlflow_key(key) for key in keys}) == len(keys)


def test_what_a_key_becomes_depends_on_nothing_else() -> None:
    """Another process, and another order, find the same."""
    keys = sorted(set(ODD) - {"a\ud800"})
    random.Random(3).shuffle(keys)
    code = f"from rayloom.tracking.writer.keys import mlflow_key\nprint(ascii([mlflow_key(k) for k in {keys!a}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ascii([mlflow_key(key) for key in keys])
