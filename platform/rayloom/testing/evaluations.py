"""What an evaluation must hold to: what it says about its metrics, its budget and the files that it writes."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from rayloom.config.schema import RunConfig
from rayloom.contract import Evaluation, Findings
from rayloom.runs.evaluations import DataEvaluation, NoEvaluation
from rayloom.runs.objectives import declared_metrics
from rayloom.testing.failures import require
from rayloom.testing.roles import run_role

_ASKED = 2


def evaluations_keep_their_word(config: RunConfig) -> str | None:
    """Check that an evaluation finds what it declares, counts its work and writes files inside the run's folder."""
    kind = config.evaluate.load()
    if issubclass(kind, NoEvaluation):
        return "it is not judged"
    author = config.algorithm_class() if issubclass(kind, DataEvaluation) else kind
    with run_role(config) as role:
        role.learner.update(role.source.next, role.source.feedback)
        found = role.evaluate(_ASKED)
        units = role.evaluator.units
        known = declared_metrics(config, list(role.parameter_counts()))
    require(bool(found.metrics), f"{author.__name__} finds nothing: an evaluation returns metrics")
    require(units > 0, f"{kind.__name__}.run never calls budget.done(): a unit that hangs would hang the run")
    declared = [name for name in known if name.startswith("evaluate/")]
    for name, value in found.metrics.items():
        require(math.isfinite(value), f"{name} is {value}")
        require(
            any(fnmatchcase(name, pattern) for pattern in declared),
            f"{name} is found and not declared: add it to {author.__name__}.metrics with the direction in which it "
            "improves, or no run can stop by it or keep its best weights",
        )
    _check_missing(author.__name__, kind, declared, found)
    for path in found.files:
        place = PurePosixPath(path)
        inside = bool(place.parts) and not place.is_absolute() and ".." not in place.parts
        require(inside, f"{kind.__name__}: the file {path!r} must have a relative path")
    return None


def _check_missing(author: str, kind: type[Evaluation], declared: list[str], found: Findings) -> None:
    """Require what an own evaluation declares; an algorithm's metrics may be those of its training."""
    if issubclass(kind, DataEvaluation):
        return
    missing = [name for name in declared if "*" not in name and name not in found.metrics]
    require(not missing, f"{author} declares {', '.join(missing)} and does not find it: no run could ever stop by it")
