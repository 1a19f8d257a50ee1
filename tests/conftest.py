# ruff: noqa: E402  the environment is set before torch and Ray are imported
"""What every test shares: one thread per process, fresh seeds, no ambient services."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch and Ray are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A developer's own servers must neither receive the tests' runs nor decide their outcome.
for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "RAY_ADDRESS"):
    os.environ.pop(variable, None)

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch

from rayloom.seeding import seed_process

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_seeds() -> Iterator[None]:
    """Seed the global generators before every test, so that no test depends on those that ran before it."""
    seed_process(0, "tests")
    yield


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def one_node() -> Iterator[None]:
    """Start one Ray with four CPUs for all tests of a file."""
    import ray

    ray.init(address="local", include_dashboard=False, num_cpus=4, log_to_driver=False)
    yield
    ray.shutdown()


def require_fashion_mnist() -> None:
    """Skip where Fashion-MNIST is not installed; in continuous integration it must be."""
    from rayloom.datasets import load
    from rayloom.errors import UserError

    try:
        load("fashion-mnist", 0)
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
