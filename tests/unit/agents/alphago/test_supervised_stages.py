"""The supervised stages of AlphaGo: losses by hand, what runs take over from runs, the mixing of value and rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from rayloom.contract import Budget, EvaluationContext, Input
from rayloom.errors import UserError
from rayloom_agents.alphago.ablation import VARIANTS, Ablation, AblationConfig
from rayloom_agents.alphago.alphago_player import AlphaGo, NetworkSize
from rayloom_agents.alphago.experts.positions import position_spec
from rayloom_agents.alphago.experts.source import ExpertGamesConfig, load_positions
from rayloom_agents.alphago.games import Go
from rayloom_agents.alphago.go import patterns, playouts
from rayloom_agents.alphago.rollout_policy import RolloutPolicy
from rayloom_agents.alphago.search import SearchSettings
from rayloom_agents.alphago.supervised_policy import SupervisedPolicy, judge_moves, legal_actions
from rayloom_agents.alphago.value_network import ValueNetwork

GAME = Go(5)
SPEC = position_spec(GAME)
SMALL = {"blocks": 1, "channels": 4}


def rows(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return positions of the shipped games."""
    table = load_positions(ExpertGamesConfig(size=5)).validation
    chosen = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:count]
    return dict(table.rows(chosen))


def given(algorithm: torch.nn.Module, name: str = "run") -> Input:
    """Return what another run takes over from this one."""
    return Input(run_id=name, step=1, weights={key: value.clone() for key, value in algorithm.state_dict().items()})


def test_moves_are_judged_among_the_legal_ones() -> None:
    log_policy = torch.tensor([[0.5, 0.3, 0.15, 0.05, 0, 0, 0], [0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2]]).log()
    found = judge_moves(log_policy, torch.tensor([1, 4]))
    assert found["top1"].tolist() == [0, 0] and found["top5"].tolist() == [1, 1]
    torch.testing.assert_close(found["policy_loss"], -torch.tensor([0.3, 0.1]).log())
    ranked = torch.tensor([[0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05]]).log().expand(3, 7)
    assert judge_moves(ranked, torch.tensor([0, 4, 5]))["top5"].tolist() == [1, 1, 0]
    assert judge_moves(ranked, torch.tensor([0, 4, 5]))["top1"].tolist() == [1, 0, 0]
    batch = rows(200)
    legal = legal_actions(batch["planes"])
    assert legal.shape == (200, 26) and legal[:, 25].all() and legal.gather(1, batch["action"][:, None]).all()
    stones = (batch["planes"][:, 0] + batch["planes"][:, 1]).flatten(1) > 0
    assert not legal[:, :25][stones].any()


def test_the_supervised_policys_loss_and_baselines() -> None:
    policy = SupervisedPolicy(SupervisedPolicy.Config(**SMALL, value_weight=2.0), SPEC)
    batch = rows(64)
    policy.symmetries.draw = lambda noise, count: torch.zeros(count, dtype=torch.int64)  # type: ignore[method-assign]
    loss, found = policy.loss(batch), policy.evaluate(batch)
    logits, value = policy.infer(batch["planes"].numpy())
    masked = np.where(legal_actions(batch["planes"]).numpy(), logits, -np.inf)
    shifted = np.exp(masked - masked.max(axis=1, keepdims=True))
    chosen = (shifted / shifted.sum(axis=1, keepdims=True))[np.arange(64), batch["action"].numpy()]
    error = (batch["outcome"].numpy() - value) ** 2
    np.testing.assert_allclose(loss.per_example.detach().numpy(), -np.log(chosen) + 2 * error, rtol=1e-4)
    np.testing.assert_allclose(found["value_loss"].detach().numpy(), error, rtol=1e-4)
    count = 26 - batch["planes"][:, 13].flatten(1).sum(dim=1)
    torch.testing.assert_close(found["uniform_loss"], count.log())
    torch.testing.assert_close(found["uniform_top1"], 1 / count)


def test_raw_planes_hide_what_follows_from_the_rules() -> None:
    policy = SupervisedPolicy(SupervisedPolicy.Config(**SMALL, raw_planes=True), SPEC)
    planes = rows(8)["planes"].numpy()
    other = planes.copy()
    other[:, 2:15] = 1 - other[:, 2:15]
    assert np.array_equal(policy.infer(planes)[0], policy.infer(other)[0]) and policy.inference_module() is None
    other[:, 0] = 1 - other[:, 0]
    assert not np.array_equal(policy.infer(planes)[0], policy.infer(other)[0])


def test_networks_go_on_from_networks() -> None:
    policy, value = (kind(kind.Config(**SMALL), SPEC) for kind in (SupervisedPolicy, ValueNetwork))
    value.start_from({"policy": given(policy)})
    again = SupervisedPolicy(SupervisedPolicy.Config(**SMALL), SPEC)
    again.start_from({"network": given(value)})
    planes = rows(4)["planes"].numpy()
    assert np.array_equal(again.infer(planes)[0], policy.infer(planes)[0])
    assert (value.infer(planes)[0] == 0).all() and np.array_equal(value.infer(planes)[1], policy.infer(planes)[1])
    larger = SupervisedPolicy(SupervisedPolicy.Config(blocks=2, channels=4), SPEC)
    mistakes: list[tuple[Any, Mapping[str, Input], str]] = [
        (larger, {"network": given(policy)}, "has another form"),
        (again, {"policy": given(policy)}, "name the one earlier run `network`"),
        (value, {"network": given(policy)}, "name the one earlier run `policy`"),
    ]
    for algorithm, inputs, words in mistakes:
        with pytest.raises(UserError, match=words):
            algorithm.start_from(inputs)
    for kind in (SupervisedPolicy, ValueNetwork, RolloutPolicy, AlphaGo):
        with pytest.raises(UserError, match="learns from expert games"):
            kind(kind.Config(), {"planes": SPEC["planes"]})  # type: ignore[abstract]


