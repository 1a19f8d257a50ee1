"""A source that a config names by its import path works as the engine's own do."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import own_sources
import rayloom
import rayloom.contract.source
from contexts import context_of
from learners import Learners
from own_runs import games, line
from own_sources import LINES, Line, Outcomes, SelfPlay, called
from rayloom.checkpoint.store import CheckpointStore
from rayloom.config.load import load
from rayloom.contract import AlgorithmConfig, Source
from rayloom.errors import UserError
from rayloom.launch.run import describe
from rayloom.launch.trained import evaluate as evaluate_run
from rayloom.rollouts.worker import RolloutWorker
from rayloom.runs.plan import make_plan
from rayloom.sources.resharding import reshard


def score(algorithm: Outcomes, number: int = 400) -> float:
    """Return the mean outcome of games against random moves, as first and as second player in turn."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    board, outcome, playing = np.zeros((number, 9), np.float32), np.zeros(number), np.ones(number, bool)
    first = np.arange(number) % 2 == 0
    for ply in range(9):
        random = (rng.random((number, 9)) * (board == 0)).argmax(1)
        chosen = algorithm.act(torch.from_numpy(board), None, generator).action.numpy()
        mine = first == (ply % 2 == 0)
        board[np.arange(number), np.where(mine, chosen, random)] = 1
        won = playing & (board[:, LINES].sum(2) == 3).any(1)
        outcome[won], playing, board = np.where(mine, 1, -1)[won], playing & ~won, -board
    return float(outcome.mean())


# --- without workers --------------------------------------------------------------------------------------------------


def test_a_source_without_workers_trains_and_repeats_itself(tmp_path: Path) -> None:
    first, second = (rayloom.run(line(tmp_path, slope=-3.0)) for _ in range(2))
    assert first.weights_sha256 == second.weights_sha256
    assert first.counters["samples"] == 6400 and first.counters["updates"] == 200
    loaded = CheckpointStore(first.run_dir / "checkpoints", 2, "max").load_latest()
    assert loaded is not None
    weights = loaded.state["role"]["learner"]["algorithm"]
    assert float(weights["line.weight"]) == pytest.approx(-3.0, abs=0.05)
    assert evaluate_run(first.run_dir.name, output=str(tmp_path)).metrics == {}, "there is nothing to evaluate on"


def test_two_learners_share_its_batches_and_one_goes_on_alone() -> None:
    whole, halves = Learners(line()), Learners(line(learners=2))
    for learners in (whole, halves):
        learners.train(50)
    ours, theirs = (learners.roles[0].algorithm.state_dict() for learners in (whole, halves))
    assert all(torch.allclose(theirs[name], value, atol=1e-5) for name, value in ours.items())
    assert whole.counters() == halves.counters()
    states = [role.barrier_and_state() for role in halves.roles]
    alone = Learners(line(), reshard(line(learners=2), line(), states))
    for learners in (whole, alone):
        learners.train(100)
    ours, theirs = (learners.roles[0].algorithm.state_dict() for learners in (whole, alone))
    assert all(torch.allclose(theirs[name], value, atol=1e-5) for name, value in ours.items())
    for learners in (whole, halves, alone):
        learners.close()


def test_a_source_that_does_not_reshard_says_so() -> None:
    path = {"import": "own_sources:NotToBeDealt"}
    learners = Learners(line(learners=2, **path))
    states = [role.barrier_and_state() for role in learners.roles]
    learners.close()
    same = reshard(line(learners=2, **path), line(learners=2, **path), states)
    assert all(new is old for new, old in zip(same, states, strict=True))
    with pytest.raises(UserError, match=r"^source: NotToBeDealt cannot go on with another number of learners"):
        reshard(line(learners=2, **path), line(**path), states)


def test_the_contracts_example_is_a_source() -> None:
    text = rayloom.contract.source.__doc__ or ""
    start, end = text.index("    @dataclass"), text.index("    source: {")
    names: dict[str, Any] = {**vars(rayloom.contract), **vars(rayloom.contract.source)}
    exec(textwrap.dedent(text[start:end]), names)  # the text of our own docstring
    kind: Any = names["NoisyLine"]
    spec = kind.describe(kind.Config())
    source: Source = kind(kind.Config(slope=3.0), context_of(Line(AlgorithmConfig(), spec), 4))
    batch = source.next()
    assert torch.equal(batch["y"], 3 * batch["x"]) and source.counters() == {"samples": 4}
    copy: Source = kind(kind.Config(slope=3.0), context_of(Line(AlgorithmConfig(), spec), 4))
    copy.load_state_dict(source.state_dict())
    assert torch.equal(copy.next()["x"], source.next()["x"])


