"""Runs that start from runs: what they take, that it is copied and recorded, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch

import rayloom
from cases import case
from rayloom.checkpoint.store import tensors_sha256
from rayloom.config.load import from_tree
from rayloom.contract import Input
from rayloom.errors import UserError
from rayloom.launch.run import resume
from rayloom.runs.inputs import recorded_inputs
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.observer import Result
from rayloom.runs.parcels import PARCEL, WEIGHTS, save_parcel
from rayloom.runs.weights import build_trained, find_weights
from rayloom.tracking.journal import PROCESS, last_start
from rayloom_supervised.tasks.classification import Classifier


class Heir(Classifier):
    """Takes the mean of its inputs' weights, and counts how often it was asked to."""

    started: ClassVar[list[tuple[str, int]]] = []

    def start_from(self, inputs: Mapping[str, Input]) -> None:
        type(self).started += [(each.run_id, each.step) for each in inputs.values()]
        states = [each.weights for each in inputs.values()]
        self.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})


HEIR = {"import": f"{__name__}:Heir", "network": {"kind": "mlp", "hidden_sizes": [8]}}


def trained(output: Path, seed: int = 0, **sections: Any) -> Result:
    """Train a small classifier; with a goal, so that it has a best checkpoint."""
    algorithm = {"network": {"kind": "mlp", "hidden_sizes": [8]}}
    tree = case(
        "softmax_regression", str(output), algorithm=algorithm, stop={"updates": 30, "epochs": 99}, **sections
    ).to_tree()
    return rayloom.run(from_tree({**tree, "seed": seed}), local=True)


def heir(output: Path, name: str = "softmax_regression", **parts: Any) -> Any:
    """Return a config whose first update changes nothing, so that its weights are those that it began with."""
    tree = case(
        name, str(output), algorithm=HEIR, learner={"optimizer": {"learning_rate": 1e-30}}, stop={"updates": 1}
    ).to_tree()
    return from_tree({**tree, "stop": {"updates": 1}, **parts})


def kill(result: Result) -> None:
    """Leave the run as if it had been killed before its first checkpoint."""
    shutil.rmtree(result.run_dir / "checkpoints")
    for name in ("result.json", PROCESS):
        (result.run_dir / name).unlink()


def weights_of(result: Result) -> dict[str, torch.Tensor]:
    config = rayloom.load(result.run_dir.name, output=str(result.run_dir.parent)).config
    return find_weights(config, result.run_dir, "last").state


def test_an_algorithm_is_given_the_weights_of_earlier_runs_once(tmp_path: Path) -> None:
    first, second = trained(tmp_path), trained(tmp_path, seed=1)
    Heir.started.clear()
    inputs = {"prior": first.run_dir.name, "judge": {"run": second.run_dir.name, "weights": "last"}}
    result = rayloom.run(heir(tmp_path, inputs=inputs), local=True)
    assert Heir.started == [(first.run_dir.name, 30), (second.run_dir.name, 30)]
    ours, one, two = weights_of(result), weights_of(first), weights_of(second)
    for name, value in ours.items():
        assert torch.equal(value, (one[name] + two[name]) / 2), name


def test_what_was_taken_is_copied_and_recorded_and_the_earlier_run_is_not_needed_again(tmp_path: Path) -> None:
    first = trained(tmp_path)
    taken = weights_of(first)
    result = rayloom.run(heir(tmp_path, inputs={"prior": first.run_dir.name}), local=True)
    record = recorded_inputs(result.run_dir)
    assert record == {"prior": {"run_id": first.run_dir.name, "step": 30, "sha256": tensors_sha256(taken)}}
    start, _ = last_start(result.run_dir)  # type: ignore[misc]
    assert start["tags"]["rayloom.input.prior"] == first.run_dir.name
    assert start["params"]["taken.prior.sha256"] == record["prior"]["sha256"]
    shutil.rmtree(first.run_dir)
    kill(result)
    again = resume(result.run_dir.name, output=str(tmp_path))
    assert again.weights_sha256 == result.weights_sha256


