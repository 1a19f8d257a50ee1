"""Tests that share a group run in one process: with some versions of pytest the groups are lost without a word."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("ray")
def test_groups_reach_the_scheduler(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("loadgroup", default=False):
        assert request.node.nodeid.endswith("@ray"), "pytest and pytest-xdist do not go together: see pyproject.toml"
    else:
        pytest.skip("the tests run without groups")
