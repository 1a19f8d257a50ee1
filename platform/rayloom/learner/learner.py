"""The learner: weighs, reduces by global count, differentiates, all-reduces, clips and steps. Once, for everybody.

Each phase's parameters live in one flat tensor, of which the module's parameters are views, and so do their gradients:
clipping, the all-reduce and the optimiser touch one tensor instead of dozens. The update rules of `optimizers.py` are
elementwise, so this changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rayloom.config.schedules import SCHEDULES
from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, Batch, Loss, Phase
from rayloom.learner.group import Group, SingleLearner
from rayloom.learner.metric_sums import MetricSums
from rayloom.learner.phase import PhaseLearner


class Learner:
    """Runs the phases of one algorithm. Owned by one thread."""

    def __init__(self, algorithm: Algorithm, config: LearnerConfig, group: Group | None = None) -> None:
        self.algorithm = algorithm
        self.config = config
        self.updates = 0
        self.sums = MetricSums()
        phases = algorithm.phases()
        assert phases, "an algorithm needs at least one phase"
        seen: set[int] = set()
        for phase in phases:
            assert isinstance(phase, Phase)
            ids = {id(parameter) for parameter in phase.parameters}
            assert not ids & seen, f"phase {phase.name} shares parameters with an earlier phase"
            seen |= ids
        self.phases = [
            self._make_phase(phase, config, group or SingleLearner()) for phase in phases if isinstance(phase, Phase)
        ]
        constant = config.schedule == SCHEDULES.component()
        self._schedule: Callable[[Any, float, int], float] | None = None if constant else config.schedule.load()
        self._prefixes = ["" if len(phases) == 1 else f"{phase.name}_" for phase in phases]

    @staticmethod
    def _make_phase(phase: Phase, config: LearnerConfig, group: Group) -> PhaseLearner:
        if config.compile and phase.compilable:
            from rayloom.learner.compiled import CompiledPhaseLearner

            return CompiledPhaseLearner(phase, config, group)
        return PhaseLearner(phase, config, group)

    def update(self, draw: Callable[[], Batch], feedback: Callable[[Loss], None]) -> None:
        """Run one update: every due phase, `repeat` times, each time on a fresh batch from `draw`."""
        algorithm = self.algorithm
        number = self.updates + 1
        scale = self._rate_scale(number)
        batch: Batch | None = None
        for index, learner in enumerate(self.phases):
            phase = learner.phase
            if number % phase.every:
                continue
            if scale is not None:
                learner.set_rate_scale(scale)
            for repetition in range(phase.repeat):
                if batch is None or repetition or phase.repeat > 1:
                    batch = draw()
                loss, norm = learner.step(batch)
                feedback(loss)
                self._record(index, loss, norm)
        with torch.no_grad():
            algorithm.after_update(number)
        self.updates = number

    def _record(self, index: int, loss: Loss, norm: Tensor | None) -> None:
        prefix = self._prefixes[index]
        per_example = loss.per_example.detach()
        self.sums.add(f"{prefix}loss", per_example)
        if prefix and index == 0:
            self.sums.add("loss", per_example)
        for name, value in loss.metrics.items():
            self.sums.add(f"{prefix}{name}", value)
        if norm is not None:
            self.sums.add(f"{prefix}gradient_norm", norm)

    def _rate_scale(self, number: int) -> float | None:
        """Return the schedule's factor for this update; None when the rate never changes."""
        if self._schedule is None:
            return None
        return float(self._schedule(self.config.schedule.settings, min(1.0, self.algorithm.progress.fraction), number))

    def trained(self) -> dict[str, Tensor]:
        """Return the trained parameters by name."""
        ids = {id(parameter) for learner in self.phases for parameter in learner.flat.parameters}
        return {name: p.detach() for name, p in self.algorithm.named_parameters() if id(p) in ids}

    def state_dict(self) -> dict[str, Any]:
        """Return module, optimisers, counters and unreported metrics."""
        return {
            "algorithm": dict(self.algorithm.state_dict()),
            "optimizers": [learner.optimizer.state_dict() for learner in self.phases],
            "updates": self.updates,
            "sums": self.sums.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.algorithm.load_state_dict(state["algorithm"])
        for learner, saved in zip(self.phases, state["optimizers"], strict=True):
            learner.optimizer.load_state_dict(saved)
        self.updates = int(state["updates"])
        self.sums.load_state_dict(state["sums"])
