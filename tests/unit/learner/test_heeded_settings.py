"""`learner.precision` and `learner.compile` do what they say or are refused."""

from __future__ import annotations

import pytest
import torch

from cases import case
from rayloom.contract import Loss
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom_generative.adversarial.wgan_gp import WGANGP
from rayloom_supervised.tasks.classification import Classifier


class Refusing(Classifier):
    """Stands for an operation that a machine has not in bfloat16."""

    message = "could not create a primitive descriptor for the LSTM forward propagation primitive. Run workload with X"

    def loss(self, batch: dict[str, torch.Tensor]) -> Loss:
        raise RuntimeError(self.message)


class Failing(Refusing):
    """Raises an error of its author."""

    message = "shapes do not fit"


def test_a_precision_that_no_phase_heeds_is_refused() -> None:
    with pytest.raises(UserError, match=r"^learner\.precision: no phase of WGANGP may run in bfloat16; write float32"):
        LearnerRole(case("wgan_gp", learner={"precision": "bfloat16"}))
    assert not any(phase.autocast for phase in LearnerRole(case("wgan_gp")).algorithm.phases())  # type: ignore[union-attr]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_hidden_layers_have_the_precision_that_was_asked_for(precision: str) -> None:
    role = LearnerRole(case("mlp_dropout", learner={"precision": precision}))
    seen: set[torch.dtype] = set()
    layer = next(module for module in role.algorithm.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    batch = role.algorithm.prepare(role.source.next())
    role.learner.update(lambda: batch, lambda loss: None)
    assert seen == {getattr(torch, precision)}


def test_an_operation_that_the_machine_has_not_is_a_sentence_and_other_errors_are_the_authors() -> None:
    for algorithm, kind, words in (
        (Refusing, UserError, r"learner\.precision: phase"),
        (Failing, RuntimeError, "shapes"),
    ):
        part = {"import": f"{__name__}:{algorithm.__name__}"}
        role = LearnerRole(case("softmax_regression", algorithm=part, learner={"precision": "bfloat16"}))
        batch = role.algorithm.prepare(role.source.next())
        with pytest.raises(kind, match=words):
            role.learner.update(lambda batch=batch: batch, lambda loss: None)


def test_compiling_what_may_not_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = case("wgan_gp", learner={"compile": True})
    phases = WGANGP.phases

    def never(self: WGANGP) -> list[object]:
        from dataclasses import replace

        return [replace(phase, compilable=False) for phase in phases(self)]

    monkeypatch.setattr(WGANGP, "phases", never)
    with pytest.raises(UserError, match=r"^learner\.compile: no phase of WGANGP may be compiled; write false"):
        LearnerRole(config)
