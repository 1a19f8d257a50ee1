"""K learners equal one learner with the whole batch, end to end: real learners in real processes, over gloo.

What equality means: from equal weights, one learner that draws every batch whole and K learners that draw a K-th of it
each (the same examples: see `equality_parts`) make the same updates, one all-reduce for each step
of each phase, gradients clipped after it. Float sums are not associative, so that weights agree to 1e-4 of their size,
and to 1e-4 of the way that they have gone since the start; learners of one group agree to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

import equality_parts

pytestmark = pytest.mark.xdist_group("equality")  # one process, which trains once for all tests

Found = dict[str, dict[str, Any]]


def run_together(count: int, folder: Path) -> list[Found]:
    """Return what each of `count` learners has come to."""
    context = torch.multiprocessing.spawn(
        equality_parts.learn_together, (count, str(folder)), nprocs=count, join=False, daemon=True
    )
    try:
        while not context.join(timeout=240):
            pass
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"learner_{rank}.pt") for rank in range(count)]


@pytest.fixture(scope="module")
def alone() -> Found:
    """Return what one learner comes to."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {name: equality_parts.train(name, equality_parts.config_of(name, 1)) for name in equality_parts.NAMES}
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """Return what two learners come to."""
    return run_together(2, tmp_path_factory.mktemp("two"))


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.double().ravel() for value in weights.values()])


def assert_equal_training(one: dict[str, Any], learners: list[dict[str, Any]]) -> None:
    """Compare weights, the gradients' norms, counters and batches."""
    for learner in learners:
        assert learner["counters"] == one["counters"]
        assert learner["end"].keys() == one["end"].keys()
        for key, value in one["end"].items():
            assert torch.equal(learner["start"][key], one["start"][key]), key
            assert torch.equal(learner["end"][key], learners[0]["end"][key]), key
            torch.testing.assert_close(
                learner["end"][key], value, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
            )
    gone = (flat(one["end"]) - flat(one["start"])).norm()
    apart = (flat(learners[0]["end"]) - flat(one["end"])).norm()
    assert gone > 0.05 and apart <= 1e-4 * gone, (float(apart), float(gone))
    shares = [sum(numbers) for numbers in zip(*(learner["examples"] for learner in learners), strict=True)]
    assert shares == one["examples"], "the shares of every batch add up to the batch"
    for learner in learners:
        assert [index for index, _ in learner["norms"]] == [index for index, _ in one["norms"]]
        for (_, mine), (_, whole) in zip(learner["norms"], one["norms"], strict=True):
            assert mine == pytest.approx(whole, rel=1e-3, abs=1e-5), "the norm that is clipped is the whole gradient's"


def clipped_share(found: dict[str, Any], limit: float) -> float:
    return sum(norm > limit for _, norm in found["norms"]) / len(found["norms"])


@pytest.mark.parametrize("name", equality_parts.NAMES)
def test_two_learners_equal_one(name: str, alone: Found, two: list[Found]) -> None:
    assert_equal_training(alone[name], [found[name] for found in two])


@pytest.mark.parametrize("name", ["vae", "wgan_gp", "ppo", "dqn"])
def test_the_comparison_covers_what_it_should(name: str, alone: Found, two: list[Found]) -> None:
    config = equality_parts.config_of(name, 1)
    assert alone[name]["counters"]["updates"] >= 20
    limit = config.learner.max_grad_norm
    assert limit is not None
    assert 0.1 < clipped_share(alone[name], limit) < 0.9, "some gradients are clipped and some are not"
    mine, theirs = (found[name]["examples"] for found in two)
    if name in ("vae", "wgan_gp", "dqn"):
        assert mine != theirs, "shares of different sizes: only the global count is right"
    if name == "wgan_gp":
        assert [index for index, _ in alone[name]["norms"]][:8] == [0, 0, 0, 1, 0, 0, 0, 1]
    if name == "ppo":
        assert alone[name]["counters"]["episodes"] > 10
    if name == "dqn":
        target = [key for key in alone[name]["end"] if key.startswith("target")]
        assert any(not torch.equal(alone[name]["end"][key], alone[name]["start"][key]) for key in target)


@pytest.mark.full
def test_four_learners_equal_one(alone: Found, tmp_path: Path) -> None:
    found = run_together(4, tmp_path)
    for name in equality_parts.NAMES:
        assert_equal_training(alone[name], [learner[name] for learner in found])
