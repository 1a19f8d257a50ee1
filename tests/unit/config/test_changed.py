"""The part of a config that is not the default: shorter, and the same config."""

from __future__ import annotations

import json

import pytest

from cases import TREES, case
from rayloom.cli.main import main
from rayloom.config.load import from_tree, load, parse_yaml, shipped_configs
from rayloom.config.schema import RunConfig, flatten


def configs() -> list[RunConfig]:
    return [load(name) for name in sorted(shipped_configs())] + [case(name) for name in sorted(TREES)]


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.name)
def test_it_is_the_same_config_in_fewer_keys(config: RunConfig) -> None:
    tree = config.changed_tree()
    assert from_tree(tree) == config
    assert from_tree(parse_yaml(config.to_yaml(changed=True), "it")) == config
    whole, part = flatten(config.to_tree()), flatten(tree)
    assert part.items() <= whole.items() and len(part) < len(whole) / 2


def test_only_what_differs_is_in_it() -> None:
    config = case("softmax_regression", learner={"optimizer": {"kind": "adam", "learning_rate": 0.5}, "threads": 1})
    tree = config.changed_tree()
    assert tree["learner"] == {"batch_size": 64, "optimizer": {"kind": "adam", "learning_rate": 0.5}}
    assert tree["source"] == {"kind": "dataset", "dataset": {"kind": "digits"}}
    assert "seed" not in tree and "cluster" not in tree


def test_show_leaves_out_what_is_as_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "softmax_regression_digits", "--changed", "--json", "learner.batch_size=7"]) == 0
    told = capsys.readouterr()
    assert "batch_size: 7" in told.err and "max_grad_norm" not in told.err and "trained parameters" in told.err
    tree = json.loads(told.out)["config"]
    assert tree["learner"]["batch_size"] == 7 and "cluster" not in tree
