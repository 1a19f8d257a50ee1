"""Configs: what is refused, and the sentence that says how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayloom.config import load as config
from rayloom.config.sources import OnPolicySourceConfig, ReplaySourceConfig
from rayloom.errors import UserError
from tiny_algorithm import BASE, REPLAYER, Load, loader, refusal


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A part of Outer."""

    width: int = 1


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Settings with unions, as an algorithm may have them."""

    sizes: int | tuple[int, ...] = 1
    inner: Inner | None = None
    weights: Mapping[str, float] | None = None
    needed: int | str


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return the loader of the small config."""
    return loader(tmp_path)


@pytest.mark.parametrize(
    ("override", "key", "meant"),
    [
        ("learnr.count=1", "learnr", "learner"),
        ("sed=1", "sed", "seed"),
        ("learner.batchsize=1", "learner.batchsize", "batch_size"),
        ("source.num_env=1", "source.num_env", "num_envs"),
        ("checkpoint.kep=1", "checkpoint.kep", "keep"),
        ("tracking.experimnt=x", "tracking.experimnt", "experiment"),
        ("cluster.adress=x", "cluster.adress", "address"),
    ],
)
def test_unknown_keys_are_refused_with_a_suggestion(load: Load, override: str, key: str, meant: str) -> None:
    assert refusal(load, "", override) == f"{key}: there is no such key; did you mean {meant!r}?"


def test_an_unknown_key_like_no_other_lists_the_choices(load: Load) -> None:
    sentence = refusal(load, "", "checkpoint.zzzz=1")
    assert sentence.startswith("checkpoint.zzzz: there is no such key; the choices are every, keep, best")
    sentence = refusal(load, "", "evaluate.zzzz=1")
    assert sentence.startswith("evaluate.zzzz: episodes has no such setting; the choices are every, wait, deadline_s, ")
    sentence = refusal(load, "", "evaluate.episode=1")
    assert sentence == "evaluate.episode: episodes has no such setting; did you mean 'episodes'?"
    sentence = refusal(load, "", "evaluate.kind=episode")
    assert sentence == "evaluate.kind: 'episode' is no evaluation; did you mean 'episodes'?"


@pytest.mark.parametrize(
    ("override", "beginning"),
    [
        ("learner.batch_size=many", "learner.batch_size: input should be a valid integer"),
        ("learner.batch_size=64.5", "learner.batch_size: input should be a valid integer"),
        ("learner.batch_size=null", "learner.batch_size: input should be a valid integer"),
        ("learner.batch_size=[64]", "learner.batch_size: input should be a valid integer"),
        ("learner.batch_size=0", "learner.batch_size: input should be greater than or equal to 1, not 0"),
        ("learner.count=-1", "learner.count: input should be greater than or equal to 1, not -1"),
        ("learner.optimizer.learning_rate=0", "learner.optimizer.learning_rate: input should be greater than 0"),
        ("learner.optimizer.learning_rate=.nan", "learner.optimizer.learning_rate: input should be a finite number"),
        (
            "learner.optimizer={kind: rmsprop, alpha: 1.5}",
            "learner.optimizer.alpha: input should be less than or equal to 1, not 1.5",
        ),
        ("learner.optimizer.betas=[0.9]", "learner.optimizer.betas."),
        ("learner.max_grad_norm=0", "learner.max_grad_norm: input should be greater than 0, not 0"),
        ("learner.device=tpu", "learner.device: input should be 'auto', 'cpu' or 'cuda', not 'tpu'"),
        ("learner=null", "learner: input should be a dictionary"),
        ("learner=5", "learner: input should be a dictionary"),
        ("seed=-1", "seed: input should be greater than or equal to 0, not -1"),
        ("name=5", "name: input should be a valid string, not 5"),
        ("source.num_envs=0", "source.num_envs: input should be greater than or equal to 1, not 0"),
        ("source.rollout_workers=-1", "source.rollout_workers: input should be greater than or equal to 0"),
        ("source.env=null", "source.env: input should be a valid string, not None"),
        ("algorithm.clip=high", "algorithm.clip: input should be a valid number"),
        ("algorithm.sizes=64", "algorithm.sizes: input should be a list, not 64"),
        ("evaluate={kind: data, split: train}", "evaluate.split: input should be 'validation' or 'test', not 'train'"),
        ("cluster.deadline_s=0", "cluster.deadline_s: input should be greater than 0, not 0"),
        ("checkpoint.mode=biggest", "checkpoint.mode: input should be 'max' or 'min', not 'biggest'"),
    ],
)
def test_wrong_types_and_ranges_name_the_key_and_the_remedy(load: Load, override: str, beginning: str) -> None:
    assert refusal(load, "", override).startswith(beginning)


