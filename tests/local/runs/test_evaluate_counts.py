"""Means over elements and not over examples: an algorithm's evaluation gives sums with their counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import case
from rayloom.contract import Batch, Figure
from rayloom.errors import UserError
from rayloom.runs.evaluator import Evaluator
from rayloom.runs.learner_role import LearnerRole
from rayloom_supervised.tasks.classification import Classifier


class Counted(Classifier):
    """Takes the label of a digit for the length of a sequence, in which every element has the value of its length."""

    instead: Callable[[int], Any] | None = None

    def evaluate(self, batch: Batch) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        length = batch["label"]
        found = {
            "per_example": length.float(),
            "per_element": (length.float() * length, length),
            "scalar": length.sum(),
        }
        return found if self.instead is None else self.instead(len(length))

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        return {}, {}


def role(batch_size: int) -> LearnerRole:
    return LearnerRole(
        case("softmax_regression", algorithm={"import": f"{__name__}:Counted"}, evaluate={"batch_size": batch_size})
    )


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_sums_are_divided_by_all_counts_whatever_the_batch(batch_size: int) -> None:
    made = role(batch_size)
    assert made.dataset is not None
    labels = made.dataset.validation["label"].double()
    found = made.evaluate().metrics
    assert found["evaluate/per_example"] == pytest.approx(float(labels.mean()), rel=1e-12)
    assert found["evaluate/per_element"] == pytest.approx(float((labels**2).sum() / labels.sum()), rel=1e-12)
    assert found["evaluate/per_element"] > found["evaluate/per_example"] + 1
    made.close()


@pytest.mark.parametrize(
    ("instead", "sentence"),
    [
        (lambda rows: [1.0], "Counted.evaluate returns a list; return a dict of tensors"),
        (lambda rows: {"loss": 1.0}, "Counted.evaluate: 'loss' is a float; it must be a tensor, scalar or one number"),
        (lambda rows: {"loss": torch.ones(rows, 2)}, r"'loss' is a tensor \[.*, 2\]; it must be a tensor, scalar"),
        (lambda rows: {"_loss": torch.ones(())}, "'_loss' is a scalar tensor; it must be a tensor with a row for each"),
        (lambda rows: {"loss": (torch.ones(rows),)}, r"'loss' is a tuple of 1; it must be a pair, sums"),
        (lambda rows: {"loss": (torch.ones(()), torch.ones(rows))}, "the sum of 'loss' is a scalar tensor; it must be"),
        (lambda rows: {"loss": (torch.ones(rows), torch.ones(1))}, r"the count of 'loss' is a tensor \[1\]; it must"),
        (lambda rows: {"loss": (torch.ones(rows), -torch.ones(rows))}, "the count of 'loss' holds negative numbers"),
        (lambda rows: {"loss": (torch.ones(rows), torch.zeros(rows))}, "the count of 'loss' is 0 over the whole split"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(instead: Any, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = role(1_000)
    monkeypatch.setattr(Counted, "instead", staticmethod(instead))
    with pytest.raises(UserError, match=sentence):
        made.evaluate()
    made.close()


def test_it_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[int] = []
    monkeypatch.setattr("rayloom.runs.evaluations.check_evaluated", lambda algorithm, found, rows: checks.append(rows))
    made = role(100)
    evaluator = Evaluator(made.config, made.algorithm, made.dataset)
    for number in range(2):
        evaluator.evaluate(number)
    assert checks == [100]
    made.close()
