"""What is compiled and what is not, and what is said where there is no compiler."""

from __future__ import annotations

import shutil

import pytest

from cases import case
from rayloom.errors import UserError
from rayloom.learner.phase import PhaseLearner
from rayloom.runs.learner_role import LearnerRole

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@needs_compiler
def test_phases_that_forbid_it_stay_eager() -> None:
    role = LearnerRole(case("wgan_gp", learner={"compile": True}))
    assert all(type(learner) is PhaseLearner for learner in role.learner.phases)
    role.learner.update(role.source.next, role.source.feedback)


def test_without_a_compiler_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        LearnerRole(case("ppo", learner={"compile": True}))
