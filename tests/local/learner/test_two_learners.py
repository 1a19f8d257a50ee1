"""Two learners of every system: they agree, a saved run of both goes on exactly, and what was counted is counted once.

They are threads of this process. The processes over gloo are those of `tests/cluster/test_data_parallel*.py`.
"""

from __future__ import annotations

import pytest

from cases import TREES, case
from learners import assert_two_go_on
from rayloom.config.load import load, shipped_configs

ONE_GENERATOR = {"mlp_dropout"}
"""Cases that draw from torch's global generator, of which threads have one between them."""


@pytest.mark.parametrize("name", sorted(TREES.keys() - ONE_GENERATOR))
def test_two_learners_agree_and_go_on_exactly_from_what_they_saved(name: str) -> None:
    assert_two_go_on(case(name))


def test_two_learners_that_accumulate_gradients_go_on_exactly() -> None:
    assert_two_go_on(case("lenet5", learner={"accumulate": 3}))


def test_two_learners_that_mix_weighted_examples_go_on_exactly() -> None:
    assert_two_go_on(case("softmax_regression", algorithm={"mix_up": 0.4, "class_weights": "balanced"}))


def test_every_shipped_algorithm_has_a_small_run() -> None:
    """What is not among them would be in neither of these, the conformance suite and the kill matrix."""
    shipped = {load(name).algorithm_path for name in shipped_configs()}
    assert shipped <= {tree["algorithm"]["import"] for tree in TREES.values()}