@pytest.mark.parametrize(
    "key",
    ["seed", "learner.batch_size", "learner.optimizer.learning_rate", "algorithm.clip", "source.num_envs",
     "evaluate.every", "cluster.deadline_s"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["true", "false"])
def test_a_boolean_is_not_a_number(load: Load, key: str, value: str) -> None:
    sentence = refusal(load, "", f"{key}={value}")
    assert sentence.startswith(f"{key}: ")
    if value == "true":  # false is 0, which most of them refuse for its size
        assert sentence == f"{key}: must be a number, not True"


def test_booleans_in_free_mappings_and_boolean_fields_stay(load: Load) -> None:
    run = load("", "source.env_options.flag=true", "source.check_observations=false")
    assert isinstance(run.source, OnPolicySourceConfig)
    assert run.source.env_options == {"flag": True}
    assert run.source.check_observations is False


def test_replay_exponents_are_bounded(load: Load) -> None:
    more = (f'algorithm.import="{REPLAYER}"', "source.kind=replay")
    assert isinstance(load("", *more).source, ReplaySourceConfig)
    for override in ("source.priority_exponent=1.1", "source.importance_exponent=[0.4, 1.1]", "source.n_step=0"):
        assert refusal(load, "", *more, override).startswith(override.split("=")[0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty: write a mapping with algorithm, source and stop"),
        ("# only a comment\n", "is empty: write a mapping"),
        ("a word", "must be a mapping of keys to values, not a str"),
        ("- a\n- b", "must be a mapping of keys to values, not a list"),
        ("42", "must be a mapping of keys to values, not a int"),
        ("[1", "is not valid YAML at line 1"),
        ("a: 1\nb: [2\nc: 3", "is not valid YAML at line 3"),
        ("a: b: c", "is not valid YAML at line 1: mapping values are not allowed here"),
        ("\ta: 1", "is not valid YAML at line 1"),
        ("a: !!python/object/apply:os.getcwd []", "is not valid YAML at line 1: could not determine a constructor"),
        ("[1]: 2", "a key must be a word (line 1), not a list or mapping"),
        ("seed: 1\nseed: 2", "the key 'seed' stands twice"),
        ("learner: {count: 1, count: 2}", "the key 'count' stands twice"),
        ("algorithm:\n  a: {b: 1, b: 1}", "the key 'b' stands twice (line 2): keep one of them"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "merge keys (<<) are not supported (line 3): write the keys out"),
        ("seed: !!int word", "is not valid YAML: invalid literal"),
        ("a: \0", "is not valid YAML: unacceptable character #x0000"),
    ],
)
def test_files_that_are_no_config_say_which_file_and_why(load: Load, text: str, sentence: str) -> None:
    message = refusal(load, base=text)
    assert "tiny_run.yaml" in message
    assert sentence in message


@pytest.mark.parametrize("key", ["algorithm", "source", "stop"])
@pytest.mark.parametrize("value", [None, {}, [], "word", 5])
def test_the_three_parts_are_required(key: str, value: Any) -> None:
    tree = {**config.parse_yaml(BASE, "base"), "name": "x", key: value}
    with pytest.raises(UserError, match=f"^{key}: the config needs a mapping here$"):
        config.from_tree(tree)


def test_a_misspelt_part_is_recognised() -> None:
    tree = config.parse_yaml(BASE.replace("source:", "sourc:"), "base")
    with pytest.raises(UserError, match=r"^source: the config needs a mapping here \(is 'sourc' a misspelling\?\)$"):
        config.from_tree(tree)


@pytest.mark.parametrize(
    ("stop", "beginning"),
    [
        ("{updates: 0}", "stop.updates: must be at least 1, not 0"),
        ("{updates: 1.5}", "stop.updates: must be a whole number, not 1.5"),
        ("{updates: 0.5}", "stop.updates: must be at least 1, not 0.5"),
        ("{updates: .nan}", "stop.updates: must be a finite number, not nan"),
        ("{updates: .inf}", "stop.updates: must be a finite number, not inf"),
        ('{updates: 1, "evaluate/accuracy": .nan}', "stop.evaluate/accuracy: must be a finite number, not nan"),
        ("{5: 3}", "stop.5: a key must be a word, not the int 5"),
        ("{updates: true}", "stop.updates: True is not a number"),
        ("{updates: many}", "stop.updates: 'many' is not a number"),
        ("{updates: null}", "stop.updates: None is not a number"),
        ("{update: 10}", "stop.update: is neither a counter nor a metric; did you mean 'updates'?"),
        ('{"evaluate/accuracy": 0.9}', "stop: set a budget with one of updates, env_steps"),
    ],
)
def test_a_run_must_end(load: Load, stop: str, beginning: str) -> None:
    assert refusal(load, "", f"stop={stop}").startswith(beginning)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed", "'seed' is neither a config nor an override KEY=VALUE"),
        ("=5", "the override '=5' must have the form KEY=VALUE, as learner.batch_size=64"),
        ("name.deeper=1", "the override name.deeper goes through 'name', which is not a mapping"),
        ("learner.batch_size=[1", "override learner.batch_size is not valid YAML at line 1"),
        ("learner={count: 1, count: 2}", "override learner: the key 'count' stands twice"),
    ],
)
def test_overrides_that_are_none(load: Load, override: str, sentence: str) -> None:
    assert sentence in refusal(load, "name: here\n", override)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nowhere.at_all:X", "algorithm.import: there is no module 'nowhere'; check the path 'nowhere.at_all:X'"),
        ("rayloom.nothing:X", "algorithm.import: there is no module 'rayloom.nothing'"),
        ("rayloom.contract:Algorihm", "algorithm.import: the module rayloom.contract has no 'Algorihm'; did you mean"),
        ("rayloom.contract:Phase", "algorithm.import: rayloom.contract:Phase is no algorithm; name a subclass of"),
        ("os.path:join", "algorithm.import: os.path:join is no algorithm; name a subclass of"),
        ("rayloom.contract", "algorithm.import: 'rayloom.contract' must have the form \"package.module:name\""),
        (":X", "algorithm.import: ':X' must have the form"),
        ("..x:y", "algorithm.import: '..x:y' must have the form"),
        (".x:y", "algorithm.import: '.x:y' must have the form"),
        ("a..b:y", "algorithm.import: 'a..b:y' must have the form"),
        ("a b:y", "algorithm.import: 'a b:y' must have the form"),
        ("x:", "algorithm.import: 'x:' must have the form"),
    ],
)
def test_algorithms_that_cannot_be_imported(load: Load, path: str, sentence: str) -> None:
    assert refusal(load, "", f'algorithm.import="{path}"').startswith(sentence)


