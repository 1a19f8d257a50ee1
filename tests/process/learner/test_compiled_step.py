"""The compiled step equals the eager one, also where other networks change between steps; the compiler is a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cases import case
from rayloom.learner.compiled import CompiledPhaseLearner
from rayloom.runs.learner_role import LearnerRole

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def _trained(name: str, compiled: bool, updates: int) -> tuple[LearnerRole, dict[str, torch.Tensor]]:
    role = LearnerRole(case(name, learner={"compile": compiled}))
    for _ in range(updates):
        role.learner.update(role.source.next, role.source.feedback)
    return role, {key: value.clone() for key, value in role.learner.trained().items()}


@needs_compiler
def test_penalties_on_the_weights_are_compiled_with_the_loss() -> None:
    weights = {}
    for compiled in (False, True):
        penalized = {"network": {"kind": "mlp", "hidden_sizes": [16]}, "l2": 0.5, "l1": 0.01}
        role = LearnerRole(case("softmax_regression", algorithm=penalized, learner={"compile": compiled}))
        for _ in range(10):
            role.learner.update(role.source.next, role.source.feedback)
        weights[compiled] = torch.cat([value.reshape(-1) for value in role.learner.trained().values()])
    torch.testing.assert_close(weights[True], weights[False], rtol=1e-3, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("name", ["ppo", "impala", "dqn_prioritized_n_step", "sac", "softmax_regression"])
def test_compiled_updates_equal_eager_updates(name: str) -> None:
    # More than one target period: a graph that kept the old target network would differ.
    eager_role, eager = _trained(name, False, 20)
    compiled_role, compiled = _trained(name, True, 20)
    assert isinstance(compiled_role.learner.phases[0], CompiledPhaseLearner)
    for key, value in eager.items():
        torch.testing.assert_close(
            compiled[key], value, rtol=2e-3, atol=2e-4, msg=lambda text, key=key: f"{key}: {text}"
        )
    theirs, mine = eager_role.metrics(), compiled_role.metrics()
    assert {key for key in theirs if key.startswith("train/")} == {key for key in mine if key.startswith("train/")}
    assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-2)


@needs_compiler
def test_what_was_compiled_is_found_again_in_the_users_own_folder(tmp_path: Path) -> None:
    code = (
        "from cases import case\nfrom rayloom.runs.learner_role import LearnerRole\n"
        "role = LearnerRole(case('softmax_regression', learner={'compile': True}))\n"
        "role.learner.update(role.source.next, role.source.feedback)\n"
        "from torch._dynamo.utils import counters\nprint(sorted(k for k in counters['inductor'] if 'fxgraph' in k))"
    )
    given = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment = {**given, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    for expected in ("fxgraph_cache_miss", "fxgraph_cache_hit"):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200, check=True
        )
        assert done.stdout.splitlines()[-1] == f"['{expected}']"
    assert (tmp_path / "rayloom" / "compiled").stat().st_mode & 0o077 == 0


@needs_compiler
def test_compiled_losses_are_autocast_too() -> None:
    losses = {}
    for compiled in (False, True):
        for precision in ("float32", "bfloat16"):
            role = LearnerRole(case("softmax_regression", learner={"compile": compiled, "precision": precision}))
            for _ in range(5):
                role.learner.update(role.source.next, role.source.feedback)
            losses[compiled, precision] = role.metrics()["train/loss"]
    assert losses[True, "bfloat16"] == pytest.approx(losses[False, "bfloat16"], rel=1e-3)
    assert losses[True, "float32"] == pytest.approx(losses[False, "float32"], rel=1e-5)
    assert losses[True, "bfloat16"] != losses[True, "float32"]