# --- prior, value and rollouts ---------------------------------------------------------------------------------------


def alphago(**settings: Any) -> AlphaGo:
    """Return AlphaGo with the networks of three runs."""
    size = NetworkSize(**SMALL)
    player = AlphaGo(AlphaGo.Config(policy=size, value=size, **settings), SPEC)
    policy, value = SupervisedPolicy(SupervisedPolicy.Config(**SMALL), SPEC), ValueNetwork(
        ValueNetwork.Config(**SMALL), SPEC
    )  # fmt: skip
    rollout = RolloutPolicy(RolloutPolicy.Config(), SPEC)
    with torch.no_grad():
        rollout.weight.normal_()
    inputs = {"policy": given(policy), "value": given(value), "rollout": given(rollout)}
    player.start_from(inputs)
    planes = rows(16)["planes"].numpy()
    assert np.array_equal(player.infer(planes)[0], policy.infer(planes)[0])
    assert np.array_equal(player.variant(False, True, False)(planes)[1], value.infer(planes)[1])
    for missing in inputs:
        with pytest.raises(UserError, match="name the runs policy, value, rollout"):
            player.start_from({name: each for name, each in inputs.items() if name != missing})
    with pytest.raises(UserError, match="has not trained a RolloutPolicy"):
        player.start_from({**inputs, "rollout": inputs["policy"]})
    return player


def test_a_leaf_mixes_the_value_and_the_rollouts_of_the_mover() -> None:
    player = alphago(mixing=0.25, rollouts=4)
    planes = rows(40)["planes"].numpy()
    value, rollout = player.variant(False, True, False)(planes)[1], player.variant(False, False, True)(planes)[1]
    logits, values = player.infer(planes)
    np.testing.assert_allclose(values, 0.75 * value + 0.25 * rollout, rtol=1e-5)
    assert np.isin(rollout * 2, (-2, -1, 0, 1, 2)).all() and len(np.unique(rollout)) > 2
    wanted = playouts.mean_outcomes(
        planes, patterns.factors(player.get_buffer("rollout").numpy()), 4, planes[:, 13] > 0.5
    )
    assert np.array_equal(rollout, wanted)
    assert (player.variant(False, True, True)(planes)[0] == 0).all() and (logits != 0).any()
    assert (player.variant(True, False, False)(planes)[1] == 0).all()
    last = rows(300)  # late positions of won games: a rollout mostly agrees with the outcome for the mover
    late = last["planes"][:, 13].flatten(1).mean(dim=1) > 0.6
    outcome = last["outcome"][late].numpy()
    agreed = player.roll_out(last["planes"][late].numpy()) * outcome
    assert len(outcome) > 20 and agreed.mean() > 0.3


def test_the_mixing_is_the_least_squares_solution() -> None:
    player, parts = alphago(), [rows(30, seed) for seed in (1, 2)]
    gathered = [player.gather(part) for part in parts]
    sums = {name: gathered[0].sums[name] + gathered[1].sums[name] for name in ("product", "square")}
    told = player.apply_sums(sums, 60)
    planes = np.concatenate([part["planes"].numpy() for part in parts])
    outcome = np.concatenate([part["outcome"].numpy() for part in parts])
    value, rollout = (player.variant(False, *which)(planes)[1] for which in ((True, False), (False, True)))
    grid = np.linspace(0, 1, 10_001)
    errors = [np.square(outcome - (1 - each) * value - each * rollout).sum() for each in grid]
    assert float(player.mixing) == pytest.approx(grid[int(np.argmin(errors))], abs=2e-4)
    assert told["mixing"] == player.mixing
    fixed = alphago(mixing=0.5)
    fixed.apply_sums(sums, 60)
    assert fixed.mixing == 0.5
    error = player.evaluate(parts[0])["mixed_loss"].mean()
    assert error <= min(player.evaluate(parts[0])[name].mean() for name in ("value_loss", "rollout_loss")) + 0.1


def test_the_ablation_plays_every_set_of_parts() -> None:
    context = EvaluationContext(source=ExpertGamesConfig(size=5), data=None)
    ablation = Ablation(AblationConfig(games=2, search=SearchSettings(simulations=3)), context)
    found = ablation.run(alphago(), 1, Budget(600.0))
    assert set(found.metrics) == set(Ablation.metrics) and found.figures["ablation"].labels == tuple(VARIANTS)
    for name in VARIANTS:
        assert -1e-9 < found.metrics[f"score_low_{name}"] <= found.metrics[f"score_{name}"] <= 1
    with pytest.raises(UserError, match="takes AlphaGo apart, not ValueNetwork"):
        ablation.run(ValueNetwork(ValueNetwork.Config(**SMALL), SPEC), 1, Budget(600.0))
    with pytest.raises(UserError, match="needs a source of expert games"):
        Ablation(AblationConfig(), EvaluationContext(source=None, data=None))
