"""What an algorithm may not do in a population: each is one sentence before anything trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rayloom.config.schema import LearnerConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Gathered, Loss, Phase, Rule
from rayloom.errors import UserError
from rayloom.search.population_members import MemberLearner


class _Member(Algorithm):
    def __init__(self, make: Any) -> None:
        super().__init__(AlgorithmConfig(), {})
        self.layer = nn.Linear(2, 1)
        self._make = make

    def phases(self) -> Any:
        return self._make(self)

    def loss(self, batch: Batch) -> Loss:
        return Loss(self.layer(batch["x"]).squeeze(1))

    def gather(self, batch: Batch) -> Gathered:
        return Gathered({})

    def fit(self, **settings: Any) -> Phase:
        return Phase("fit", self.loss, tuple(self.layer.parameters()), **settings)


def _made(make: Any) -> MemberLearner:
    return MemberLearner(_Member(make), LearnerConfig(), lambda: None)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda a: [a.fit(when=lambda progress: True)], "phase 'fit' has every, repeat, when, groups or after_step"),
        (lambda a: [a.fit(after_step=lambda: None)], "phase 'fit' has every, repeat, when, groups or after_step"),
        (lambda a: [a.fit(groups=(((a.layer.bias,), {}),))], "phase 'fit' has every, repeat, when, groups or after"),
        (lambda a: [a.fit(compilable=False)], "or is not compilable, which a population cannot train"),
        (
            lambda a: [a.fit(), Rule("rule", a.gather, lambda sums, count: None, (a.layer.weight,))],
            "_Member does not have one phase and no rule, as a population needs; set search.population to 1",
        ),
    ],
)
def test_only_one_plain_phase_trains_in_a_population(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        _made(make)


def test_members_have_no_noise() -> None:
    learner = _made(lambda a: [a.fit()])
    for draw in (lambda n: n.normal(3), lambda n: n.uniform(3), lambda n: n.bernoulli(torch.ones(3))):
        with pytest.raises(UserError, match="_Member draws noise in prepare or in its loss, which a population cannot"):
            draw(learner.algorithm.noise)