def test_an_algorithm_needs_an_import_path(load: Load) -> None:
    for value in ("null", "5", "[a]"):
        sentence = refusal(load, "", f"algorithm.import={value}")
        assert sentence == 'algorithm.import: name the algorithm as "package.module:Class"'


def test_a_dependency_missing_inside_an_algorithm_keeps_its_own_traceback(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_library_that_nobody_has"):
        load("", "algorithm.import=needs_more:X")


def test_a_source_that_does_not_fit_names_those_that_do(load: Load) -> None:
    assert refusal(load, "", "source.kind=replay") == (
        "source.kind: Tiny cannot learn from 'replay'; use dataset, on_policy"
    )
    assert refusal(load, "", "source.kind=on-policy") == (
        "source.kind: 'on-policy' is no source; did you mean 'on_policy'?"
    )
    assert "the choices are dataset, on_policy, replay" in refusal(load, "", "source.kind=null")
    assert refusal(load, "", "source={kind: on_policy}") == "source.env: this key is required"
    assert refusal(load, "", "source={kind: dataset, dataset: digits, env: X}").startswith("source.env: there is no")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("source.kind=[on_policy]", "source.kind: ['on_policy'] is no source; did you mean 'on_policy'?"),
        ("learner.optimizer.betas=[true, 0.9]", "learner.optimizer.betas.0: input should be less than 1, not True"),
        ("algorithm.sizes=[64, true]", "algorithm.sizes.1: must be a number, not True"),
        (
            "learner.optimizer.learning_rate=.inf",
            "learner.optimizer.learning_rate: input should be a finite number, not inf",
        ),
        ("algorithm.clip=.nan", "algorithm.clip: input should be a finite number, not nan"),  # no bound refuses it
        ("algorithm_path=x:y", "algorithm_path: there is no such key; write algorithm.import"),
        ("algorithm={1: 2}", "algorithm.1: a key must be a word, not the int 1"),
        ("source={true: 2}", "source.True: a key must be a word, not the bool True"),
        ("learner={1: 2}", "learner.1: keys should be strings, not 1"),
        ("source.env_options={5: {a: 1}}", "source.env_options.5: input should be a valid string, not 5"),
    ],
)
def test_strange_values_are_refused_in_one_sentence(load: Load, override: str, sentence: str) -> None:
    assert refusal(load, "", override) == sentence


