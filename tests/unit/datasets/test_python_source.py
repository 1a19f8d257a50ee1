"""The standard library's source as windows of characters."""

from __future__ import annotations

import pytest
import torch

from rayloom import datasets
from rayloom.datasets.python_source import standard_library_files, standard_library_text
from rayloom.errors import UserError

SMALL = {"kind": "python-source", "characters": 20_000, "length": 50}


def test_the_splits_are_one_text() -> None:
    data, text = datasets.load(SMALL, 0), standard_library_text(20_000)
    labels = data.spec["token"].labels
    written = ""
    for split, begin in ((data.train, 0), (data.validation, 16_000), (data.test, 18_000)):
        batch = split.rows(torch.arange(len(split)))
        written = "".join(labels[number] for number in batch["token"].flatten().tolist())
        after = "".join(labels[number] for number in batch["next_token"].flatten().tolist())
        plain = "".join(character if character in labels else "\0" for character in text[begin:])
        assert written.replace("(other)", "\0") == plain[: len(written)]
        assert after.replace("(other)", "\0") == plain[1 : len(written) + 1]
    assert len(data.train) == (16_000 - 1) // 50 and len(data.spec["token"].labels) < 128


def test_tests_and_installed_packages_are_left_out() -> None:
    names = {path.name for path in standard_library_files()}
    folders = {part for path in standard_library_files() for part in path.parts[-3:-1]}
    assert {"argparse.py", "textwrap.py"} <= names and not folders & {"test", "tests", "site-packages"}


def test_contents_do_not_depend_on_the_seed_and_settings_change_the_digest() -> None:
    first, second, other = (
        datasets.load(tree, seed) for tree, seed in ((SMALL, 0), (SMALL, 1), ({**SMALL, "length": 49}, 0))
    )
    assert first.digest == second.digest != other.digest


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"length": 2_000}, "shorten the window"), ({"validation": 0.6, "test": 0.6}, "hold out less")],
)
def test_impossible_cuts_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        datasets.load({**SMALL, **settings}, 0)