# --- with workers -----------------------------------------------------------------------------------------------------


def test_self_play_learns_and_repeats_itself(tmp_path: Path) -> None:
    untrained = Learners(games())
    before = score(untrained.roles[0].algorithm)  # type: ignore[arg-type]
    untrained.close()
    first, second = (rayloom.run(games(tmp_path, updates=100, reuse=2)) for _ in range(2))
    assert first.weights_sha256 == second.weights_sha256
    assert first.counters["episodes"] == 50 * 32 and first.counters["samples"] == 100 * 64
    loaded = CheckpointStore(first.run_dir / "checkpoints", 2, "max").load_latest()
    assert loaded is not None
    config = games()
    algorithm = Outcomes(AlgorithmConfig(), SelfPlay.describe(config.source))  # type: ignore[arg-type]
    algorithm.load_state_dict(loaded.state["role"]["learner"]["algorithm"])
    assert score(algorithm) > before + 0.3


def test_a_worker_plays_by_the_rules_and_goes_on_over_a_barrier() -> None:
    worker = RolloutWorker(games(num_envs=16), 0)
    rollout = worker.collect(2)
    board, action, outcome, valid = (rollout.arrays[name] for name in ("board", "action", "outcome", "valid"))
    assert board.shape == (18, 16, 9) and valid[:5].all(), "nobody wins before the fifth ply"
    assert (np.take_along_axis(board, action[..., None], 2) == 0).all(), "only free squares are taken"
    assert (outcome[1:9] == -outcome[:8]).all() and set(np.unique(outcome)) <= {-1, 0, 1}
    assert action[0].tolist() == [n % 9 for n in range(16)] and action[9].tolist() == [(n + 1) % 9 for n in range(16)]
    assert rollout.env_steps == valid.sum()
    assert [length for _, length in rollout.episodes[:16]] == valid[:9].sum(0).tolist()
    assert rollout.seconds["inference"] > 0 and {"other", "wait"} <= rollout.seconds.keys()
    worker.barrier()
    state = worker.state_dict()
    copy = RolloutWorker(games(num_envs=16), 0)
    copy.load_state_dict(state)
    weights = {name: value.clone() for name, value in worker._algorithm.state_dict().items()}
    copy.load_weights(1, weights, worker._algorithm.progress)
    one, other = worker.collect(1), copy.collect(1)
    assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
    assert one.arrays["action"][0].tolist() == [(n + 2) % 9 for n in range(16)], "the openings go on"


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_self_play_goes_on_with_another_number_of_learners(before: int, after: int) -> None:
    old, new = games(learners=before), games(learners=after)
    learners = Learners(old)
    learners.train(6)  # in the middle of a rollout's batches
    states = [role.barrier_and_state() for role in learners.roles]
    counters = learners.counters()
    learners.close()
    assert counters["episodes"] == 2 * 32 and counters["samples"] == 6 * 64
    dealt = reshard(old, new, states)
    rows = [sorted(row.tolist() for s in group for row in s["source"]["rows"]["board"]) for group in (states, dealt)]
    assert rows[0] == rows[1], "no row is lost"
    hashes = []
    for _ in range(2):
        learners = Learners(new, dealt)
        assert learners.counters() == counters
        assert learners.roles[0].counters() == {"updates": 6, **counters}
        learners.train(20)
        assert learners.counters()["episodes"] == 5 * 32
        hashes.append(learners.each(lambda role: role.weights_sha256()))
        learners.close()
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 1


def test_several_workers_share_the_games() -> None:
    config = games(rollout_workers=2, learners=2)
    plan = make_plan(config)
    assert plan.uses_ray and (plan.role("rollout").count, plan.role("rollout").cpus) == (2, 1)
    learners = Learners(config)
    learners.train(4)
    assert learners.counters()["episodes"] == 32
    opening = [role.source.rows["action"] for role in learners.roles]  # type: ignore[attr-defined]
    assert all(len(actions) >= 5 * 16 for actions in opening)
    learners.close()


