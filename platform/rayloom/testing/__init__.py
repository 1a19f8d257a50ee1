"""For authors: checks of what one has written against the contract, and environments whose exact values are known."""

from __future__ import annotations

from rayloom.testing.conformance import CHECKS, Check, CheckResult, check_algorithm, small
from rayloom.testing.failures import ConformanceError
from rayloom.testing.networks import check_network
from rayloom.testing.probes import PROBES, Probe

__all__ = [
    "CHECKS",
    "PROBES",
    "Check",
    "CheckResult",
    "ConformanceError",
    "Probe",
    "check_algorithm",
    "check_network",
    "small",
]
