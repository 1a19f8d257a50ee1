"""Numbers that are nearly nothing: 0 while a learner of one thread steps, themselves before and after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rayloom.config.load import from_tree
from rayloom.contract import Batch, Loss
from rayloom.learner.arithmetic import denormals_as_zero
from rayloom.runs.learner_role import LearnerRole

TINY = torch.tensor([1e-40])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kept() -> bool:
    return bool((TINY * 1).item() > 0)


def test_they_are_zero_within_and_themselves_afterwards() -> None:
    with denormals_as_zero():
        assert not kept()
        with denormals_as_zero():
            assert not kept()
        assert not kept(), "the inner one leaves what it found"
    assert kept()
    with pytest.raises(ZeroDivisionError), denormals_as_zero():
        _ = 1 // 0
    assert kept()


def test_several_threads_keep_them() -> None:
    torch.set_num_threads(2)
    with denormals_as_zero():
        assert kept()


def test_a_learner_steps_without_them() -> None:
    tree = {
        "name": "tiny",
        "algorithm": {"import": "rayloom_supervised.tasks.classification:Classifier", "network": "mlp"},
        "source": {"kind": "dataset", "dataset": "digits"},
        "learner": {"batch_size": 16, "threads": 1},
        "stop": {"updates": 2},
    }
    role = LearnerRole(from_tree(tree))
    phase = role.learner.phases[0]
    step, seen = phase.step, []

    def watched(batch: Batch) -> tuple[Loss, torch.Tensor]:
        seen.append(kept())
        return step(batch)  # type: ignore[return-value]

    phase.step = watched  # type: ignore[method-assign, assignment]
    role.learner.update(role.source.next, role.source.feedback)
    assert seen == [False] and kept()
