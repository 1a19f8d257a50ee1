"""A population equals its runs done one after the other, whatever happens to some of its members."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cases import case
from rayloom.checkpoint.store import CheckpointStore
from rayloom.config.load import from_tree
from rayloom.config.schema import Interval, RunConfig
from rayloom.contract import NoSettings, component
from rayloom.datasets import load as load_dataset
from rayloom.datasets.dataset import Dataset
from rayloom.errors import UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom.runs.schedule import Schedule
from rayloom.search.population import Population, check_population

_RATES = (1e-3, 3e-3, 5e-4, 2e-3)


@component("data set")
def shifted_digits(config: NoSettings, seed: int) -> Dataset:
    """Return a few digits in an order that depends on the seed."""
    digits = load_dataset("digits", 0)

    def turn(split: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value[:200].roll(seed, 0) for name, value in split.columns.items()}

    return Dataset(turn(digits.train), turn(digits.validation), turn(digits.test), digits.spec)


def _members(count: int, network: str = "mlp", optimizer: str = "adam", **sections: Any) -> list[RunConfig]:
    """Return runs that differ in seed, learning rate, weight decay, penalties and smoothing."""
    sections = {name: dict(values) for name, values in sections.items()}
    own = sections.pop("algorithm", {})
    learner = sections.pop("learner", {})
    settings = learner.pop("optimizer", {})
    hidden = {} if network == "softmax_regression" else {"hidden_sizes": [16]}
    maps = {"channels": [3, 4]} if network in ("lenet5", "cnn") else {}
    configs = []
    for index in range(count):
        rate = _RATES[index] * (30 if optimizer == "sgd" else 1)
        values = {"kind": optimizer, "learning_rate": rate, "weight_decay": 0.01 * index, **settings}
        penalties = {"l1": 1e-4 * (index % 2), "l2": 1e-3 * (index // 2), "label_smoothing": 0.1 * index}
        sections["algorithm"] = {"network": {"kind": network, **hidden, **maps}, **penalties, **own}
        sections["learner"] = {"batch_size": 32, **learner, "optimizer": values}
        tree = case("softmax_regression", **sections).to_tree()
        configs.append(from_tree({**tree, "seed": index % 3, "name": f"member {index}"}))
    return configs


def _until(updates: int, **intervals: int) -> Schedule:
    return Schedule({name: Interval(count, "updates") for name, count in intervals.items()}, {"updates": updates})


def _alone(config: RunConfig, updates: int) -> LearnerRole:
    role = LearnerRole(config)
    role.advance(_until(updates))
    return role


def _train(population: Population, updates: int, indices: Any = None) -> None:
    indices = range(len(population.roles)) if indices is None else indices
    running = {index: _until(updates) for index in indices}
    while running:
        for index, advance in population.advance(running).items():
            assert advance.exhausted == f"updates >= {updates}" and advance.counters["updates"] == updates
            del running[index]


def _assert_equal(member: LearnerRole, alone: LearnerRole, tolerance: float = 1e-5) -> None:
    assert member.counters() == alone.counters()
    mine, theirs = member.learner.trained(), alone.learner.trained()
    assert mine.keys() == theirs.keys()
    for name, weight in theirs.items():
        distance = float((mine[name] - weight).norm()) / (float(weight.norm()) + 1e-6)
        assert distance < tolerance, f"{name}: {distance}"
    for one, other in ((member.evaluate().metrics, alone.evaluate().metrics), (member.metrics(), alone.metrics())):
        clocks = ("throughput/", "time/")
        expected = {name: value for name, value in other.items() if not name.startswith(clocks)}
        found = {name: value for name, value in one.items() if not name.startswith(clocks)}
        if found.keys() - expected.keys() == {"train/penalty"}:  # alone, a run without penalties does not report them
            assert found.pop("train/penalty") == 0
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("network", "optimizer", "learner"),
    [
        ("mlp", "adam", {"schedule": {"kind": "linear", "warmup": 5}}),
        ("mlp", "rmsprop", {"max_grad_norm": 0.5}),
        ("softmax_regression", "sgd", {"optimizer": {"momentum": 0.9}}),
        ("softmax_regression", "adamw", {"max_grad_norm": 0.3, "schedule": {"kind": "cosine"}}),
        ("lenet5", "adamw", {"max_grad_norm": 1.0}),
        ("cnn", "adam", {}),
    ],
)
def test_a_population_equals_its_runs_alone(network: str, optimizer: str, learner: dict[str, Any]) -> None:
    configs = _members(4, network, optimizer, learner=learner)
    population = Population(configs)
    _train(population, 60)
    for role, config in zip(population.roles, configs, strict=True):
        _assert_equal(role, _alone(config, 60))
    population.close()


def test_members_differ_and_the_tests_would_notice_a_mix_up() -> None:
    configs = _members(2)
    population = Population(configs)
    _train(population, 20)
    with pytest.raises(AssertionError):
        _assert_equal(population.roles[0], _alone(configs[1], 20))


def test_equal_populations_give_equal_bits() -> None:
    hashes = []
    for _ in range(2):
        population = Population(_members(3, learner={"max_grad_norm": 0.5}))
        _train(population, 40)
        hashes.append([(role.weights_sha256(), role.metrics()["train/loss"]) for role in population.roles])
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 3


def test_real_data_are_in_memory_once_and_generated_data_per_seed() -> None:
    population = Population(_members(3))
    assert all(role.dataset is population.roles[0].dataset for role in population.roles)
    source = {"dataset": f"{__name__}:shifted_digits"}
    configs = _members(3, source=source)
    population = Population(configs)
    assert len({id(role.dataset) for role in population.roles}) == 3
    _train(population, 20)
    for role, config in zip(population.roles, configs, strict=True):
        _assert_equal(role, _alone(config, 20))


def test_augmented_images_are_each_members_own() -> None:
    configs = _members(2, source={"augment": ["shift"]})
    population = Population(configs)
    _train(population, 20)
    for role, config in zip(population.roles, configs, strict=True):
        _assert_equal(role, _alone(config, 20))


def test_what_is_due_is_told_by_member() -> None:
    population = Population(_members(2))
    schedules = {0: _until(12, log=4), 1: _until(12, evaluate=6)}
    told = []
    while schedules:
        for index, advance in population.advance(schedules).items():
            told.append((index, advance.counters["updates"], advance.due))
            if advance.exhausted:
                del schedules[index]
    assert told == [
        (0, 4, {"log"}), (1, 6, {"evaluate"}), (0, 8, {"log"}), (0, 12, {"log"}), (1, 12, {"evaluate"}),
    ]  # fmt: skip


def test_pauses_change_nothing() -> None:
    configs = _members(2)
    paused, plain = Population(configs), Population(configs)
    for _ in range(9):
        assert paused.advance({0: _until(10), 1: _until(10)}, pause_s=-1.0) == {}
    assert set(paused.advance({0: _until(10), 1: _until(10)}, pause_s=-1.0)) == {0, 1}
    _train(plain, 10)
    assert [r.weights_sha256() for r in paused.roles] == [r.weights_sha256() for r in plain.roles]


def test_a_member_trains_only_through_the_population() -> None:
    population = Population(_members(2))
    with pytest.raises(RuntimeError, match=r"Population\.advance"):
        population.roles[0].advance(_until(1))
    population.drop(0)
    with pytest.raises(AssertionError):
        population.advance({0: _until(1)})


def test_every_update_of_every_member_is_followed_up() -> None:
    population = Population(_members(2))
    followed: list[tuple[int, int]] = []
    for index, role in enumerate(population.roles):
        role.algorithm.after_update = lambda update, index=index: followed.append((index, update))
    _train(population, 2)
    assert followed == [(0, 1), (1, 1), (0, 2), (1, 2)]


def test_dropped_members_stay_as_they_are_and_the_others_go_on() -> None:
    configs = _members(4, learner={"max_grad_norm": 0.5})
    population = Population(configs)
    _train(population, 15)
    population.drop(1)
    left = population.roles[1].weights_sha256()
    _train(population, 25, [0, 2, 3])  # one row idles
    population.drop(3)
    population.drop(0)
    _train(population, 40, [2])  # a row of its own
    assert population.roles[1].weights_sha256() == left
    for index, updates in enumerate((25, 15, 40, 25)):
        _assert_equal(population.roles[index], _alone(configs[index], updates))
    population.close()


def test_the_rows_of_those_who_left_are_freed() -> None:
    population = Population(_members(4))
    _train(population, 3)
    stacked = population.roles[0].learner.member.flat.flat.untyped_storage().nbytes()
    for index in (1, 2, 3):
        population.drop(index)
    _train(population, 6, [0])
    sizes = {role.learner.member.flat.flat.untyped_storage().nbytes() for role in population.roles}
    assert sizes == {stacked // 4}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_states_move_between_a_population_and_runs_alone(optimizer: str, tmp_path: Path) -> None:
    configs = _members(3, optimizer=optimizer, learner={"schedule": {"kind": "linear"}})
    population = Population(configs)
    running = {index: _until(40, log=15) for index in range(3)}
    population.advance(running)
    store = CheckpointStore(tmp_path, keep=1, mode="max")
    store.save(15, population.roles[2].barrier_and_state())
    loaded = store.load_latest()
    assert loaded is not None
    alone = LearnerRole(configs[2])
    alone.load_state(loaded.state)
    alone.advance(_until(40))
    reference = _alone_with(configs[2], 40)
    _assert_equal(alone, reference)

    started = LearnerRole(configs[1])
    started.advance(_until(40, log=15))
    second = Population(configs)  # its members stand at different updates
    second.roles[1].load_state(started.barrier_and_state())
    _train(second, 40)
    _assert_equal(second.roles[1], _alone_with(configs[1], 40))
    _assert_equal(second.roles[2], _alone_with(configs[2], 40))


def _alone_with(config: RunConfig, updates: int) -> LearnerRole:
    """Train to the end with a stop in between, as the others in the test do."""
    role = LearnerRole(config)
    role.advance(_until(updates, log=15))
    role.advance(_until(updates))
    return role


def test_a_members_state_is_that_of_the_run_alone() -> None:
    configs = _members(2)
    population = Population(configs)
    _train(population, 10)
    mine = population.roles[0].barrier_and_state()  # built first: the process's generators stand elsewhere now
    theirs = _alone(configs[0], 10).barrier_and_state()
    assert mine["random"]["python"] == theirs["random"]["python"]
    assert torch.equal(mine["random"]["torch"], theirs["random"]["torch"])
    assert mine["source"] == theirs["source"]
    assert mine["learner"].keys() == theirs["learner"].keys()
    own, other = (state["learner"]["optimizers"][0][0]["state"][0] for state in (mine, theirs))
    assert own.keys() == other.keys()
    for name, value in other.items():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-7)
    torch.rand(3)
    before = torch.get_rng_state()
    population.roles[1].load_state(theirs)
    assert torch.equal(torch.get_rng_state(), before), "restoring a member must not move the process's generators"
    assert torch.equal(population.roles[1].barrier_and_state()["random"]["torch"], theirs["random"]["torch"])


def test_restoring_while_training_goes_on_replaces_weights_and_optimiser() -> None:
    configs = _members(2)
    population = Population(configs)
    _train(population, 10)
    state = _alone(configs[1], 5).barrier_and_state()
    population.roles[1].load_state(state)
    _train(population, 20)
    _assert_equal(population.roles[1], _alone(configs[1], 20))
    _assert_equal(population.roles[0], _alone(configs[0], 20))


def test_the_last_batch_of_an_epoch_may_be_smaller_for_some() -> None:
    configs = _members(3, learner={"batch_size": 500}, source={"drop_last": False})  # batches of 500, 500, 197
    population = Population(configs)
    population.roles[2].load_state(_alone(configs[2], 1).barrier_and_state())
    _train(population, 9)
    for role, config in zip(population.roles, configs, strict=True):
        _assert_equal(role, _alone(config, 9))


@pytest.mark.parametrize("network", ["mlp", "lenet5"])
def test_a_diverging_member_does_not_disturb_the_others(network: str) -> None:
    configs = _members(3, network, "sgd", learner={"max_grad_norm": 5.0})
    tree = configs[1].to_tree()
    tree["learner"]["optimizer"]["learning_rate"] = 1e30
    configs[1] = from_tree(tree)
    population = Population(configs)
    _train(population, 20)
    assert not math.isfinite(population.roles[1].metrics()["train/loss"])
    for index in (0, 2):
        _assert_equal(population.roles[index], _alone(configs[index], 20))


def _changed(**sections: Any) -> list[RunConfig]:
    """Return two configs of which the second has other values."""
    first = case("softmax_regression", algorithm={"network": "mlp"})
    return [
        first,
        case("softmax_regression", **{**sections, "algorithm": {"network": "mlp", **sections.get("algorithm", {})}}),
    ]


def _both(**sections: Any) -> list[RunConfig]:
    """Return two equal configs with these values."""
    return [_changed(**sections)[1]] * 2


@pytest.mark.parametrize(
    ("configs", "key"),
    [
        (lambda: _changed(learner={"batch_size": 32}), "learner.batch_size"),
        (lambda: _changed(learner={"optimizer": {"kind": "sgd"}}), "learner.optimizer.kind"),
        (lambda: _changed(learner={"schedule": {"kind": "cosine"}}), "learner.schedule.kind"),
        (lambda: _changed(algorithm={"network": {"hidden_sizes": [3]}}), "algorithm.network.hidden_sizes"),
        (lambda: _changed(algorithm={"input_mean": 0.5}), "algorithm.input_mean"),
        (lambda: _changed(stop={"epochs": 4}), "stop.epochs"),
        (lambda: _changed(stop={"updates": 4}), "stop.updates"),
        (lambda: _both(algorithm={"network": {"dropout": 0.1}}), "algorithm.network.dropout"),
        (lambda: _both(algorithm={"l1": 0.1, "penalty_start": 1}), "algorithm.penalty_start"),
        (lambda: _both(algorithm={"network": "rnn"}), "algorithm.network.kind"),
        (lambda: _both(algorithm={"network": "rayloom_supervised.networks.kinds:cnn"}), "algorithm.network.kind"),
        (lambda: _both(learner={"compile": True}), "learner.compile"),
        (lambda: _both(learner={"accumulate": 2}), "learner.accumulate"),
        (lambda: _both(learner={"precision": "bfloat16"}), "learner.precision"),
        (lambda: _both(learner={"count": 2}), "learner.count"),
        (lambda: _both(cluster={"learner": "actor"}), "cluster.learner"),
        (lambda: _both(cluster={"evaluator": "actor"}), "cluster.evaluator"),
        (lambda: [case("dqn")] * 2, "algorithm.import"),
        (lambda: [case("vae")] * 2, "algorithm.import"),
    ],
)
def test_what_cannot_train_together_is_refused_in_one_sentence(configs: Any, key: str) -> None:
    with pytest.raises(UserError) as caught:
        check_population(configs())
    sentence = str(caught.value)
    assert sentence.startswith(f"{key}: ") and "search.population" in sentence and "\n" not in sentence


def test_a_vectorisable_algorithm_needs_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [case("dqn")] * 2
    monkeypatch.setattr(configs[0].algorithm_class(), "population_fields", frozenset())
    with pytest.raises(UserError, match=r"^source\.kind: a population needs dataset, not replay; "):
        Population(configs)


def test_seed_name_output_tracking_and_optimiser_numbers_may_differ() -> None:
    trees = [config.to_tree() for config in _both()]
    trees[1].update(seed=3, name="other", output="elsewhere")
    trees[1]["tracking"].update(every="7 updates", experiment="mine")
    trees[1]["learner"]["optimizer"].update(learning_rate=0.5, betas=[0.5, 0.6], eps=1e-3, weight_decay=0.1)
    trees[1]["algorithm"].update(l1=0.1, l2=0.2, label_smoothing=0.3)
    check_population([from_tree(tree) for tree in trees])