def test_a_copy_that_has_changed_is_refused(tmp_path: Path) -> None:
    first = trained(tmp_path)
    result = rayloom.run(heir(tmp_path, inputs={"prior": first.run_dir.name}), local=True)
    copy = result.run_dir / "inputs" / "prior.safetensors"
    weights = safetensors.torch.load_file(copy)
    safetensors.torch.save_file({name: value + 1 for name, value in weights.items()}, copy)
    kill(result)
    with pytest.raises(UserError, match=r"prior\.safetensors has changed since the run began"):
        resume(result.run_dir.name, output=str(tmp_path))


def test_the_best_weights_are_taken_where_there_are_some(tmp_path: Path) -> None:
    first = trained(tmp_path, checkpoint={"best": "evaluate/loss", "every": "10 updates"}, evaluate={"every": None})
    Heir.started.clear()
    for weights, step in ((None, 30), ("last", 30), (20, 20)):
        rayloom.run(heir(tmp_path, inputs={"prior": {"run": first.run_dir.name, "weights": weights}}), local=True)
        assert Heir.started.pop() == (first.run_dir.name, step)


def test_fine_tuning_takes_what_is_included_by_its_new_name(tmp_path: Path) -> None:
    first = trained(tmp_path)
    theirs = weights_of(first)
    whole = rayloom.run(heir(tmp_path, start_from={"run": first.run_dir.name}), local=True)
    assert all(torch.equal(value, theirs[name]) for name, value in weights_of(whole).items())
    part = rayloom.run(heir(tmp_path, start_from={"run": first.run_dir.name, "include": ["*.bias"]}), local=True)
    fresh = weights_of(rayloom.run(heir(tmp_path), local=True))
    for name, value in weights_of(part).items():
        assert torch.equal(value, theirs[name] if name.endswith("bias") else fresh[name]), name


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"inputs": {"prior": "nothing"}}, r"inputs\.prior: there is no run 'nothing' under"),
        ({"inputs": {"prior": {"run": "RUN", "weights": "best"}}}, r"inputs\.prior: .* kept no best checkpoint"),
        ({"inputs": {"prior": {"run": "RUN", "weights": 7}}}, r"inputs\.prior: .* has no checkpoint of update 7"),
        ({"inputs": {"prior": {"run": "RUN", "wieghts": 7}}}, r"inputs\.prior\.wieghts: there is no such key"),
        ({"inputs": {"start_from": "RUN"}}, r"inputs\.start_from: there is a part of that name"),
        (
            {"inputs": {"prior": "RUN"}, "algorithm": {**HEIR, "network": {"kind": "mlp", "hidden_sizes": [9]}}},
            r"inputs: .*size mismatch|inputs: .*[Mm]issing",
        ),
        (
            {"inputs": {"prior": "RUN"}, "algorithm": {"import": "rayloom_supervised.tasks.classification:Classifier"}},
            "Classifier does not start from other runs; remove inputs",
        ),
        ({"start_from": {"run": "RUN", "include": ["encoder.*"]}}, r"start_from\.include: no tensor of run .* fits"),
        (
            {"start_from": {"run": "RUN", "rename": {"network.": "net."}}},
            r"start_from: there is no net\.\S+ here for network\.\S+ of run",
        ),
        (
            {"start_from": {"run": "RUN", "rename": {"network.layers.0.weight": "network.layers.2.weight"}}},
            r"start_from: network\.layers\.2\.weight has the shape \[8, 64\] in run \S+ and \[10, 8\] here",
        ),
        (
            {"learner": {"freeze": ["encoder.*"]}},
            r"learner\.freeze: no parameter fits 'encoder\.\*'; there are network",
        ),
        ({"learner": {"freeze": ["*"]}}, r"learner\.freeze: the phase classify has nothing left to train"),
    ],
)
def test_mistakes_are_one_sentence_before_there_is_a_folder(
    tmp_path: Path, shared: Result, parts: dict[str, Any], sentence: str
) -> None:
    output = shared.run_dir.parent
    named = _named(parts, shared.run_dir.name)
    before = sorted(output.iterdir())
    with pytest.raises(UserError, match=sentence):
        rayloom.run(heir(output, **named), local=True)
    assert sorted(output.iterdir()) == before


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return trained(tmp_path_factory.mktemp("inputs"))


