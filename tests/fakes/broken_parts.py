"""Sources, data sets, evaluations, rules and networks that each break one promise of the contract."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from data_runs import points_run
from own_runs import line
from own_sources import Line, NoisyLine, NoisyLineConfig
from rayloom.config.schema import RunConfig
from rayloom.contract import (
    Algorithm,
    AlgorithmConfig,
    Batch,
    Budget,
    Evaluation,
    EvaluationConfig,
    Findings,
    Gathered,
    Metric,
    ReshardContext,
    Spec,
    Table,
    TensorSpec,
    component,
)
from rayloom.datasets import Dataset
from rule_kmeans import KMeans, KMeansConfig

# --- sources ----------------------------------------------------------------------------------------------------------


class RaggedRows(NoisyLine):
    """Forgets a row of one field."""

    def next(self) -> Batch:
        batch = super().next()
        return {**batch, "extra": batch["x"][1:]}


class CountsNothing(NoisyLine):
    """Never counts what it delivers."""

    def counters(self) -> dict[str, int]:
        return {"samples": 0}


class ForgetsItsPlace(NoisyLine):
    """Keeps too little."""

    def state_dict(self) -> dict[str, Any]:
        return {"draws": 0}


class DrawsAnew(NoisyLine):
    """Counts on, but draws from a generator that is not in its state."""

    def next(self) -> Batch:
        batch = super().next()
        return {**batch, "x": batch["x"] + torch.rand(1, generator=self._own)}

    def __init__(self, config: NoisyLineConfig, context: Any) -> None:
        super().__init__(config, context)
        self._own = torch.Generator().manual_seed(1)


class DrawsTheSame(NoisyLine):
    """Every learner draws the first rows."""

    def next(self) -> Batch:
        rows = self.context.batch_size
        generator = torch.Generator().manual_seed(self.context.derive_seed("batch", self.draws))
        self.draws += 1
        x = torch.randn(rows, 1, generator=generator)
        return {"x": x, "y": x}


class LosesCounts(NoisyLine):
    """Begins to count anew with other learners."""

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        return [{"draws": 0}] * count


# --- algorithms -------------------------------------------------------------------------------------------------------


class IdleLayer(Line):
    """Has a layer that nothing asks."""

    def __init__(self, config: AlgorithmConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.idle = nn.Linear(1, 1)


class MixesWhenDeployed(Line):
    """Deploys a module that looks at the whole batch."""

    def inference_module(self) -> nn.Module:
        return _Mixing()

    def inference_input(self) -> str:
        return "x"


class _Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean()


class Averages(KMeans):
    """Gathers means instead of sums."""

    def gather(self, batch: Batch) -> Gathered:
        found = super().gather(batch)
        rows = len(batch["point"])
        return Gathered({**found.sums, "points": found.sums["points"] / rows}, found.metrics)


class GathersAndChanges(KMeans):
    """Changes its centres while it gathers."""

    def gather(self, batch: Batch) -> Gathered:
        found = super().gather(batch)
        self.centres += 1e-3
        return found


class ChangesMore(KMeans):
    """Changes what the rule does not name."""

    def __init__(self, config: KMeansConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.register_buffer("times", torch.zeros(()))

    def apply(self, sums: dict[str, Tensor], count: float) -> dict[str, Tensor]:
        self.times += 1
        return super().apply(sums, count)


# --- data -------------------------------------------------------------------------------------------------------------


class _Growing:
    """A table whose rows depend on how many are asked for."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def rows(self, indices: Tensor) -> Batch:
        rows = self._table.rows(indices)
        return {name: value / value.norm() for name, value in rows.items()}

    def batches(self, size: int) -> Any:
        for start in range(0, len(self), size):
            yield self.rows(torch.arange(start, min(start + size, len(self))))


class _Cached(_Growing):
    """A table that hands out again what it has handed out."""

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._read: dict[tuple[int, ...], Batch] = {}

    def rows(self, indices: Tensor) -> Batch:
        return self._read.setdefault(tuple(indices.tolist()), self._table.rows(indices))


def _points(rows: int = 64) -> dict[str, Tensor]:
    return {"point": torch.randn(rows, 2, generator=torch.Generator().manual_seed(5))}


def _whole(rows: int = 64) -> Dataset:
    return Dataset.from_arrays(_points(rows))


@component("data set")
def rows_depend(config: object, seed: int) -> Dataset:
    """Return rows that depend on each other."""
    data = _whole()
    data.train = _Growing(data.train)
    return data


@component("data set")
def cached_rows(config: object, seed: int) -> Dataset:
    """Return a table that its reader can change."""
    data = _whole()
    data.train = _Cached(data.train)
    return data


_loaded = itertools.count()


@component("data set")
def never_the_same(config: object, seed: int) -> Dataset:
    """Return other points each time."""
    return Dataset.from_arrays({"point": _points()["point"] + next(_loaded)})


