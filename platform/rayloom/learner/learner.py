"""The learner: weighs, reduces by global count, differentiates, all-reduces, clips and steps. Once, for everybody.

    draw --batch--> phase: loss -> gradient -> optimiser    (PhaseLearner, or one compiled graph)
                    rule:  sums -> apply                    (RuleLearner)

Parameters live in flat memory, of which the module's parameters are views, and so do their gradients. The update rules
of `optimizers.py` are elementwise, so this changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rayloom.config.schedules import SCHEDULES
from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, Batch, Loss, Phase, Rule, Source
from rayloom.devices import device_of
from rayloom.errors import UserError
from rayloom.learner.accumulation import Accumulation
from rayloom.learner.arithmetic import denormals_as_zero
from rayloom.learner.checks import check_after_update, check_phases
from rayloom.learner.flat_parameters import Piece, cut_into_pieces
from rayloom.learner.freezing import without_frozen
from rayloom.learner.group import Group, SingleLearner
from rayloom.learner.heeded import check_settings
from rayloom.learner.metric_sums import MetricSums, NotFinite
from rayloom.learner.noise import AddressedNoise
from rayloom.learner.phase import PhaseLearner
from rayloom.learner.rule import RuleLearner, Taken
from rayloom.learner.state import adopt, check_equal, own_buffers, shared_state


class Learner:
    """Runs the phases and rules of one algorithm. Owned by one thread."""

    def __init__(self, algorithm: Algorithm, config: LearnerConfig, group: Group | None = None, seed: int = 0) -> None:
        """Call `phases()` and lay out the memory; `seed` is the root of the noise."""
        self.algorithm = algorithm
        self.config = config
        self.updates = 0
        self.sums = MetricSums()
        self.group = group or SingleLearner()
        self.device = device_of(algorithm)
        self.noise = AddressedNoise(seed, self.device, self.group.rank, self.group.world_size)
        algorithm.noise = self.noise
        self._draws = 0
        self._source: Source | None = None
        # Before `phases`, in which layers may be handed what sums over learners.
        parts = Accumulation(algorithm, self.noise, config.accumulate) if config.accumulate > 1 else None
        steps = without_frozen(algorithm, check_phases(algorithm, algorithm.phases()), config.freeze)
        check_settings(algorithm, steps, config)
        pieces = iter(cut_into_pieces([step for step in steps if isinstance(step, Phase)]))
        self.phases: list[PhaseLearner | RuleLearner] = [
            RuleLearner(step, self.group)
            if isinstance(step, Rule)
            else self._make_phase(step, config, self.group, next(pieces))
            for step in steps
        ]
        for each in self.phases:
            if isinstance(each, PhaseLearner):
                each.accumulation = parts
        self.declared = steps
        """The phases and rules as the algorithm declares them."""
        constant = config.schedule == SCHEDULES.component()
        self._schedule: Callable[[Any, float, int], float] | None = None if constant else config.schedule.load()
        self._prefixes = ["" if len(steps) == 1 else f"{step.name}_" for step in steps]
        self._main = next((index for index, step in enumerate(steps) if isinstance(step, Phase)), None)
        self._conditional = all(step.when is not None for step in steps)
        self._stopping = [x for x in self.phases if isinstance(x, PhaseLearner) and x.phase.stop_above is not None]
        self._epoch_rules = [x for x in self.phases if isinstance(x, RuleLearner) and x.rule.over == "epoch"]
        self._checked = False

    @staticmethod
    def _make_phase(phase: Phase, config: LearnerConfig, group: Group, pieces: Sequence[Piece]) -> PhaseLearner:
        if config.compile is True and phase.compilable:
            from rayloom.learner.compiled import CompiledPhaseLearner

            return CompiledPhaseLearner(phase, config, group, pieces)
        return PhaseLearner(phase, config, group, pieces)

    def attach(self, source: Source) -> None:
        """Learn from this source: it tells when a pass is complete and how the batch is cut.

        UserError for a rule over epochs and a source that has none.
        """
        if self._epoch_rules and "epochs" not in source.counters():
            raise UserError(
                f"source: rule {self._epoch_rules[0].rule.name!r} of {type(self.algorithm).__name__} applies once an "
                "epoch, which only a data set has; take a data set as source"
            )
        if self._stopping and source.rollouts is None:
            raise UserError(
                f"source: phase {self._stopping[0].phase.name!r} of {type(self.algorithm).__name__} stops until there "
                f"is a fresh rollout, which {type(source).__name__} never says; take an on_policy source"
            )
        self._source = source
        self.noise.cut = source.cut

    def update(self, draw: Callable[[], Batch], feedback: Callable[[Loss], None]) -> None:
        """Run one update: every due phase, `repeat` times, each time on a fresh batch from `draw`."""
        algorithm, noise = self.algorithm, self.noise
        number = self.updates + 1
        scale = self._rate_scale(number)
        batch: Batch | None = None
        for index in self._due(number):
            learner, declared = self.phases[index], self.declared[index]
            if scale is not None and isinstance(learner, PhaseLearner):
                learner.set_rate_scale(scale)
            for repetition in range(declared.repeat):
                if batch is None or repetition or declared.repeat > 1:
                    batch = self._next(draw)
                noise.begin(number, declared.name, repetition)
                if isinstance(learner, RuleLearner):
                    self._record_rule(index, learner.step(batch))
                    continue
                if learner.stopped:
                    self._record_taken(index, learner)
                    continue
                with denormals_as_zero():
                    loss, norm = learner.step(batch)
                feedback(loss)
                self._record(index, loss, norm, batch)
                self._record_taken(index, learner)
        with torch.no_grad():
            metrics = algorithm.after_update(number)
        if metrics is not None:
            self._record_after(metrics)
        self.updates = number
        if not self._checked:
            check_equal(algorithm, self.group)
            self._checked = True

    def _due(self, number: int) -> list[int]:
        """Return the places of the phases that take part; all conditions are asked before a batch is drawn."""
        progress = self.algorithm.progress
        due = [
            index
            for index, declared in enumerate(self.declared)
            if not number % declared.every and (declared.when is None or declared.when(progress))
        ]
        if not due and self._conditional and not any(d.when(progress) for d in self.declared if d.when is not None):
            raise UserError(
                f"{type(self.algorithm).__name__}.phases(): in update {number} the `when` of every phase is false, so "
                "that nothing can ever change; let one of them be true"
            )
        return due

    def _next(self, draw: Callable[[], Batch]) -> Batch:
        """Draw a batch; what its preparation draws is addressed by the number of the draw."""
        self.noise.begin("prepare", self._draws)
        self._draws += 1
        if self._stopping and self._source is not None:
            return self._next_of_rollout(draw, self._source)
        if not self._epoch_rules or self._source is None:
            return draw()
        before = self._source.counters()["epochs"]
        batch = draw()
        ends = self._source.counters()["epochs"] > before
        for rule in self._epoch_rules:
            rule.drawn(ends)
        return batch

    def _next_of_rollout(self, draw: Callable[[], Batch], source: Source) -> Batch:
        """Draw a batch; a fresh rollout lets all phases go on."""
        before = source.rollouts
        batch = draw()
        if source.rollouts != before:
            for learner in self._stopping:
                learner.stopped = False
        return batch

    def _record_taken(self, index: int, learner: PhaseLearner) -> None:
        if learner.phase.stop_above is not None:
            self.sums.add(f"{self._prefixes[index]}steps_taken", torch.tensor(float(not learner.stopped)))

    def _record(self, index: int, loss: Loss, norm: Tensor | None, batch: Batch) -> None:
        self.sums.at = (self.updates + 1, self._draws)
        prefix, count = self._prefixes[index], loss.count
        weight = None if count is None else batch.get("weight")
        per_example = loss.per_example.detach()
        values = {"loss": per_example, **loss.metrics}
        if weight is not None:
            values = {name: value * weight if value.ndim else value for name, value in values.items()}
        for name, value in values.items():
            self.sums.add(f"{prefix}{name}", value, count)
        if prefix and index == self._main:
            self.sums.add("loss", values["loss"], count)
        if norm is not None:
            self.sums.add(f"{prefix}gradient_norm", norm)

    def _record_rule(self, index: int, taken: Taken) -> None:
        prefix = self._prefixes[index]
        for name, value in taken.metrics.items():
            self.sums.add(f"{prefix}{name}", value, taken.elements)
        for name, value in taken.changed.items():
            self.sums.add(f"{prefix}{name}", value.detach())

    def _record_after(self, metrics: Mapping[str, Tensor]) -> None:
        if not self._checked:
            check_after_update(self.algorithm, metrics)
        for name, value in metrics.items():
            self.sums.add(name, value)

    def _rate_scale(self, number: int) -> float | None:
        """Return the schedule's factor for this update; None when the rate never changes."""
        if self._schedule is None:
            return None
        return float(self._schedule(self.config.schedule.settings, min(1.0, self.algorithm.progress.fraction), number))

    def first_not_finite(self) -> NotFinite | None:
        """Return the first loss that was NaN or infinite, among those that have been asked for or saved; else what the
        last batch has done, if the weights have become so."""
        if self.sums.first_not_finite is not None:
            return self.sums.first_not_finite
        for each in self.phases:
            if isinstance(each, PhaseLearner) and not all(bool(flat.flat.isfinite().all()) for flat in each.flats):
                return NotFinite(self.updates, self._draws, "", (), 0)
        return None

    @property
    def draws(self) -> int:
        """Batches drawn so far."""
        return self._draws

    def learning_rate(self) -> float | None:
        """Return the present learning rate of the first phase; None where only rules learn."""
        return next((x.learning_rate for x in self.phases if isinstance(x, PhaseLearner)), None)

    def drain_metrics(self) -> dict[str, float]:
        """Return the means of the training metrics over all learners since the last call; all of them call it."""
        return self.sums.drain(self.group, self.device)

    def trained(self) -> dict[str, Tensor]:
        """Return what the phases train and the rules change, by name."""
        ids = {id(tensor) for each in self.declared for tensor in changed_by(each)}
        named = {**dict(self.algorithm.named_parameters()), **dict(self.algorithm.named_buffers())}
        return {name: tensor.detach() for name, tensor in named.items() if id(tensor) in ids}

    def state_dict(self) -> dict[str, Any]:
        """Return what all learners have alike: module, optimisers and counters."""
        return {
            "algorithm": shared_state(self.algorithm),
            "optimizers": [
                [optimizer.state_dict() for optimizer in each.optimizers] if isinstance(each, PhaseLearner) else []
                for each in self.phases
            ],
            "stopped": [isinstance(each, PhaseLearner) and each.stopped for each in self.phases],
            "updates": self.updates,
            "draws": self._draws,
        }

    def own_state_dict(self) -> dict[str, Any]:
        """Return what this learner has of its own: its buffers, what its rules have gathered, unreported metrics."""
        return {
            "buffers": own_buffers(self.algorithm),
            "rules": [each.state_dict() if isinstance(each, RuleLearner) else {} for each in self.phases],
            "sums": self.sums.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Restore what `state_dict` and `own_state_dict` returned."""
        adopt(self.algorithm, {**state["algorithm"], **own["buffers"]})
        for learner, optimizers, gathered in zip(self.phases, state["optimizers"], own["rules"], strict=True):
            if isinstance(learner, RuleLearner):
                learner.load_state_dict(gathered)
                continue
            for optimizer, saved in zip(learner.optimizers, optimizers, strict=True):
                optimizer.load_state_dict(saved)
        for learner, stopped in zip(self.phases, state["stopped"], strict=True):
            if isinstance(learner, PhaseLearner):
                learner.stopped = bool(stopped)
        self.updates = int(state["updates"])
        self._draws = int(state["draws"])
        self.sums.load_state_dict(own["sums"])


def changed_by(declared: Phase | Rule) -> Sequence[Tensor]:
    """Return what a phase trains or a rule changes."""
    return declared.changes if isinstance(declared, Rule) else declared.parameters
