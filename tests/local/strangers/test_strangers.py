"""Whoever reads only the contract writes SAC, a deep belief network and a match in one file each, and they hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rayloom
from own_sources import LINES
from rayloom.config.load import load
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom.testing import check_algorithm
from rayloom.testing.probes import ContinuousProbe
from rayloom.tracking.journal import read_metrics

FOLDER = Path(__file__).resolve().parents[2] / "fakes" / "strangers"
SKIPPED = {
    "sac_probe": {"data_repeat", "rules_add_up", "deployed_rows_do_not_mix"},
    "dbn_digits": {"actions_fit", "deployed_rows_do_not_mix"},
    "tic_tac_toe": {"data_repeat", "rules_add_up", "actions_fit", "deployed_rows_do_not_mix"},
}
"""Checks that do not apply: no data, no rule, no environment, no module to deploy."""


def stranger(name: str, output: Path | str = "rayloom-runs", *overrides: str) -> RunConfig:
    """Return one of their configs without tracking."""
    quiet = ("tracking.enabled=false", "tracking.system_metrics=false", f"output={output}")
    return load(str(FOLDER / f"{name}.yaml"), (*quiet, *overrides))


def untrained(config: RunConfig) -> dict[str, float]:
    """Return what the evaluation says before the first update."""
    role = LearnerRole(config)
    try:
        return dict(role.evaluate().metrics)
    finally:
        role.close()


def series(run_dir: Path, name: str) -> list[float]:
    """Return all values of a metric."""
    return [value for _, found, value in read_metrics(run_dir) if found == name]


@pytest.mark.parametrize("name", SKIPPED)
def test_all_promises_are_kept(name: str) -> None:
    results = check_algorithm(stranger(name))
    assert [result.failure for result in results if result.failure] == []
    assert {result.name for result in results if result.skipped} == SKIPPED[name]


def test_they_import_the_contract_alone() -> None:
    rows = [row for path in FOLDER.glob("*.py") for row in path.read_text().splitlines()]
    assert {row.split()[1] for row in rows if row.startswith(("from rayloom", "import rayloom"))} == {
        "rayloom.contract"
    }


# --- SAC --------------------------------------------------------------------------------------------------------------


def test_sac_finds_the_action_the_entropy_the_temperature_and_the_values(tmp_path: Path) -> None:
    """One step with reward -(a - x)^2: the best policy of entropy -1 is normal around x, with the variance alpha / 2.

    Its entropy log(2 pi e variance) / 2 is -1 where the variance is exp(-3) / (2 pi).
    """
    config = stranger("sac_probe", tmp_path)
    assert untrained(config)["evaluate/return_mean"] < -0.1
    result = rayloom.run(config, local=True)
    assert result.metrics["evaluate/return_mean"] > -0.01
    alpha = 2 * math.exp(-3) / (2 * math.pi)
    assert result.metrics["train/temperature_alpha"] == pytest.approx(alpha, rel=0.3)
    assert np.mean(series(result.run_dir, "train/actor_entropy")[-5:]) == pytest.approx(-1, abs=0.15)
    algorithm: Any = rayloom.load(result.run_dir.name, output=str(tmp_path)).algorithm
    observation = torch.from_numpy(ContinuousProbe().observations())
    with torch.no_grad():
        assert torch.allclose(algorithm.act(observation, None, None).action, observation, atol=0.1)
        for offset in (-0.2, 0.0, 0.2):
            values = algorithm.values(algorithm.critics, observation, (observation + offset) / 2)
            assert torch.allclose(values, torch.full((2, 2), -(offset**2)), atol=0.05)


def test_sac_refuses_actions_that_it_cannot_choose(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^algorithm: SAC needs bounded real actions"):
        rayloom.run(stranger("sac_probe", tmp_path, "source.env=CartPole-v1"), local=True)


@pytest.mark.full
def test_sac_swings_the_pendulum_up(tmp_path: Path) -> None:
    config = stranger("sac_pendulum", tmp_path)
    assert untrained(config)["evaluate/return_mean"] < -900
    assert rayloom.run(config, local=True).metrics["evaluate/return_mean"] > -300


# --- deep belief network ----------------------------------------------------------------------------------------------


def test_a_deep_belief_network_learns_layer_by_layer_and_is_tuned(tmp_path: Path) -> None:
    config = stranger("dbn_digits", tmp_path)
    before = untrained(config)
    result = rayloom.run(config, local=True)
    accuracy = series(result.run_dir, "evaluate/accuracy")
    reconstruction = series(result.run_dir, "evaluate/reconstruction")
    # Evaluations fall to a fifth of the run each: the machines have three of them, tuning the rest.
    assert before["evaluate/accuracy"] < 0.2 and before["evaluate/reconstruction"] > 0.1
    assert max(accuracy[:3]) < 0.3 and min(reconstruction[:3]) < 0.03
    assert accuracy[-1] > 0.95
    for machine in (0, 1):
        errors = series(result.run_dir, f"train/machine_{machine}_reconstruction")
        assert errors[-1] < 0.6 * errors[0]


def test_its_parts_take_turns_over_parameters_that_they_share() -> None:
    role = LearnerRole(stranger("dbn_digits"))
    changed = []
    try:
        state = {name: value.clone() for name, value in role.algorithm.state_dict().items()}
        for fraction in (0.1, 0.4, 0.8):
            for _ in range(5):
                role.algorithm.progress.fraction = fraction
                role.learner.update(role.source.next, role.source.feedback)
            now = {name: value.clone() for name, value in role.algorithm.state_dict().items()}
            changed.append({name for name in now if not torch.equal(now[name], state[name])})
            state = now
    finally:
        role.close()
    layers = [{f"machines.{number}.{name}" for name in ("weight", "visible", "hidden")} for number in (0, 1)]
    assert changed[0] == layers[0]
    assert changed[1] == layers[1]
    assert changed[2] == {name for name in state if not name.endswith("visible")}


def test_contrastive_divergence_is_what_the_paper_says() -> None:
    """One update against loops over examples and units, with the same draws."""
    role = LearnerRole(stranger("dbn_digits", "rayloom-runs", "learner.batch_size=4", "algorithm.hidden_sizes=[3]"))
    try:
        algorithm: Any = role.algorithm
        machine = algorithm.machines[0]
        batch = role.source.next()
        draws = torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
        algorithm.noise = type("Given", (), {"bernoulli": lambda self, probability: draws})()
        with torch.no_grad():
            sums = algorithm.gather(0, batch).sums
        weight, visible, hidden = (value.detach().double().numpy() for value in machine.parameters())
        expected = np.zeros_like(weight)
        for row, drawn in zip(batch["image"].double().numpy(), draws.double().numpy(), strict=True):
            dreamt = np.array([_sigmoid(visible[i] + drawn @ weight[:, i]) for i in range(64)])
            for j in range(3):
                first, last = (_sigmoid(hidden[j] + weight[j] @ pixels) for pixels in (row, dreamt))
                expected[j] += first * row - last * dreamt
        np.testing.assert_allclose(sums["weight"].numpy(), expected, atol=1e-4)
        with torch.no_grad():
            algorithm.apply_to(machine, sums, 4.0)
        np.testing.assert_allclose(machine.weight.detach().numpy(), weight + 0.5 / 4 * expected, atol=1e-5)
    finally:
        role.close()


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


# --- matches ----------------------------------------------------------------------------------------------------------


def _replay(moves: list[int]) -> tuple[int | None, bool]:
    """Return who has won, 0 for who moved first, and whether the game was over with its last move and not before."""
    board = [0] * 9
    for ply, move in enumerate(moves):
        assert board[move] == 0, "a square is taken once"
        board[move] = 1 + ply % 2
        if any(all(board[square] == 1 + ply % 2 for square in line) for line in LINES.tolist()):
            return ply % 2, ply == len(moves) - 1
    return None, len(moves) == 9


def test_matches_are_played_by_the_rules_and_self_play_learns(tmp_path: Path) -> None:
    config = stranger("tic_tac_toe", tmp_path)
    before = untrained(config)
    result = rayloom.run(config, local=True)
    assert result.metrics["evaluate/score"] > before["evaluate/score"] + 0.15
    record = sorted(result.run_dir.glob("artifacts/evaluations/step_*/games.txt"))[-1]
    scores = []
    for number, row in enumerate(record.read_text().splitlines()):
        stated, *moves = (int(word) for word in row.split())
        winner, complete = _replay(moves)
        assert complete
        mine = 0 if number % 2 == 0 else 1
        assert stated == (0 if winner is None else 1 if winner == mine else -1)
        scores.append((stated + 1) / 2)
    assert len(scores) == 400 and np.mean(scores) == pytest.approx(result.metrics["evaluate/score"])


def test_the_careful_opponent_wins_and_blocks() -> None:
    from strangers.matches import Matches, MatchesConfig

    boards = torch.tensor(
        [[1.0, 1, 0, -1, -1, 0, 0, 0, 0], [-1.0, 0, 0, 1, -1, 0, 0, 0, 0], [-1.0, 1, 0, 0, 0, 0, 1, 0, -1]]
    )
    opponent = Matches(MatchesConfig(), None)  # type: ignore[arg-type]
    for seed in range(5):
        assert opponent.opponent(boards, torch.Generator().manual_seed(seed)).tolist() == [2, 8, 4]
