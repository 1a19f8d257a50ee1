"""Running statistics against NumPy over all data; what acts, learns and is exported by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rayloom.contract import Spec, TensorSpec, Trajectory
from rayloom.errors import UserError
from rayloom_agents.continuous.sac import SAC
from rayloom_agents.networks.normalization import ObservationNormalizer, RewardScale, RunningStatistics
from rayloom_agents.policy_gradient.ppo import PPO

SPEC: Spec = {
    "observation": TensorSpec(shape=(3,), dtype=torch.float32),
    "action": TensorSpec(shape=(1,), dtype=torch.float32, low=(-2.0,), high=(2.0,)),
}


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _rollout(seed: int, steps: int = 5, number: int = 4) -> Trajectory:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(steps, number, generator=generator) < 0.2
    first = torch.cat((torch.ones(1, number, dtype=torch.bool), ends[:-1]))
    return {
        "observation": 50 + 3 * torch.randn(steps, number, 3, generator=generator),
        "next_observation": 50 + 3 * torch.randn(steps, number, 3, generator=generator),
        "action": torch.randn(steps, number, 1, generator=generator),
        "reward": 7 * torch.randn(steps, number, generator=generator),
        "terminated": ends,
        "truncated": torch.zeros(steps, number, dtype=torch.bool),
        "valid": torch.rand(steps, number, generator=generator) < 0.9,
        "first": first,
    }


def test_blocks_add_up_to_the_moments_of_all_data() -> None:
    rng = np.random.default_rng(0)
    blocks = [rng.normal(1e4, [1, 100, 1e-2], (size, 3)).astype(np.float32) for size in (7, 1, 400, 32)]
    statistics = RunningStatistics(3)
    for index, block in enumerate(blocks):
        statistics.see(torch.from_numpy(block))
        if index != 1:  # two blocks may wait for one merge
            statistics.merge(_alone)
    data = np.concatenate(blocks).astype(np.float64)
    assert float(statistics.count) == len(data)
    np.testing.assert_allclose(statistics.mean, data.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.variance(), data.var(axis=0), rtol=1e-5)
    normalised = statistics(torch.from_numpy(blocks[2])).numpy()
    expected = (blocks[2] - data.mean(axis=0)) / np.sqrt(data.var(axis=0) + 1e-8)
    np.testing.assert_allclose(normalised[:, :2], expected[:, :2], atol=2e-3)


def test_learners_that_sum_agree_with_one_that_sees_everything() -> None:
    one, two, whole = RunningStatistics(2), RunningStatistics(2), RunningStatistics(2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        left, right = torch.randn(4, 2, generator=generator), 5 + torch.randn(9, 2, generator=generator)
        one.see(left)
        two.see(right)
        whole.see(torch.cat((left, right)))
        total = one._pending + two._pending  # type: ignore[operator]
        for statistics in (one, two):
            statistics.merge(lambda _, total=total: total)  # type: ignore[misc]
        whole.merge(_alone)
    for name in ("count", "mean", "squares"):
        torch.testing.assert_close(getattr(one, name), getattr(whole, name))
        torch.testing.assert_close(getattr(two, name), getattr(whole, name))


def test_nothing_changes_before_a_merge_or_without_rows() -> None:
    statistics = RunningStatistics(2)
    rows = torch.tensor([[3.0, -4.0]])
    statistics.merge(_alone)
    statistics.see(torch.randn(5, 2))
    torch.testing.assert_close(statistics(rows), rows)


def test_rewards_are_scaled_by_the_deviation_of_their_discounted_sums() -> None:
    scale, sums, running = RewardScale(0.9), [], np.zeros(4)
    for seed in range(3):
        rollout = _rollout(seed)
        if seed == 2:
            rollout["first"][0] = False  # this rollout goes on where the last one ended
        for step in range(5):
            running = rollout["reward"][step].numpy() + 0.9 * running * ~rollout["first"][step].numpy()
            sums.append(running[rollout["valid"][step].numpy()])
        scale.see(rollout)
        scale.merge(_alone)
    deviation = np.concatenate(sums).std()
    reward = torch.tensor([3.0, -5.0])
    np.testing.assert_allclose(scale(reward), reward.numpy() / deviation, rtol=1e-5)


@pytest.mark.parametrize("name", ["observation", "observation.joint"])
def test_dead_steps_images_and_categories_are_left_out(name: str) -> None:
    real = TensorSpec(shape=(3,), dtype=torch.float32)
    others = {
        "observation.picture": TensorSpec(shape=(8, 8), dtype=torch.uint8),
        "observation.room": TensorSpec(shape=(), dtype=torch.int64, num_values=3),
        "observation.action_mask": TensorSpec(shape=(2,), dtype=torch.int8, num_values=(2, 2)),
    }
    normalizer = ObservationNormalizer({name: real, **({} if name == "observation" else others)})
    rollout = _rollout(0)
    seen = rollout.pop("observation")
    normalizer.see({**rollout, name: seen})
    normalizer.merge(_alone)
    kept = seen.flatten(0, 1)[rollout["valid"].flatten()].double().numpy()
    (statistics,) = normalizer.statistics
    assert isinstance(statistics, RunningStatistics)
    np.testing.assert_allclose(statistics.mean, kept.mean(axis=0))
    if name != "observation":
        picture = torch.zeros(2, 8, 8, dtype=torch.uint8)
        given = {"joint": torch.full((2, 3), 50.0), "picture": picture, "room": torch.ones(2, dtype=torch.int64)}
        found = normalizer(given)
        assert found["picture"] is picture and found["room"] is given["room"]
        assert float(found["joint"].abs().max()) < 2


def test_nothing_to_normalise_is_an_error_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^algorithm.normalize_observation: .*; set it to false$"):
        ObservationNormalizer({"observation": TensorSpec(shape=(8, 8), dtype=torch.uint8)})


def _ppo(**settings: Any) -> PPO:
    torch.manual_seed(0)
    return PPO(PPO.Config(normalize_observation=True, **settings), SPEC)


def test_a_rollout_is_learnt_from_as_it_was_acted_on_and_then_counts() -> None:
    ppo = _ppo()
    assert ppo.normalizer is not None
    with torch.no_grad():
        for seed in (0, 1):
            before = ppo.normalizer(_rollout(1)["observation"].flatten(0, 1))
            ppo.collected(_rollout(seed))
            rows = ppo.prepare(_rollout(seed))
    torch.testing.assert_close(rows["observation"], before[_rollout(1)["valid"].flatten()])
    (statistics,) = ppo.normalizer.statistics
    expected = torch.cat([_rollout(seed)["observation"][_rollout(seed)["valid"]] for seed in (0, 1)]).double()
    torch.testing.assert_close(statistics.mean, expected.mean(0))


def test_acting_and_the_exported_model_have_the_statistics_inside() -> None:
    for agent in (_ppo(), SAC(SAC.Config(hidden_sizes=(8,), normalize_observation=True), SPEC)):
        observation = _rollout(3)["observation"][0]
        with torch.no_grad():
            unknown = agent.act(observation, None, None).action
            agent.collected(_rollout(0))
            if isinstance(agent, PPO):
                agent.prepare(_rollout(0))
            else:
                action = _rollout(3)["action"][0]
                agent.prepare({"observation": observation, "next_observation": observation, "action": action})
            agent.after_publish()
            known = agent.act(observation, None, None).action
            module = agent.inference_module()
            assert module is not None and isinstance(known, torch.Tensor)
            torch.testing.assert_close(module(observation).clamp(-2, 2), known, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(known, unknown)  # type: ignore[arg-type]


def test_replayed_observations_are_normalised_at_both_ends() -> None:
    sac = SAC(SAC.Config(hidden_sizes=(8,), normalize_observation=True), SPEC)
    rollout = _rollout(0)
    sac.collected(rollout)
    given = {name: rollout[name][0] for name in ("observation", "next_observation")}
    rows = sac.prepare({**given, "action": rollout["action"][0]})
    seen = rollout["observation"][rollout["valid"]].double()
    for name, value in given.items():
        expected = (value - seen.mean(0)) / seen.var(0, correction=0).sqrt()
        torch.testing.assert_close(rows[name].double(), expected, rtol=1e-4, atol=1e-4)