@pytest.mark.parametrize("every", ["1.5", "1e3", "[5]", "{a: 1}", "2024-01-01"])
def test_an_interval_of_another_kind_is_explained_under_its_own_key(load: Load, every: str) -> None:
    sentence = "evaluate.every: write a positive number and one of updates, env_steps, samples, epochs, episodes, not "
    assert refusal(load, "", f"evaluate.every={every}").startswith(sentence)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"needed": 1.5}, "part.needed: input should be a valid integer, got a number with a fractional part, not 1.5"),
        ({"needed": 1, "sizes": [1, "x"]}, "part.sizes: input should be a valid integer, not [1, 'x']"),
        ({"needed": 1, "sizes": [1, True]}, "part.sizes.1: must be a number, not True"),
        ({"needed": 1, "weights": {"a": True}}, "part.weights.a: must be a number, not True"),
        ({"needed": 1, "weights": {"a": "x"}}, "part.weights.a: input should be a valid number"),
        ({"needed": 1, "inner": {"width": "x"}}, "part.inner.width: input should be a valid integer"),
        ({"needed": 1, "inner": {"with": 1}}, "part.inner.with: there is no such key; did you mean 'width'?"),
        ({"needed": 1, "iner": {}}, "part.iner: there is no such key; did you mean 'inner'?"),
        ({}, "part.needed: this key is required"),
    ],
)
def test_mistakes_in_unions_name_keys_and_no_types(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        config.validate(Outer, data, "part")
    assert str(caught.value).startswith(sentence)


def test_a_key_that_is_no_string_is_refused_in_one_sentence(load: Load) -> None:
    assert refusal(load, "1: 2\n") == "1: a key must be a word, not the int 1"
    assert refusal(load, base="stop: {updates: 1}\n1: 2\n") == "algorithm: the config needs a mapping here"


def test_a_missing_dependency_whose_name_begins_the_path_is_not_a_misspelling(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "absent_library_user.py").write_text("import absent_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError):
        load("", "algorithm.import=absent_library_user:X")


def test_the_line_of_a_duplicate_key_is_its_own(load: Load) -> None:
    sentence = refusal(load, base="seed: 1\nname: x\nseed: 2\n")
    assert sentence.endswith("tiny_run.yaml: the key 'seed' stands twice (line 3): keep one of them")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**40])
@pytest.mark.parametrize("key", ["seed", "learner.batch_size", "algorithm.sizes.0", "source.env_options.a.b"])
def test_whole_numbers_that_no_array_takes_are_refused(key: str, number: int, load: Load) -> None:
    value = f"algorithm.sizes=[{number}]" if key == "algorithm.sizes.0" else f"{key}={number}"
    assert (
        refusal(load, "", value) == f"{key}: a number of {number.bit_length()} bits is too large; write one below 2**63"
    )


@pytest.mark.parametrize("tag", ["!!bool maybe", "!!timestamp x", "!!binary é", "!!int word", "!!float [1]", "!!set 5"])
def test_a_tag_that_does_not_fit_is_one_sentence(tag: str, load: Load) -> None:
    assert "is not valid YAML" in refusal(load, f"seed: {tag}\n")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "y/z" * 3000], ids=["long", "nul", "path"])
def test_what_no_file_is_called_is_no_config(name: str, load: Load) -> None:
    with pytest.raises(UserError, match=r"^there is no config file or shipped config"):
        config.load(name)
    with pytest.raises(UserError, match=r"neither a config nor an override|^'y"):
        load("", name)
    if name.isprintable():
        with pytest.raises(UserError, match=r"^there is no config file or shipped config"):
            load(f"extends: {name}\n")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("crf_grammar", "source.dataset.train_size"),
        ("gan_gaussian_ring", "source.dataset.train_size"),
        ("bayesian_network_asia", "source.dataset.test_size"),
        ("gru_adding", "source.dataset.validation_size"),
        ("boltzmann_machine_patterns", "source.dataset.held_out_size"),
        ("alphazero_hex", "algorithm.blocks"),
        ("resnet8_digits", "algorithm.network.blocks"),
        ("rnn_digits", "algorithm.network.cell_layers"),
        ("message_passing_distances", "source.dataset.farthest"),
        ("lstm_snownlp", "source.dataset.split_seed"),
    ],
)
def test_what_would_take_hours_to_make_is_refused_at_once(name: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}: input should be less than"):
        config.load(name, [f"{key}=10_000_000_000"])