# --- evaluations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(EvaluationConfig):
    """Settings of a judge."""


class Judge(Evaluation):
    """Finds what it declares."""

    Config = JudgeConfig
    metrics: ClassVar = {"score": Metric(better="max")}

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        budget.done()
        return Findings({"score": 1.0})


class Silent(Judge):
    """Declares more than it finds."""

    metrics: ClassVar = {**Judge.metrics, "wins": Metric(better="max")}


class Talkative(Judge):
    """Finds more than it declares."""

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        return Findings({**super().run(policy, seed, budget).metrics, "wins": 1.0})


class Timeless(Judge):
    """Never says that it has done something."""

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        return Findings({"score": 1.0})


class WritesElsewhere(Judge):
    """Leaves the run's folder."""

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        return Findings(super().run(policy, seed, budget).metrics, files={"../game.txt": "draw"})


# --- networks ---------------------------------------------------------------------------------------------------------


@component("network")
def good_network(config: object, spec: TensorSpec, outputs: int) -> nn.Module:
    """Return an affine map."""
    return nn.Linear(spec.shape[0], outputs)


class _Wrapped(nn.Module):
    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, outputs)


class _Idle(_Wrapped):
    def __init__(self, size: int, outputs: int) -> None:
        super().__init__(size, outputs)
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Centred(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


class _Noisy(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.randn(1)


class _Unregistered(_Wrapped):
    made = itertools.count()

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__(size, outputs)
        self.shift = float(next(self.made))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.shift


class _Elsewhere(_Wrapped):
    made = itertools.count()

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__(size, outputs)
        nn.init.constant_(self.layer.bias, next(self.made))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Flat(_Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, 0]


BROKEN_NETWORKS: dict[type[nn.Module], str] = {
    _Idle: r"the parameter 'idle' takes no part",
    _Centred: "rows must not mix",
    _Noisy: "does not repeat itself",
    _Unregistered: "register its buffers",
    _Elsewhere: "begins with another 'layer.bias' under the same seed",
    _Flat: r"returns torch\.float32 \[5\] for 5 rows",
}


def network_of(kind: type[nn.Module]) -> Any:
    """Return a component that makes such a network."""

    @component("network")
    def made(config: object, spec: TensorSpec, outputs: int) -> nn.Module:
        return kind(spec.shape[0], outputs)

    return made


# --- runs -------------------------------------------------------------------------------------------------------------


def broken_run(name: str) -> RunConfig:
    """Return a run with one of the parts above."""
    path, found = f"{__name__}:{name}", globals()[name]
    if not isinstance(found, type):
        return points_run("rule_kmeans:KMeans", "runs", source={"kind": "dataset", "dataset": {"import": path}})
    if issubclass(found, KMeans):
        return points_run(path, "runs")
    if issubclass(found, Evaluation):
        return points_run("rule_kmeans:KMeans", "runs", evaluate={"import": path, "every": "1 epochs"})
    if issubclass(found, Algorithm):
        return replace(line(), algorithm_path=path)
    return line(**{"import": path})


BROKEN_PARTS = [
    ("RaggedRows", "batches_fit", "'extra' has 63 rows and 'x' 64|'extra' has 31 rows and 'x' 32"),
    ("CountsNothing", "batches_fit", "what they were before the last"),
    ("ForgetsItsPlace", "sources_continue", "from a state in which it had counted"),
    ("DrawsAnew", "sources_continue", "'x' of batch 1 is another one"),
    ("DrawsTheSame", "shares_differ", "learners draw the same examples"),
    ("LosesCounts", "shares_differ", "it must lose nothing"),
    ("IdleLayer", "parameters_take_part", r"idle\.(weight|bias) takes no part in its loss"),
    ("MixesWhenDeployed", "deployed_rows_do_not_mix", "rows must not mix"),
    ("Averages", "rules_add_up", "gather must sum over examples"),
    ("GathersAndChanges", "rules_add_up", "gather changes 'centres'"),
    ("ChangesMore", "rules_add_up", "apply changes 'times'; name it in changes"),
    ("rows_depend", "data_repeat", "the field 'point' is another one asked for (alone|in another order)"),
    ("cached_rows", "data_repeat", "return copies"),
    ("never_the_same", "data_repeat", "is another one each time it is loaded"),
    ("Silent", "evaluations_keep_their_word", "declares evaluate/wins and does not find it"),
    ("Talkative", "evaluations_keep_their_word", "evaluate/wins is found and not declared"),
    ("Timeless", "evaluations_keep_their_word", r"never calls budget\.done"),
    ("WritesElsewhere", "evaluations_keep_their_word", r"the file '\.\./game\.txt' must have a relative path"),
]
"""Part, the check that finds it, and what that says."""
