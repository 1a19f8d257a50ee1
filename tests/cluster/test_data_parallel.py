"""Several learners: the same run as one learner with the whole batch, exact twice, resumable, and never hanging."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import rayloom
from cases import case
from processes import finish, history, journal_lines, kill_after, run_folder, start, write_config
from rayloom.checkpoint.store import CheckpointStore
from rayloom.cluster.process_group import MissingLearnersError, ProcessGroup
from rayloom.config.schema import RunConfig
from rayloom.config.shares import environment_share, learner_share
from rayloom.errors import UserError
from rayloom.launch.trained import evaluate
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.observer import Result
from rayloom.runs.plan import make_plan

pytestmark = [pytest.mark.xdist_group("second_ray"), pytest.mark.usefixtures("one_node")]


def two(name: str, output: Path, **sections: dict[str, Any]) -> RunConfig:
    """Return a case with two learners."""
    return case(name, str(output), **{**sections, "learner": {**sections.get("learner", {}), "count": 2}})


def weights(result: Result) -> dict[str, torch.Tensor]:
    """Return the module's state in the run's last checkpoint."""
    loaded = CheckpointStore(result.run_dir / "checkpoints", 2, "max").load_latest()
    assert loaded is not None
    state: dict[str, torch.Tensor] = loaded.state["role"]["learner"]["algorithm"]
    return state


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("softmax_regression", {"learner": {"max_grad_norm": 0.5, "schedule": {"kind": "linear"}}}),
        # 1197 training examples: the last batch of an epoch has 45, which the learners share 22 to 23.
        ("lenet5", {"source": {"drop_last": False, "augment": ["shift"]}, "stop": {"epochs": 1}}),
    ],
)
def test_two_learners_equal_one_with_the_whole_batch(name: str, sections: dict[str, Any], tmp_path: Path) -> None:
    alone = rayloom.run(case(name, str(tmp_path), **sections), local=True)
    together = rayloom.run(two(name, tmp_path, **sections))
    assert together.counters == alone.counters
    mine, theirs = weights(together), weights(alone)
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    for key, value in alone.metrics.items():
        if key.startswith("evaluate/"):
            assert together.metrics[key] == pytest.approx(value, rel=1e-3, abs=1e-3), key


@pytest.mark.parametrize(
    "name",
    ["ppo", "dqn_prioritized_n_step", *(pytest.param(name, marks=pytest.mark.full) for name in ("vae", "wgan_gp"))],
)
def test_every_kind_of_learning_trains_on_two_learners_exactly_twice(name: str, tmp_path: Path) -> None:
    # A drift of the learners' weights would end the run with an error.
    results = [rayloom.run(two(name, tmp_path)) for _ in range(2)]
    assert results[0].weights_sha256 == results[1].weights_sha256
    assert results[0].counters == results[1].counters
    assert history(results[0].run_dir) == history(results[1].run_dir)
    assert all(math.isfinite(value) for value in results[0].metrics.values())
    alone = rayloom.run(case(name, str(tmp_path)), local=True)
    # The learners add up their counters; dead steps make those of environments differ a little.
    for unit, count in alone.counters.items():
        if unit != "episodes":
            assert results[0].counters[unit] == pytest.approx(count, rel=0.1), unit


def test_two_learners_with_rollout_actors_of_their_own(tmp_path: Path) -> None:
    actors = {"source": {"rollout_workers": 2, "worker_cpus": 0}}
    apart = rayloom.run(two("ppo", tmp_path, **actors))
    inside = rayloom.run(two("ppo", tmp_path))
    assert apart.weights_sha256 == inside.weights_sha256


def test_two_killed_learners_resume_to_the_same_bits(tmp_path: Path) -> None:
    config = two("ppo", tmp_path / "whole", stop={"env_steps": 6_000}, evaluate={"every": "1_000 env_steps"})
    whole = rayloom.run(config)
    output = tmp_path / "killed"
    process = start("run", str(write_config(config, tmp_path)), f"output={output}", cwd=tmp_path)
    assert kill_after(process, output, journal_lines(tmp_path / "whole") // 3)
    folder = run_folder(output)
    resumed = finish(start("resume", folder.name, f"--output={output}", cwd=tmp_path))
    assert resumed["weights_sha256"] == whole.weights_sha256
    assert history(folder) == history(whole.run_dir)


def test_a_run_of_two_learners_is_evaluated_in_one_process(tmp_path: Path) -> None:
    for name in ("softmax_regression", "ppo"):
        result = rayloom.run(two(name, tmp_path))
        again = evaluate(result.run_dir.name, output=str(tmp_path)).metrics
        assert again and again.items() <= result.metrics.items()


def test_in_one_process_one_learner_does_the_work_of_all(tmp_path: Path) -> None:
    both = rayloom.run(two("softmax_regression", tmp_path), local=True)
    alone = rayloom.run(case("softmax_regression", str(tmp_path)), local=True)
    assert both.weights_sha256 == alone.weights_sha256


def test_an_exception_of_the_learners_ends_the_run_with_its_own_traceback(tmp_path: Path) -> None:
    probe = {"import": "search_cases:Probe", "fault": "raise", "l2": 0.1, "fault_above": 0.0, "fault_at": 20}
    with pytest.raises(ArithmeticError, match="told to fail") as caught:
        rayloom.run(two("softmax_regression", tmp_path, algorithm=probe))
    assert any("search_cases.py" in note for note in caught.value.__notes__)


def test_a_learner_that_dies_ends_the_run_and_is_named(tmp_path: Path) -> None:
    probe = {"import": "search_cases:Probe", "fault": "exit", "l2": 0.1, "fault_above": 0.0, "fault_at": 20}
    with pytest.raises(RuntimeError, match=r"learner 0, learner 1 died"):
        rayloom.run(two("softmax_regression", tmp_path, algorithm=probe))


class _Rank:
    """One of two learners whose other one always holds the same."""

    world_size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor *= 2

    def sum_counts(self, counts: Sequence[int]) -> list[int]:
        return [2 * count for count in counts]


@pytest.mark.parametrize("name", ["ppo", "dqn", "softmax_regression"])
def test_learners_begin_with_equal_weights_and_see_different_data(name: str) -> None:
    config = case(name, learner={"count": 2})
    roles = [LearnerRole(config, group=_Rank(rank)) for rank in range(2)]
    assert roles[0].weights_sha256() == roles[1].weights_sha256()
    batches = [role.source.next() for role in roles]
    for key in ("observation", "image"):
        if key in batches[0]:
            assert len(batches[0][key]) == config.learner.batch_size // 2
            assert not torch.equal(batches[0][key], batches[1][key])
    for role in roles:
        role.close()


def test_advantages_are_normalized_over_the_rollouts_of_all_learners() -> None:
    role = LearnerRole(case("ppo"))
    algorithm: Any = role.algorithm
    advantages = torch.randn(50, generator=torch.Generator().manual_seed(1))
    whole = algorithm._normalize(advantages)
    torch.testing.assert_close(whole, (advantages - advantages.mean()) / (advantages.std() + 1e-8))
    mine, theirs = advantages[:20], advantages[20:]
    others = iter([torch.tensor([30.0, float(theirs.sum())]), (theirs - advantages.mean()).square().sum()])
    algorithm.sum_over_learners = lambda tensor: tensor + next(others)
    torch.testing.assert_close(algorithm._normalize(mine), whole[:20])
    role.close()


def test_shares_of_environments_and_batches() -> None:
    config = case("dqn", learner={"count": 2}, source={"num_envs": 4, "capacity": 512, "learning_starts": 65})
    share, batch = learner_share(config)
    assert (share.num_envs, batch) == (2, 16)
    assert (share.capacity, share.learning_starts, share.steps_per_update) == (256, 33, 2.0)  # type: ignore[union-attr]
    assert [environment_share(config, rank) for rank in range(2)] == [(2, 0), (2, 2)]


@pytest.mark.parametrize(
    ("name", "sections", "sentence"),
    [
        ("ppo", {"learner": {"count": 3}}, "learner.batch_size: 32 is no multiple of the 3 learners"),
        ("ppo", {"learner": {"count": 8}}, "4 environments cannot be shared evenly by 8"),
        ("ppo", {"learner": {"count": 2}, "source": {"rollout_workers": 3}}, "3 rollout workers cannot be shared"),
        ("softmax_regression", {"learner": {"count": 65}}, "too small for the 65 learners"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_starts(
    name: str, sections: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        make_plan(case(name, **sections))


def test_a_plan_reserves_every_learner() -> None:
    plan = make_plan(case("softmax_regression", learner={"count": 3, "threads": 2, "gpus": 0.5}))
    assert plan.role("learner").place == "actor"
    assert (plan.total("cpus"), plan.total("gpus")) == (6.0, 1.5)


def test_learners_that_do_not_come_are_named() -> None:
    group = ProcessGroup(0, 3, torch.device("cpu"), 5.0)
    port = group.open_rendezvous("127.0.0.1")
    with pytest.raises(MissingLearnersError, match="learner 1, learner 2 did not come"):
        group.connect("127.0.0.1", port, 0.5)
