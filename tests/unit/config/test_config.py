"""Configs: what is read, how overrides apply, the round trip, and where configs are found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayloom.config import load as config
from rayloom.config.evaluations import EVALUATIONS
from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schema import Interval
from rayloom.config.sources import OnPolicySourceConfig
from rayloom.errors import UserError
from tiny_algorithm import BASE, TINY, Load, Tiny, TinyConfig, loader, refusal


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return the loader of the small config."""
    return loader(tmp_path)


def test_a_small_config_gets_the_documented_defaults(load: Load) -> None:
    run = load()
    assert run.name == "tiny_run"  # the file's name
    assert run.seed == 0
    assert run.algorithm == TinyConfig(clip=0.1)
    assert run.algorithm_class() is Tiny
    assert run.algorithm_path == TINY
    assert isinstance(run.source, OnPolicySourceConfig)
    assert (run.source.env, run.source.num_envs, run.source.rollout_workers) == ("CartPole-v1", 8, 0)
    assert (run.learner.count, run.learner.batch_size, run.learner.max_grad_norm) == (1, 128, None)
    assert run.learner.optimizer == OPTIMIZERS.component("adam", learning_rate=1e-3, betas=(0.9, 0.999))
    assert run.evaluate == EVALUATIONS.component("episodes")
    assert EVALUATIONS.component("data").settings.split == "validation"  # never the test set by default
    assert run.stop == {"env_steps": 100_000, "evaluate/return_mean": 475}
    assert run.budget() == {"env_steps": 100_000}
    assert run.output == "rayloom-runs"


def test_a_config_is_frozen_all_the_way_down(load: Load) -> None:
    run = load()
    optimizer = run.learner.optimizer
    parts = ((run, "seed"), (run.learner, "count"), (optimizer, "kind"), (optimizer.settings, "eps"))
    for part, name in (*parts, (run.algorithm, "clip")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("learner.batch_size=64", lambda run: run.learner.batch_size == 64),
        ("learner.optimizer.learning_rate=1e-4", lambda run: run.learner.optimizer.settings.learning_rate == 1e-4),
        ("learner.optimizer={kind: sgd, momentum: 0.9}", lambda run: run.learner.optimizer.settings.momentum == 0.9),
        ("learner.optimizer.betas=[0.5, 0.9]", lambda run: run.learner.optimizer.settings.betas == (0.5, 0.9)),
        ("learner.max_grad_norm=null", lambda run: run.learner.max_grad_norm is None),
        ("learner.compile=true", lambda run: run.learner.compile is True),
        ("algorithm.sizes=[32]", lambda run: run.algorithm.sizes == (32,)),
        ("algorithm.label=a=b", lambda run: run.algorithm.label == "a=b"),  # only the first = separates
        ("algorithm.label=", None),
        ("source.env=ALE/Pong-v5", lambda run: run.source.env == "ALE/Pong-v5"),
        ("source.env_options.sutton_barto_reward=true", lambda run: run.source.env_options["sutton_barto_reward"]),
        ("stop.evaluate/return_mean=20.5", lambda run: run.stop["evaluate/return_mean"] == 20.5),
        ("stop.env_steps=3e5", lambda run: run.budget() == {"env_steps": 300_000}),
        ("search.space.seed=[1]", lambda run: run.search.space == {"seed": [1]}),  # a mapping that was not there
        ("name=other", lambda run: run.name == "other"),
        ("seed=7", lambda run: run.seed == 7),
    ],
)
def test_overrides_are_yaml_values_at_dotted_keys(
    load: Load, override: str, read: Callable[[Any], bool] | None
) -> None:
    if read is None:
        assert "algorithm.label" in refusal(load, "", override)  # nothing is null, and null is no string
    else:
        assert read(load("", override))


def test_later_overrides_win_and_the_tree_is_not_changed(load: Load) -> None:
    assert load("", "seed=1", "seed=2").seed == 2
    tree: dict[str, Any] = {"learner": {"count": 1}}
    assert config.apply_overrides(tree, ["learner.count=2", "learner.device=cpu"]) == {
        "learner": {"count": 2, "device": "cpu"}
    }
    assert tree == {"learner": {"count": 1}}


def test_an_override_of_one_learner_key_leaves_the_others(load: Load) -> None:
    run = load("learner: {batch_size: 32, optimizer: {kind: sgd, momentum: 0.5}}\n", "learner.optimizer.momentum=0.9")
    assert run.learner.batch_size == 32
    assert run.learner.optimizer == OPTIMIZERS.component("sgd", momentum=0.9)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2e3", -2e3),
        ("3.5e+2", 350.0),
        ("1_000", 1000),
        ("1_0e1", 100.0),
        ("0.5", 0.5),
        ("12", 12),
        ("-7", -7),
        ("010", 10),
        ("-010", -10),
        ("08", 8),
        ("0", 0),
        ("0x1f", 31),
        ("-0x10", -16),
        ("0b101", 5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("010.5", 10.5),
        ("+.inf", float("inf")),
        ("0x", "0x"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("", None),
        ("e5", "e5"),
        ("1e", "1e"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("NO", "NO"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("'1e-4'", "1e-4"),
        ("ALE/Pong-v5", "ALE/Pong-v5"),
        ("[1e-5, 1e-2]", [1e-5, 1e-2]),
    ],
)
def test_yaml_reads_numbers_and_words_as_a_person_means_them(text: str, value: Any) -> None:
    read = config.parse_yaml(f"key: {text}", "here")["key"]
    assert read == value
    assert type(read) is type(value)


def test_the_loader_leaves_the_yaml_library_as_it_was() -> None:
    assert yaml.safe_load("{a: on, b: 1e-4, c: 010}") == {"a": True, "b": "1e-4", "c": 8}


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("5_000 env_steps", Interval(5000, "env_steps")),
        ("  2   epochs ", Interval(2, "epochs")),
        ("10", Interval(10, "updates")),
        ("1samples", Interval(1, "samples")),
    ],
)
def test_intervals(text: str, interval: Interval) -> None:
    assert Interval.parse(text, "every") == interval
    assert Interval.parse(str(interval), "every") == interval


