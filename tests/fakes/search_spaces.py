"""A small config and the search spaces that YAML describes, for the tests of searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayloom.config.load import from_tree, parse_yaml
from rayloom.config.search import SearchConfig
from rayloom.errors import UserError
from rayloom.search.space import Space
from tiny_algorithm import TINY

BASE: dict[str, Any] = {
    "name": "tiny",
    "algorithm": {"import": TINY, "clip": 0.1},
    "source": {"kind": "on_policy", "env": "CartPole-v1"},
    "learner": {"schedule": {"kind": "linear"}},
    "stop": {"env_steps": 1_000, "evaluate/return_mean": 475},
}
CONFIG = from_tree(BASE)


def space(text: str) -> Space:
    """Return the space that YAML describes."""
    return Space.parse(parse_yaml(text, "test"))


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """Return the one sentence of a refusal."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def search(text: str = "{}", **settings: Any) -> SearchConfig:
    """Return search settings as a config gives them."""
    tree = {**BASE, "search": {"space": parse_yaml(text, "test"), **settings}}
    found = from_tree(tree).search
    assert found is not None
    return found


CONDITIONAL = """
momentum: {float: [0.0, 0.5], step: 0.5, when: {kind: [sgd, rmsprop], depth: 2}}
nesterov: {choice: [true, false], when: {momentum_kind: b}}
kind: [adam, sgd, rmsprop]
depth: {int: [1, 2]}
momentum_kind: {choice: [a, b], when: {kind: sgd}}
"""
FITTING = """
learner.optimizer.learning_rate: {log: [1.0e-5, 1.0e-2]}
learner.optimizer.kind: [adam, sgd]
learner.optimizer.momentum: {float: [0.0, 0.9], when: {learner.optimizer.kind: sgd}}
learner.batch_size: {int: [4, 8], transform: power_of_two}
learner.max_grad_norm: [null, 0.5]
learner.compile: [true, false]
algorithm.clip: {log: [1.0e-3, 0.1], transform: one_minus}
algorithm.sizes: {list: {length: {int: [0, 3]}, item: {choice: [32, 64]}}}
source.env_options: [{}, {render_mode: null, a: [1]}]
source.wrappers: [[], [clip_reward], [{kind: time_limit, max_episode_steps: 9}, {kind: clip_reward, high: 0.5}]]
evaluate.episodes: {int: [1, 9]}
source.env_options2.x: [1]
seed: {int: [0, 9]}
"""
FLAT = "a: {log: [1, 2]}\nb: {int: [1, 2]}"
