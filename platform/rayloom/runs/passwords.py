"""The passwords that a config in a run folder leaves out: where whoever goes on with the run gets them again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rayloom.config.load import apply_overrides, from_tree
from rayloom.config.schema import RunConfig, flatten
from rayloom.errors import UserError
from rayloom.redaction import completed, lacks_secret, redacted_tree
from rayloom.tracking.location import TRACKING_URI

STORAGE = "RAYLOOM_SEARCH_STORAGE"
"""The variable with the whole URL of a study's database where its config leaves the password out."""
_FROM_ENVIRONMENT = {"tracking.uri": TRACKING_URI, "search.storage": STORAGE}


def given_passwords(config: RunConfig, overrides: Sequence[str]) -> tuple[RunConfig, tuple[str, ...]]:
    """Return a recorded config with the URLs that overrides give again, and the overrides that do something else."""
    recorded = config.to_tree()
    tree, others = recorded, []
    for override in overrides:
        lacks = _lacks_any(flatten(recorded).get(override.partition("=")[0]))
        if lacks and redacted_tree(apply_overrides(recorded, [override])) == recorded:
            tree = apply_overrides(tree, [override])
        else:
            others.append(override)
    return config if tree == recorded else from_tree(tree), tuple(others)


def with_passwords(config: RunConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """Return a recorded config with the passwords of its URLs, given as `tracking.uri=URL` or by the environment.

    UserError for one that is missing, and for an override that changes anything but a password.
    """
    given, others = given_passwords(config, overrides)
    if others:
        raise UserError(
            f"{others[0].partition('=')[0]}: what goes on keeps its settings; only a URL that was recorded without its "
            f"password is given again, the same but for that"
        )
    recorded = tree = given.to_tree()
    for key, value in flatten(tree).items():
        if key in _FROM_ENVIRONMENT and isinstance(value, str):
            tree = _put(tree, key, completed(value, [os.environ.get(_FROM_ENVIRONMENT[key])]) or value)
    missing = [key for key, value in flatten(tree).items() if _lacks_any(value) and _needed(config, key)]
    if missing:
        raise UserError(_sentence(missing[0], flatten(tree)[missing[0]]))
    return given if tree == recorded else from_tree(tree)


def whole_storage(url: str) -> str:
    """Return the URL of a study's database with its password; UserError where it has none and nobody has it."""
    whole = completed(url, [os.environ.get(STORAGE)])
    if whole is None:
        raise UserError(_sentence("search.storage", url))
    return whole


def _needed(config: RunConfig, key: str) -> bool:
    return key != "tracking.uri" or config.tracking.enabled


def _lacks_any(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_lacks_any(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_lacks_any(item) for item in value)
    return isinstance(value, str) and lacks_secret(value)


def _put(tree: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    part, name = key.split(".")
    return {**tree, part: {**tree[part], name: value}}


def _sentence(key: str, url: Any) -> str:
    variable = f"set {_FROM_ENVIRONMENT[key]} to the whole of it, or " if key in _FROM_ENVIRONMENT else ""
    return f"{key}: {url} stands here without its password; {variable}give it as {key}=URL"
