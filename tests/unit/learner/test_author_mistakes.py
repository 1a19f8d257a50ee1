"""An author's mistakes end the first update with one sentence that names the method, the field and the shape."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Gathered, Loss, Phase, Rule
from rayloom.errors import UserError
from rayloom.learner.learner import Learner
from rayloom.testing.learners import SimulatedGroup, simulate

Make = Callable[["_Author"], Any]


class _Author(Algorithm):
    """Does what it is told."""

    def __init__(
        self, phases: Make | None = None, loss: Any = None, gathered: Any = None, applied: Any = None, after: Any = None
    ) -> None:
        super().__init__(AlgorithmConfig(), {})
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("total", torch.zeros(3))
        self._told = {"phases": phases, "loss": loss, "gathered": gathered, "applied": applied, "after": after}

    def phases(self) -> Any:
        if self._told["phases"]:
            return self._told["phases"](self)
        if self._told["gathered"] or self._told["applied"]:
            return [Rule("sum", self.gather, self.apply, (self.total,))]
        return [Phase("fit", self.loss, tuple(self.layer.parameters()))]

    def per_example(self, batch: Batch) -> torch.Tensor:
        return self.layer(batch["x"]).squeeze(1).square()

    def loss(self, batch: Batch) -> Any:
        told = self._told["loss"]
        return told(self, batch) if told else Loss(self.per_example(batch))

    def gather(self, batch: Batch) -> Any:
        told = self._told["gathered"]
        return told(batch) if told else Gathered({"x": batch["x"].sum(0)})

    def apply(self, sums: dict[str, torch.Tensor], count: float) -> Any:
        return self._told["applied"] and self._told["applied"](sums)

    def after_update(self, update: int) -> Any:
        return self._told["after"]


def _batch() -> Batch:
    return {"x": torch.linspace(-1, 1, 21).reshape(7, 3)}


def _phase(author: _Author, **settings: Any) -> Phase:
    return Phase(**{"name": "fit", "loss": author.loss, "parameters": tuple(author.layer.parameters()), **settings})


def _all(author: _Author) -> tuple[nn.Parameter, ...]:
    return tuple(author.layer.parameters())


PHASES: list[tuple[Make, str]] = [
    (_phase, "_Author.phases() returns one Phase; return a list of them"),
    (lambda a: (_phase(a) for _ in "x"), "_Author.phases() returns a generator; return a list"),
    (lambda a: None, "_Author.phases() returns nothing; return a list"),
    (lambda a: [], "_Author.phases() returns an empty list"),
    (lambda a: [_phase(a), "more"], "returns a list with a str; it may hold only Phase and Rule"),
    (lambda a: [_phase(a), _phase(a)], "more than one phase named 'fit'"),
    (lambda a: [_phase(a, parameters=())], "phase 'fit': parameters is empty"),
    (lambda a: [_phase(a, parameters=a.layer.parameters())], "phase 'fit': parameters is a generator; make it a tuple"),
    (lambda a: [_phase(a, parameters=a.layer.weight)], "phase 'fit': parameters is a tensor [1, 3]; make it a tuple"),
    (lambda a: [_phase(a, parameters=("layer",))], "phase 'fit': parameters holds a str"),
    (lambda a: [_phase(a, parameters=(nn.Parameter(torch.ones(2)),))], "neither a parameter nor a buffer of the algo"),
    (lambda a: [_phase(a, parameters=(a.total,))], "parameters holds a tensor [3] that takes no gradient"),
    (lambda a: [_phase(a, parameters=(a.layer.bias, a.layer.bias))], "names a parameter twice"),
    (lambda a: [_phase(a, repeat=0)], "phase 'fit': repeat is 0; it must be a whole number from 1"),
    (lambda a: [_phase(a, groups=(((a.norm.weight,), {}),))], "groups must be disjoint parts of parameters"),
    (lambda a: [Rule("sum", a.gather, a.apply, ())], "rule 'sum': changes is empty"),
    (lambda a: [Rule("sum", a.gather, a.apply, a.total)], "rule 'sum': changes is a tensor [3]; make it a tuple"),
]


@pytest.mark.parametrize(("make", "sentence"), PHASES)
def test_phases(make: Make, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        Learner(_Author(make), LearnerConfig())
    assert "\n" not in str(caught.value)


def _changed(**fields: Any) -> Any:
    return lambda a, batch: Loss(**{"per_example": a.per_example(batch), **fields})


LOSSES: list[tuple[Any, str]] = [
    (lambda a, b: a.per_example(b), "_Author.loss returns a bare tensor; return Loss(per_example), with one loss for"),
    (lambda a, b: None, "_Author.loss returns nothing; return a Loss"),
    (lambda a, b: (1.0, {}), "_Author.loss returns a tuple; return a Loss"),
    (lambda a, b: Loss(a.per_example(b).mean()), "Loss.per_example is a scalar tensor; it must be a tensor of one"),
    (lambda a, b: Loss(a.per_example(b)[:, None]), "Loss.per_example is a tensor [7, 1]; it must be a tensor of one"),
    (
        lambda a, b: Loss(a.per_example(b)[:5]),
        "Loss.per_example is a tensor [5]; it must be a tensor of one number for",
    ),
    (lambda a, b: Loss(a.per_example(b).detach().numpy()), "Loss.per_example is a NumPy ndarray; it must be a tensor"),
    (
        lambda a, b: Loss(a.per_example(b).detach()),
        "Loss.per_example has no gradient; it must depend on the parameters",
    ),
    (lambda a, b: Loss(a.per_example(b).long()), "Loss.per_example is torch.int64; it must be real"),
    (_changed(metrics={"a": 1.0}), "Loss.metrics['a'] is a float; it must be a tensor, scalar or one number"),
    (_changed(metrics={"a": np.zeros(7)}), "Loss.metrics['a'] is a NumPy ndarray"),
    (
        _changed(metrics={"a": torch.zeros(7, 2)}),
        "Loss.metrics['a'] is a tensor [7, 2]; it must be a tensor, scalar or",
    ),
    (_changed(metrics=[1]), "Loss.metrics is a list; it must be a dict of tensors"),
    (lambda a, b: Loss(x := a.per_example(b), {"a": x}), "Loss.metrics['a'] carries a gradient; detach() it"),
    (
        _changed(priorities=torch.zeros(3)),
        "Loss.priorities is a tensor [3]; it must be a tensor of one number for each",
    ),
    (_changed(priorities=-torch.ones(7)), "Loss.priorities holds negative numbers or NaN"),
    (_changed(count=torch.ones(7, 1)), "Loss.count is a tensor [7, 1]; it must be a tensor of one number for each"),
    (_changed(count=torch.full((7,), -1.0)), "Loss.count holds negative numbers or NaN; it must be 0 or more"),
    (_changed(count=np.ones(7)), "Loss.count is a NumPy ndarray"),
]


@pytest.mark.parametrize(("loss", "sentence"), LOSSES)
def test_losses(loss: Any, sentence: str) -> None:
    learner = Learner(_Author(loss=loss), LearnerConfig())
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        learner.update(_batch, lambda loss: None)
    assert str(caught.value).startswith("_Author.loss") and "\n" not in str(caught.value)


RULES: list[tuple[dict[str, Any], str]] = [
    ({"gathered": lambda b: {"x": b["x"].sum(0)}}, "_Author.gather returns a dict; return a Gathered"),
    (
        {"gathered": lambda b: Gathered(b["x"].sum(0))},
        "_Author.gather: Gathered.sums is a tensor [3]; it must be a dict",
    ),
    (
        {"gathered": lambda b: Gathered({"x": 1.0})},
        "_Author.gather: Gathered.sums['x'] is a float; it must be a tensor",
    ),
    ({"gathered": lambda b: Gathered({}, {"a": 1.0})}, "_Author.gather: Gathered.metrics['a'] is a float"),
    ({"gathered": lambda b: Gathered({}, count=torch.ones(2))}, "_Author.gather: Gathered.count is a tensor [2]"),
    ({"applied": lambda sums: sums["x"]}, "_Author.apply returns a tensor [3]; return nothing, or a dict of metrics"),
    ({"applied": lambda sums: {"a": 1.0}}, "_Author.apply: the metric 'a' is a float; it must be a scalar tensor"),
    ({"applied": lambda sums: sums}, "_Author.apply: the metric 'x' is a tensor [3]; it must be a scalar tensor"),
    ({"after": 3}, "_Author.after_update returns an int; return nothing, or a dict of metrics (tensors)"),
    ({"after": {"a": 3.0}}, "_Author.after_update: the metric 'a' is a float; it must be a detached tensor"),
]


@pytest.mark.parametrize(("told", "sentence"), RULES)
def test_rules_and_what_follows_an_update(told: dict[str, Any], sentence: str) -> None:
    learner = Learner(_Author(**told), LearnerConfig())
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        learner.update(_batch, lambda loss: None)
    assert "\n" not in str(caught.value)


def test_an_update_may_be_followed_by_metrics() -> None:
    learner = Learner(_Author(after={"lag": torch.tensor(3.0)}), LearnerConfig())
    learner.update(_batch, lambda loss: None)
    assert learner.drain_metrics()["lag"] == 3.0


def _normalised(author: _Author, batch: Batch) -> Loss:
    return Loss(author.layer(author.norm(batch["x"])).squeeze(1).square())


def _masked(author: _Author, batch: Batch) -> Loss:
    kept = batch["x"][batch["x"][:, 0] > 0]
    return Loss(author.per_example(batch) + kept.sum())


def _branching(author: _Author, batch: Batch) -> Loss:
    return Loss(author.per_example(batch) * (2 if float(batch["x"].sum()) > 0 else 1))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (_normalised, "changes buffers (batch norm does)"),
        (_masked, "reads a value of a tensor, or makes a shape that depends on the data (a boolean mask)"),
        (_branching, "reads a value of a tensor"),
    ],
)
def test_what_a_compiled_loss_cannot_do(loss: Any, reason: str) -> None:
    learner = Learner(_Author(loss=loss), LearnerConfig(compile=True))
    with pytest.raises(UserError, match=re.escape(f"learner.compile: _Author.loss {reason}")) as caught:
        learner.update(_batch, lambda loss: None)
    assert "compilable=False in the phase 'fit'" in str(caught.value)
    eager = Learner(_Author(loss=loss), LearnerConfig())
    eager.update(_batch, lambda loss: None)


def test_buffers_that_each_learner_changes_by_its_own_data_are_refused_after_the_first_update() -> None:
    def learn(group: SimulatedGroup) -> None:
        torch.manual_seed(0)
        learner = Learner(authors[group.rank], LearnerConfig(), group)
        learner.update(lambda: {"x": _batch()["x"] + group.rank}, lambda loss: None)

    authors = [_Author(loss=_normalised) for _ in range(2)]
    with pytest.raises(UserError, match=r"_Author: the buffer 'norm.running_mean' differs between the learners"):
        simulate(2, learn)