def _named(parts: Any, run: str) -> Any:
    if isinstance(parts, dict):
        return {name: _named(value, run) for name, value in parts.items()}
    return run if parts == "RUN" else parts


def test_a_run_without_a_checkpoint_is_no_input(tmp_path: Path) -> None:
    first = trained(tmp_path)
    shutil.rmtree(first.run_dir / "checkpoints")
    with pytest.raises(UserError, match=r"inputs\.prior: the run in \S+ has no checkpoint yet"):
        rayloom.run(heir(tmp_path, inputs={"prior": first.run_dir.name}), local=True)


def test_frozen_parameters_stay_and_the_others_learn() -> None:
    role = LearnerRole(case("lenet5", learner={"freeze": ["network.*weight"]}))
    before = {name: value.clone() for name, value in role.algorithm.named_parameters()}
    for _ in range(3):
        role.learner.update(role.source.next, role.source.feedback)
    for name, value in role.algorithm.named_parameters():
        assert torch.equal(value, before[name]) == name.endswith("weight"), name
    counts = role.parameter_counts()
    assert counts == {"classify": sum(v.numel() for n, v in before.items() if not n.endswith("weight"))}
    role.close()


def test_a_reinforcement_learner_acts_by_what_it_took_from_its_first_rollout_on(tmp_path: Path) -> None:
    first = rayloom.run(case("ppo", str(tmp_path), stop={"env_steps": 256}), local=True)
    tree = case("ppo", str(tmp_path), learner={"optimizer": {"learning_rate": 1e-30}}).to_tree()
    tree["stop"] = {"env_steps": 128}
    result = rayloom.run(from_tree({**tree, "start_from": {"run": first.run_dir.name}}), local=True)
    ours, theirs = weights_of(result), weights_of(first)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert result.metrics["train/kl"] == pytest.approx(0.0, abs=1e-6), "its rollout came from the same policy"


def test_a_run_begins_with_the_weights_of_a_parcel(tmp_path: Path) -> None:
    first = trained(tmp_path)
    config = rayloom.load(first.run_dir.name, output=str(tmp_path)).config
    folder = tmp_path / "players" / "mine"
    save_parcel(build_trained(config, first.run_dir, "last"), folder, {})
    result = rayloom.run(heir(tmp_path, start_from={"run": str(folder)}), local=True)
    for name, value in weights_of(result).items():
        assert torch.equal(value, weights_of(first)[name]), name
    about = recorded_inputs(result.run_dir)["start_from"]
    assert (about["run_id"], about["step"]) == ("mine", 30)

    with pytest.raises(UserError, match=r"start_from: a parcel as .* holds one state only; leave out weights: best"):
        rayloom.run(heir(tmp_path, start_from={"run": str(folder), "weights": "best"}), local=True)
    with pytest.raises(UserError, match=r"start_from: "):
        rayloom.run(heir(tmp_path, start_from={"run": "x" * 300}), local=True)
    told = (folder / PARCEL).read_text()
    own, other = (hashlib.sha256(each).hexdigest() for each in ((folder / WEIGHTS).read_bytes(), b"nonsense"))
    (folder / WEIGHTS).write_bytes(b"nonsense")
    (folder / PARCEL).write_text(told.replace(own, other))
    with pytest.raises(UserError, match=r"start_from: .* is damaged"):
        rayloom.run(heir(tmp_path, start_from={"run": str(folder)}), local=True)
    (folder / PARCEL).write_text(told)
    with pytest.raises(UserError, match=r"start_from: .* is damaged"):
        rayloom.run(heir(tmp_path, start_from={"run": str(folder)}), local=True)
    (folder / PARCEL).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"start_from: .* is no parcel"):
        rayloom.run(heir(tmp_path, start_from={"run": str(folder)}), local=True)
