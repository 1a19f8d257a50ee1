"""A source, data set, evaluation, rule or network that breaks a promise is found, and told in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from broken_parts import BROKEN_NETWORKS, BROKEN_PARTS, broken_run, good_network, network_of
from data_runs import points_run
from own_runs import games, line
from rayloom.config.schema import RunConfig
from rayloom.contract import TensorSpec
from rayloom.testing import CHECKS, ConformanceError, check_algorithm, check_network, small
from rayloom_supervised.networks.kinds import NETWORKS

VECTOR = TensorSpec(shape=(6,), dtype=torch.float32)
IMAGE = TensorSpec(shape=(1, 16, 16), dtype=torch.float32)


@pytest.mark.parametrize(("name", "check", "sentence"), BROKEN_PARTS, ids=[name for name, *_ in BROKEN_PARTS])
def test_a_broken_promise_of_a_part_is_found(name: str, check: str, sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence) as caught:
        CHECKS[check](small(broken_run(name)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [line(), games(), points_run("rule_kmeans:KMeans", "runs"), broken_run("Judge")],
    ids=["own source", "own source with workers", "rules alone", "own evaluation"],
)
def test_parts_that_keep_every_promise_are_not_blamed(config: RunConfig) -> None:
    assert [(result.name, result.failure) for result in check_algorithm(config) if result.failure] == []


def test_what_does_not_apply_to_rules_alone_is_skipped_and_not_praised() -> None:
    skipped = {result.name for result in check_algorithm(points_run("rule_kmeans:KMeans", "runs")) if result.skipped}
    assert skipped >= {"losses_fall", "shards_add_up", "losses_stay_on_the_device", "parameters_take_part"}
    assert not skipped & {"rules_add_up", "batches_fit", "shares_differ", "sources_continue", "data_repeat"}


@pytest.mark.parametrize(("kind", "sentence"), BROKEN_NETWORKS.items(), ids=[kind.__name__ for kind in BROKEN_NETWORKS])
def test_a_broken_network_is_found(kind: type[nn.Module], sentence: str) -> None:
    check_network(good_network, None, VECTOR, 3)
    with pytest.raises(ConformanceError, match=sentence):
        check_network(network_of(kind), None, VECTOR, 3)


@pytest.mark.parametrize("kind", sorted(NETWORKS.shipped))
def test_shipped_networks_keep_every_promise(kind: str) -> None:
    component = NETWORKS.component(kind)
    check_network(component.load(), component.settings, IMAGE, 4)
