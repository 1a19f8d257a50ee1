"""What an update is made of: phases, which descend a loss, and rules, which do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from rayloom.contract.data import Batch


@dataclass
class Progress:
    """How far the run is. The engine refreshes it before every rollout and every update; schedules read it."""

    updates: int = 0
    env_steps: int = 0
    epochs: int = 0
    fraction: float = 0.0
    """Share of the stopping budget that is spent, 0 to 1."""


@dataclass(frozen=True)
class Loss:
    """What a phase proposes for one batch."""

    per_example: Tensor
    """The loss of each example, [B], with gradient. The learner weights, sums and divides by the global count."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached tensors, [B] or scalar; they stay on the device until the log step. Those of examples are averaged over
    all learners; where there is a `count`, they are weighed and divided as the loss is."""
    priorities: Tensor | None = None
    """New replay priorities [B], non-negative, detached; only for sources that ask for them."""
    count: Tensor | None = None
    """How many elements each example stands for, [B], detached and non-negative: the valid tokens of a padded sequence,
    the weight of its class, 0 for a masked example. `per_example` is then the sum over those elements, and the learner
    divides by the sum of all learners' counts. None: 1 each."""


Condition = Callable[[Progress], bool]
"""Decides by counters alone whether a phase or rule takes part in an update, so that a resumed run decides alike."""


@dataclass(frozen=True)
class Phase:
    """One optimiser and the loss that it descends."""

    name: str
    loss: Callable[[Batch], Loss]
    parameters: tuple[nn.Parameter, ...]
    """What it trains. Phases may share parameters; each has optimiser states of its own for them."""
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    """Settings that override `learner.optimizer` for this phase, for instance {"learning_rate": 1e-4}."""
    repeat: int = 1
    """Steps of this phase in one update, each on a fresh batch (n_critic of WGAN)."""
    every: int = 1
    """Run only in every n-th update (the delayed actor of TD3)."""
    when: Condition | None = None
    """Run only in updates for which it is true: phases that change over a run (layer-wise pre-training). It sees the
    counters as they were before the update; in no update may it be false for every phase. None: always."""
    groups: tuple[tuple[tuple[nn.Parameter, ...], Mapping[str, Any]], ...] = ()
    """Some of `parameters`, with settings of the optimiser that differ for them: no weight decay on biases."""
    after_step: Callable[[], None] | None = None
    """Changes the parameters in place after each step of the optimiser, without gradient (weight clipping)."""
    stop_above: tuple[str, float] | None = None
    """A metric of the loss and a limit. Once the metric's mean over the batch of all learners is larger, neither this
    step nor any later one is taken until the source has a fresh rollout: what is left of the old one is drawn, so that
    counters and schedules go on, and not learnt from; the optimiser's state stays. Needs a source that counts
    `rollouts`, and waits for the device in every step. None: every step is taken."""
    compilable: bool = True
    """False forbids torch.compile: needed where the loss itself differentiates (gradient penalty), branches on anything
    but its batch and the module's tensors, such as `progress`, or changes buffers (batch norm)."""
    autocast: bool = True
    """False keeps the loss in float32 also with `learner.precision: bfloat16`: needed for a gradient penalty."""


@dataclass(frozen=True)
class Gathered:
    """What a rule reads off one batch, or off a learner's part of it."""

    sums: dict[str, Tensor]
    """Statistics summed over the examples at hand, of any shape; the learner adds them up over all learners, in float64
    where they are real."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """As in `Loss`."""
    count: Tensor | None = None
    """As in `Loss`, [B]; None: 1 for each example."""


@dataclass(frozen=True)
class Rule:
    """A step that is no gradient descent: statistics of the data, added up over all learners, then the same change on
    each of them (EM, Hebb, contrastive divergence, dynamic programming, the perceptron, closed forms)."""

    name: str
    gather: Callable[[Batch], Gathered]
    """Reads the batch and changes nothing. Runs without gradient."""
    apply: Callable[[dict[str, Tensor], float], Mapping[str, Tensor] | None]
    """Takes the sums over all learners and the count, changes `changes` in place by them alone, and may return metrics
    (scalars)."""
    changes: tuple[Tensor, ...]
    """Parameters and buffers that `apply` changes."""
    over: Literal["batch", "epoch"] = "batch"
    """batch: gather and apply on every batch. epoch: gather on every batch and apply once a pass over the training data
    is complete, to the sums of the whole pass; only with a data set."""
    repeat: int = 1
    """Times in one update, each on a fresh batch."""
    every: int = 1
    """Run only in every n-th update."""
    when: Condition | None = None
    """As in `Phase`."""