@pytest.mark.parametrize("text", ["0", "-1 updates", "5 envsteps", "five", "", "1.5 epochs", "_", "1 updates 2"])
def test_intervals_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"^evaluate\.every: write a positive number and one of updates, env_steps"):
        Interval.parse(text, "evaluate.every")


@pytest.mark.parametrize("key", ["evaluate.every", "checkpoint.every", "tracking.every"])
def test_every_interval_is_checked_when_the_config_is_read(load: Load, key: str) -> None:
    assert refusal(load, "", f"{key}=5 envsteps").startswith(f"{key}: ")
    assert refusal(load, "", f"{key}=0").startswith(f"{key}: ")
    part, name = key.split(".")
    for written in ("5_000 env_steps", 50):
        read = getattr(load("", f"{key}={written}"), part)
        assert getattr(getattr(read, "settings", read), name) == written


# --- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("seed=3", "learner.optimizer.betas=[0.5, 0.9]", "learner.max_grad_norm=0.5", "algorithm.sizes=[1, 2, 3]"),
        ("source={kind: on_policy, env: X-v0, env_options: {a: [1, {b: null}], c: 1.0e-7}}", "stop={updates: 2}"),
        ("evaluate.every=5_000 env_steps", "search={trials: 3, space: {seed: {int: [0, 9]}}}"),
        ("name='1e5'",),
        ("name='yes'", "algorithm.label='0x10'"),
        ("algorithm.label='1_0e-3'",),
        ("name='010'", "algorithm.label='<<'"),
        ("name='1:30'", "algorithm.label='2024-01-01'"),
        ("name='null'", "algorithm.label='.5e3'"),
        ("search.space={numbers: [1e5, -.5, .inf, 0x10, 010], words: ['1e5', '.inf', '0x10', '010', '~', 'true']}",),
        ("algorithm.label=größer ✓",),
        ("algorithm.label=''",),
    ],
)
def test_a_config_survives_the_round_trip(load: Load, overrides: tuple[str, ...]) -> None:
    run = load("", *overrides)
    assert config.from_tree(run.to_tree()) == run
    assert config.from_tree(config.parse_yaml(run.to_yaml(), "resolved")) == run


def test_the_tree_is_plain_data_and_its_own(load: Load) -> None:
    run = load()
    tree = run.to_tree()
    assert tree["algorithm"] == {"import": TINY, "clip": 0.1, "sizes": [64, 64], "label": "none"}
    assert next(iter(tree)) == "name"
    assert "algorithm_path" not in tree
    tree["stop"]["updates"] = 1
    assert "updates" not in run.stop


def test_the_resolved_yaml_reads_alike_elsewhere(load: Load) -> None:
    run = load("", "name=yes", "algorithm.label=1:30", "search.space={words: [on, '1e5', 2024-01-01, '010']}")
    tree = yaml.safe_load(run.to_yaml())
    assert (tree["name"], tree["algorithm"]["label"]) == ("yes", "1:30")
    assert tree["search"]["space"] == {"words": ["on", "1e5", "2024-01-01", "010"]}


# --- finding ---------------------------------------------------------------------------------------------------------


def test_a_file_wins_over_a_shipped_name_and_unknown_names_get_a_suggestion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(config.shipped_configs()))
    assert config.find_config(name) == config.shipped_configs()[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(BASE)
    assert config.find_config(name) == Path(name)
    with pytest.raises(UserError, match=f"there is no config file or shipped config '{name}x'; did you mean '{name}'"):
        config.find_config(name + "x")
    with pytest.raises(UserError, match="is a folder: name a YAML file"):
        config.find_config(str(tmp_path))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"binary\.yaml cannot be read"):
        config.load(str(path))


def test_shipped_names_are_unique(root: Path) -> None:
    files = [path for path in (root / "configs").rglob("*.yaml") if path.parent.name not in ("cluster", "pipelines")]
    assert len(files) > 0
    assert len({path.stem for path in files}) == len(files)
    assert set(config.shipped_configs().values()) == set(files)


def test_every_shipped_config_parses(root: Path) -> None:
    paths = sorted((root / "configs").rglob("*.yaml"))
    paths = [path for path in paths if path.parent.name not in ("cluster", "pipelines")]
    assert len(paths) > 0
    problems = []
    for path in paths:
        try:
            run = config.load(str(path))
        except UserError as error:
            problems.append(f"{path.name}: {error}")
            continue
        assert run.name == path.stem
        assert config.from_tree(config.parse_yaml(run.to_yaml(), path.name)) == run
    assert not problems, "\n".join(problems)
