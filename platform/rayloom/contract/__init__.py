"""The contract between the engine and those who write for it: what an author of anything reads.

An algorithm is a `torch.nn.Module` that proposes losses; the engine does everything else. One training *update* is

    for phase in algorithm.phases():              # skipped unless update % phase.every == 0 and phase.when(progress)
        for each of phase.repeat steps:           # every repetition draws a fresh batch, a new phase reuses the last
            loss = phase.loss(batch)              # per-example losses [B]
            step = sum(weight * loss.per_example) / sum of loss.count over all learners  # by the learner
            backward, all-reduce, clip, optimiser step                                   # by the learner
    algorithm.after_update(update)                # target networks

so that K shards of a batch give the same update as the whole batch. A `Rule` in place of a phase gathers sums and
applies them, without a gradient. Batches come from a source: a data set (`kind: dataset`), fresh rollouts
(`kind: on_policy`), rollouts of slightly older policies (`kind: asynchronous`), a replay buffer (`kind: replay`), or
one of your own (`import: "my_module:MySource"`).

Conventions: B examples of a batch, T time steps and N environments of a trajectory. Termination is a discount, never a
branch: gamma^n where the return bootstraps, 0 after a terminal state; a truncated episode bootstraps from its true
last observation. This package imports torch and the standard library only.

Settings that choose among components (a network by its kind, or one of the user's own) are declared by
`Annotated[Component, KINDS]` in a `Config`, with a table `Kinds` of those that are shipped: see `rayloom.components`.
"""

from __future__ import annotations

from rayloom.components import Component, Kinds, NoSettings, Shipped, component
from rayloom.contract.algorithm import Action, Algorithm, AlgorithmConfig, Input, Observation, replace_rows
from rayloom.contract.commands import Command, CommandHost, Learnt
from rayloom.contract.data import (
    Batch,
    Metric,
    Spec,
    Table,
    TensorSpec,
    Trajectory,
    gather_parts,
    spread_parts,
)
from rayloom.contract.evaluation import Budget, Evaluation, EvaluationContext, Findings
from rayloom.contract.figures import Figure
from rayloom.contract.noise import GlobalNoise, Noise
from rayloom.contract.source import Group, ReshardContext, Source, SourceContext, deal
from rayloom.contract.steps import Condition, Gathered, Loss, Phase, Progress, Rule
from rayloom.contract.workers import (
    Rollout,
    SourceWorker,
    WorkerContext,
    WorkerPool,
)
from rayloom.errors import UserError
from rayloom.evaluation_settings import EvaluationConfig
from rayloom.source_settings import SourceConfig, StreamConfig, WorkerConfig

__all__ = [
    "Action",
    "Algorithm",
    "AlgorithmConfig",
    "Batch",
    "Budget",
    "Command",
    "CommandHost",
    "Component",
    "Condition",
    "Evaluation",
    "EvaluationConfig",
    "EvaluationContext",
    "Figure",
    "Findings",
    "Gathered",
    "GlobalNoise",
    "Group",
    "Input",
    "Kinds",
    "Learnt",
    "Loss",
    "Metric",
    "NoSettings",
    "Noise",
    "Observation",
    "Phase",
    "Progress",
    "ReshardContext",
    "Rollout",
    "Rule",
    "Shipped",
    "Source",
    "SourceConfig",
    "SourceContext",
    "SourceWorker",
    "Spec",
    "StreamConfig",
    "Table",
    "TensorSpec",
    "Trajectory",
    "UserError",
    "WorkerConfig",
    "WorkerContext",
    "WorkerPool",
    "component",
    "deal",
    "gather_parts",
    "replace_rows",
    "spread_parts",
]