# --- configs ----------------------------------------------------------------------------------------------------------


def test_a_config_with_an_own_source_is_written_and_read_back(tmp_path: Path) -> None:
    config = games(rounds=2)
    path = tmp_path / "games.yaml"
    path.write_text(config.to_yaml())
    assert "import: own_sources:SelfPlay" in config.to_yaml() and "source_path" not in config.to_yaml()
    assert load(str(path)) == config and config.source_class() is SelfPlay
    assert load(str(path), ["source.rounds=3"]).source.rounds == 3  # type: ignore[attr-defined]
    shown = describe(config)
    assert "import: own_sources:SelfPlay" in shown and "rounds: 2" in shown and "policy" in shown


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            {"import": "own_sources:not_a_source"},
            "source.import: own_sources:not_a_source is no source; name a sub",
        ),
        ({"import": "os:getcwd"}, "source.import: os:getcwd is no source; name a subclass of rayloom"),
        ({"import": "own_sources:Line"}, "source.import: own_sources:Line is no source; "),
        ({"import": "own_sources:NoisyLin"}, "source.import: the module own_sources has no 'NoisyLin'; did you mean "),
        ({"import": 3}, 'source.import: name the source as "package.module:Name", not 3'),
        ({"import": "own_sources:Unfinished"}, "source.import: own_sources:Unfinished must implement counters, desc"),
        (
            {"import": "own_sources:PlainSettings"},
            "source.import: own_sources:PlainSettings needs a Config besi",
        ),
        (
            {"import": "own_sources:Undecorated"},
            "source.import: own_sources:Undecorated needs a Config beside it",
        ),
        (
            {"import": "own_sources:WorkersWithoutSettings"},
            "source.import: the Config of own_sources:WorkersWithoutSettings ",
        ),
        ({"slop": 3.0}, "source.slop: there is no such key; did you mean 'slope'?"),
        ({"slope": "steep"}, "source.slope: "),
        ({"kind": "dataset"}, "source: kind names a shipped source and import one of your own; keep one of them"),
        ({"import": "own_sources:Selective"}, "source.kind: Line cannot learn from 'replay'; "),
    ],
)
def test_mistakes_are_one_sentence(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        line(**source)
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)
    assert called == [], "what a config names is not called before it is known to be a source"


@pytest.mark.parametrize("setting", [{"num_envs": 0}, {"rollout_workers": -1}, {"worker_gpus": -0.5}])
def test_workers_numbers_have_bounds(setting: dict[str, Any]) -> None:
    ((name, value),) = setting.items()
    sentence = rf"^source\.{name}: input should be greater than or equal to [01], not {value}$"
    with pytest.raises(UserError, match=sentence):
        games(**setting)


def test_what_a_source_reports_can_stop_a_run(tmp_path: Path) -> None:
    config = games(tmp_path, updates=400)
    config = replace(
        config, evaluate=replace(config.evaluate, settings=replace(config.evaluate.settings, every="40 updates"))
    )
    result = rayloom.run(replace(config, stop={**config.stop, "train/drawn_share": 0.001}))
    assert result.stopped_by == "train/drawn_share >= 0.001" and result.counters["updates"] < 400
    with pytest.raises(
        UserError, match=r"^stop\.train/draw_share: nothing in this run declares .* 'train/drawn_share'"
    ):
        make_plan(replace(config, stop={**config.stop, "train/draw_share": 0.1}))


def test_games_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(UserError, match=r"^source\.num_envs: 33 environments cannot be shared evenly by 2"):
        make_plan(games(num_envs=33, learners=2))


def test_a_description_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^source: Undescribed\.describe must return a TensorSpec by name, not \{"):
        rayloom.run(line(tmp_path, **{"import": "own_sources:Undescribed"}))
    assert not list(tmp_path.glob("*/config.yaml"))


def test_own_sources_import_the_contract_alone() -> None:
    text = Path(own_sources.__file__ or "").read_text()
    imported = {row.split()[1] for row in text.splitlines() if row.startswith("from rayloom")}
    assert imported == {"rayloom.contract"}
