"""What is compiled and what is not, and what is said where there is no compiler."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from cases import case
from rayloom.contract import Phase
from rayloom.errors import UserError
from rayloom.learner.phase import PhaseLearner
from rayloom.runs.learner_role import LearnerRole
from rayloom_generative.adversarial.wgan_gp import WGANGP

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@needs_compiler
def test_phases_that_forbid_it_stay_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = WGANGP.phases

    def one_may(self: WGANGP) -> list[Phase]:
        return [replace(phase, compilable=phase.name == "generator") for phase in phases(self)]

    monkeypatch.setattr(WGANGP, "phases", one_may)
    role = LearnerRole(case("wgan_gp", learner={"compile": True}))
    kinds = {learner.phase.name: type(learner) for learner in role.learner.phases if isinstance(learner, PhaseLearner)}
    assert kinds["critic"] is PhaseLearner and kinds["generator"] is not PhaseLearner
    role.learner.update(role.source.next, role.source.feedback)


def test_without_a_compiler_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        LearnerRole(case("ppo", learner={"compile": True}))
