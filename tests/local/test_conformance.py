"""Every algorithm and every option that changes its data flow holds to the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cases import TREES, case
from rayloom.config.schema import RunConfig
from rayloom.testing import CHECKS, small

ALIKE = {"dqn_single", "dqn_acrobot", "impala_continuous", "cnn", "rnn_gru"}
"""Cases whose data flow another one has too."""


def whole(config: RunConfig) -> RunConfig:
    """Return the run as it is."""
    return config


@pytest.mark.parametrize("form", [small, pytest.param(whole, marks=pytest.mark.full)])
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in ALIKE else ()) for name in sorted(TREES)]
)
def test_the_contract_is_kept(name: str, check: str, form: Callable[[RunConfig], RunConfig]) -> None:
    CHECKS[check](form(case(name)))
