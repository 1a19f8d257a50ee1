"""What several tests of the engine need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_node() -> Iterator[None]:
    """Start one Ray with four CPUs for all tests of a file."""
    import ray

    ray.init(address="local", include_dashboard=False, num_cpus=4, log_to_driver=False)
    yield
    ray.shutdown()
