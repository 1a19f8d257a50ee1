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
_SERVICES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "RAY_ADDRESS")
for variable in _SERVICES:
    os.environ.pop(variable, None)

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch

from rayloom.seeding import seed_process

torch.set_num_threads(1)


SLOW_TESTS = Path(__file__).resolve().parent / "slow_tests.txt"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make quick` leaves out."""
    slow = set(SLOW_TESTS.read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid.partition("@")[0] in slow:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _fresh_seeds() -> Iterator[None]:
    """Seed the global generators before every test, so that no test depends on those that ran before it."""
    seed_process(0, "tests")
    yield


@pytest.fixture(autouse=True)
def _no_services() -> Iterator[None]:
    """Forget what a test left in the environment: MLflow writes there which store it was told to use."""
    yield
    for variable in _SERVICES:
        os.environ.pop(variable, None)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the checkout."""
    return Path(__file__).resolve().parent.parent


_shared_ray: list[tuple[str, int]] = []
"""Address and CPUs of the Ray that `one_node` has started and nobody has shut down."""


@pytest.fixture(autouse=True)
def _no_leftover_ray(request: pytest.FixtureRequest) -> None:
    """Give tests that start a Ray of their own, or none, a process without the shared one."""
    if _shared_ray and "one_node" not in request.fixturenames:
        _end_shared_ray()


@pytest.fixture
def one_node(request: pytest.FixtureRequest) -> None:
    """Have the one Ray of this process, with four CPUs or the module's NODE_CPUS.

    It stays for the next test, since starting one takes seconds. A fixture with a cluster of its own calls
    `ray.shutdown` first; whoever comes afterwards gets a new one.
    """
    import ray

    cpus = getattr(request.module, "NODE_CPUS", 4)
    if _has_shared_ray(cpus) and [node["Alive"] for node in ray.nodes()] == [True]:
        return
    _end_shared_ray()
    ray.init(address="local", include_dashboard=False, num_cpus=cpus, log_to_driver=False)
    _shared_ray.append((ray.get_runtime_context().gcs_address, cpus))


def _has_shared_ray(cpus: int | None = None) -> bool:
    import ray

    address = ray.get_runtime_context().gcs_address if ray.is_initialized() else None
    return any(address == known and cpus in (None, its) for known, its in _shared_ray)


def _end_shared_ray() -> None:
    import ray

    if _has_shared_ray():
        ray.shutdown()
    _shared_ray.clear()


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
