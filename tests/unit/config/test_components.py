"""Components: how a config names them, what is refused, and the round trip; nothing is called while it is read."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import own_components
from own_components import BuiltConfig, DenseConfig, SignConfig, StepsConfig, write_module
from rayloom.components import Component, NoSettings
from rayloom.config import load as config
from rayloom.config.optimizers import OPTIMIZERS, SGDConfig
from rayloom.config.schedules import SCHEDULES
from rayloom.config.validation import merge, override, resolve
from rayloom.errors import UserError
from rayloom.learner.optimizers import make_optimizer
from tiny_algorithm import BASE, Load, loader, refusal

OWN = own_components.__name__
BUILT = f"""\
algorithm: {{import: "{OWN}:Built"}}
source: {{kind: on_policy, env: CartPole-v1}}
stop: {{updates: 1}}
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return the loader of the small config."""
    return loader(tmp_path)


def test_a_kind_has_its_own_settings_and_defaults(load: Load) -> None:
    assert load().learner.optimizer == OPTIMIZERS.component("adam")
    run = load("learner: {optimizer: {kind: sgd, learning_rate: 0.1, momentum: 0.9}}\n")
    assert run.learner.optimizer == Component(
        "sgd", "rayloom.learner.optimizers:sgd", SGDConfig(learning_rate=0.1, momentum=0.9)
    )
    assert load("learner: {optimizer: sgd}\n").learner.optimizer == OPTIMIZERS.component("sgd")
    assert load("learner: {schedule: {warmup: 5}}\n").learner.schedule == SCHEDULES.component("constant", warmup=5)


@pytest.mark.parametrize("kind", list(OPTIMIZERS.shipped))
def test_every_optimizer_has_a_component_with_the_settings_that_the_table_names(kind: str) -> None:
    made = OPTIMIZERS.component(kind)
    assert made.load().Config is OPTIMIZERS.config(kind)
    assert made.load().component_of == "optimizer"
    optimizer = make_optimizer(made, [nn.Parameter(torch.zeros(3))])
    assert type(optimizer).__name__.lower() == kind
    for field in dataclasses.fields(OPTIMIZERS.config(kind)):
        name = {"learning_rate": "lr"}.get(field.name, field.name)
        assert optimizer.param_groups[0][name] == getattr(made.settings, field.name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optimizer: {kind: adam, momentum: 0.9}", "optimizer.momentum: adam has no such setting; the choices are"),
        ("optimizer: {beta: [0.5, 0.9]}", "optimizer.beta: adam has no such setting; did you mean 'betas'?"),
        ("optimizer: {kind: sgd, betas: [0, 0]}", "optimizer.betas: sgd has no such setting; the choices are"),
        ("optimizer: {kind: adamm}", "optimizer.kind: 'adamm' is no optimizer; did you mean 'adam'?"),
        ("optimizer: adamm", "optimizer.kind: 'adamm' is no optimizer; did you mean 'adam'?"),
        ("optimizer: {kind: [adam]}", "optimizer.kind: ['adam'] is no optimizer"),
        ("optimizer: {kind: null}", "optimizer.kind: None is no optimizer; the choices are adam, adamw, sgd"),
        ("optimizer: 5", "optimizer: name a kind of optimizer, alone or with its settings, not 5"),
        ("optimizer: null", "optimizer: name a kind of optimizer, alone or with its settings, not None"),
        ("optimizer: [adam]", "optimizer: name a kind of optimizer, alone or with its settings, not ['adam']"),
        ("optimizer: {kind: adam, import: 'a:b'}", "optimizer: kind names a shipped optimizer and import one of your"),
        ("optimizer: {import: 5}", 'optimizer.import: name the optimizer as "package.module:Name", not 5'),
        ("optimizer: {learning_rate: true}", "optimizer.learning_rate: must be a number, not True"),
        ("optimizer: {kind: sgd, nesterov: true}", "optimizer: nesterov needs a momentum above 0; set momentum"),
        ("schedule: {kind: linear, finale: 0.1}", "schedule.finale: linear has no such setting; did you mean 'final'?"),
        ("schedule: {final: 0.1}", "schedule.final: constant has no such setting; the choices are warmup"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_of_that_kind(load: Load, text: str, sentence: str) -> None:
    assert refusal(load, f"learner: {{{text}}}\n").startswith(f"learner.{sentence}")


def test_ones_own_components_are_imported(load: Load) -> None:
    run = load(
        f"learner: {{optimizer: {{import: '{OWN}:Sign', learning_rate: 0.5}}, schedule: '{OWN}:steps'}}\n",
        "learner.schedule.at=[3, 5]",
    )
    assert run.learner.optimizer == Component(None, f"{OWN}:Sign", SignConfig(learning_rate=0.5))
    assert run.learner.schedule == Component(None, f"{OWN}:steps", StepsConfig(at=(3, 5)))
    assert own_components.CALLED == []  # reading a config calls nothing
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, -0.1])
    optimizer = make_optimizer(run.learner.optimizer, [parameter])
    with torch.no_grad():
        optimizer.step()
    assert parameter.tolist() == [-0.5, 0.5]
    assert [run.learner.schedule.load()(run.learner.schedule.settings, 0.0, n) for n in (3, 4, 6)] == pytest.approx(
        [1, 0.1, 0.01]
    )
    own_components.CALLED.clear()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("os:system", "os:system is no optimizer; name a torch.optim.Optimizer built from (config, parameters)"),
        ("builtins:eval", "builtins:eval is no optimizer; name"),
        ("subprocess:Popen", "subprocess:Popen is no optimizer; name"),
        ("os:environ", "os:environ is no optimizer; name"),
        (f"{OWN}:steps", f"{OWN}:steps is no optimizer; name"),  # a component, but a schedule
        (f"{OWN}:Built", f"{OWN}:Built is no optimizer; name"),
        (f"{OWN}:Bare", f"{OWN}:Bare needs a Config beside it, a frozen dataclass of its settings"),
        ("torch.optim:Adam", "torch.optim:Adam needs a Config beside it"),
        (f"{OWN}:Loose", f"{OWN}:Loose needs a Config beside it, a frozen dataclass"),
        (f"{OWN}:Undecorated", f"{OWN}:Undecorated needs a Config beside it, a frozen dataclass"),
        (f"{OWN}:Thawed", f"the Config of {OWN}:Thawed must be frozen: write @dataclass(frozen=True"),
        (f"{OWN}:Reserved", f"'kind' chooses a component; rename this field in the Config of {OWN}:Reserved"),
        (f"{OWN}:Sing", f"the module {OWN} has no 'Sing'; did you mean 'Sign'?"),
        ("no_such_module:X", "there is no module 'no_such_module'"),
    ],
)
def test_an_import_must_lead_to_such_a_component(load: Load, path: str, sentence: str) -> None:
    found = refusal(load, f"learner: {{optimizer: {{import: '{path}'}}}}\n")
    assert found.startswith(f"learner.optimizer.import: {sentence}")


def test_a_config_cannot_call_what_it_imports(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from pathlib import Path\ndef touch(*a, **k):\n    Path(__file__).with_suffix('.called').touch()\n"
    name = write_module(tmp_path, "a_stranger", text + "class Config:\n    __init__ = touch\ntouch.Config = Config\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for key in ("learner.optimizer.import", "learner.schedule.import", "algorithm.import"):
        assert " is no " in refusal(load, "", f'{key}="{name}:touch"')
    assert name in sys.modules
    assert not (tmp_path / "a_stranger.called").exists()
    assert f"{OWN}:unmarked is no schedule" in refusal(load, "", f'learner.schedule="{OWN}:unmarked"')


def test_what_an_own_function_returns_is_checked() -> None:
    made = resolve(OPTIMIZERS, f"{OWN}:no_optimizer", "learner.optimizer")
    with pytest.raises(UserError, match=r"own_components:no_optimizer must return a torch.optim.Optimizer, not str$"):
        make_optimizer(made, [nn.Parameter(torch.zeros(1))])
    made = resolve(OPTIMIZERS, f"{OWN}:nadam", "learner.optimizer")
    assert isinstance(make_optimizer(made, [nn.Parameter(torch.zeros(1))]), torch.optim.NAdam)


def test_an_algorithm_may_have_components_anywhere_in_its_settings(load: Load) -> None:
    run = load(
        "",
        "algorithm.part={kind: dense, width: 4}",
        "algorithm.maybe=plain",
        f"algorithm.more=[plain, {{width: 2}}, '{OWN}:dense']",
        "algorithm.named={a: {kind: dense, width: 6}}",
        base=BUILT,
    )
    dense, plain_part = f"{OWN}:dense", f"{OWN}:plain_part"
    assert run.algorithm == BuiltConfig(
        part=Component("dense", dense, DenseConfig(width=4)),
        maybe=Component("plain", plain_part, NoSettings()),
        more=(
            Component("plain", plain_part, NoSettings()),
            Component("dense", dense, DenseConfig(width=2)),
            Component(None, dense, DenseConfig()),
        ),
        named={"a": Component("dense", dense, DenseConfig(width=6))},
    )
    assert load(base=BUILT).algorithm == BuiltConfig()
    assert config.from_tree(run.to_tree()) == run
    assert config.from_tree(config.parse_yaml(run.to_yaml(), "resolved")) == run
    assert run.to_tree()["algorithm"]["more"][2] == {"import": dense, "width": 8, "inner": None}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("algorithm.part={widht: 4}", "algorithm.part.widht: dense has no such setting; did you mean 'width'?"),
        ("algorithm.maybe=dens", "algorithm.maybe.kind: 'dens' is no part; did you mean 'dense'?"),
        ("algorithm.more=[plain, {width: 0}]", "algorithm.more.1.width: input should be greater than or equal to 1"),
        ("algorithm.named.a.width=x", "algorithm.named.a.width: input should be a valid integer"),
        ("algorithm.part.width=3", "algorithm.part: an odd width does not fit; double it"),
        ("algorithm.part.inner=x", "algorithm.part.inner.kind: 'x' is no part"),
        ("algorithm.parts=plain", f"algorithm.parts: {OWN}:Built has no such setting; did you mean 'part'?"),
    ],
)
def test_mistakes_in_an_algorithms_components_name_their_own_keys(load: Load, override: str, sentence: str) -> None:
    assert refusal(load, "", override, base=BUILT).startswith(sentence)


@pytest.mark.parametrize(
    ("written", "overrides", "settings"),
    [
        ("{kind: sgd, eps: 1}", ["learner.optimizer={kind: sgd}"], SGDConfig()),
        ("{kind: sgd, nesterov: true}", ["learner.optimizer.momentum=0.9"], SGDConfig(nesterov=True, momentum=0.9)),
        ("sgd", ["learner.optimizer.momentum=0.9"], SGDConfig(momentum=0.9)),
        ("{kind: adam, eps: 1e-5}", ["learner.optimizer=sgd"], SGDConfig()),
        ("adam", ["learner.optimizer={kind: sgd, momentum: 0.5}"], SGDConfig(momentum=0.5)),
        ("adam", ["learner.optimizer.kind=sgd"], SGDConfig()),
        ("adam", ["learner.optimizer=sgd", "learner.optimizer.momentum=0.9"], SGDConfig(momentum=0.9)),
        ("{kind: adam, learning_rate: 0.1}", ["learner.optimizer.kind=sgd"], SGDConfig(learning_rate=0.1)),
    ],
)  # fmt: skip
def test_overrides_of_components(load: Load, written: str, overrides: list[str], settings: Any) -> None:
    run = load(f"learner: {{optimizer: {written}}}\n", *overrides)
    assert run.learner.optimizer.settings == settings
    assert config.from_tree(run.to_tree()) == run


def test_an_override_of_the_kind_alone_keeps_what_is_written_and_says_what_does_not_fit(load: Load) -> None:
    sentence = refusal(load, "learner: {optimizer: {kind: adam, eps: 1e-5}}\n", "learner.optimizer.kind=sgd")
    assert sentence.startswith("learner.optimizer.eps: sgd has no such setting; the choices are learning_rate")


def test_a_phase_may_override_settings_or_the_kind() -> None:
    adam = OPTIMIZERS.component("adam", learning_rate=0.5, eps=1e-3)
    assert override(OPTIMIZERS, adam, {}, "key") == adam
    assert override(OPTIMIZERS, adam, {"betas": (0.0, 0.9)}, "key") == OPTIMIZERS.component(
        "adam", learning_rate=0.5, eps=1e-3, betas=(0.0, 0.9)
    )
    assert override(OPTIMIZERS, adam, {"kind": "sgd", "momentum": 0.9}, "key") == OPTIMIZERS.component(
        "sgd", momentum=0.9
    )
    own = override(OPTIMIZERS, adam, {"import": f"{OWN}:Sign"}, "key")
    assert own.settings == SignConfig()
    assert override(OPTIMIZERS, own, {"kind": "adam"}, "key") == OPTIMIZERS.component()
    with pytest.raises(UserError, match=r"^phase critic: optimizer\.momentum: adam has no such setting"):
        override(OPTIMIZERS, adam, {"momentum": 0.9}, "phase critic: optimizer")


# --- several configs, and one that extends another --------------------------------------------------------------------


def test_mappings_are_merged_and_another_kind_replaces_them() -> None:
    below = {"a": {"b": 1, "c": {"d": 2}}, "o": {"kind": "adam", "eps": 1}, "w": "sgd", "l": [1, 2]}
    assert merge(below, {"a": {"c": {"e": 3}}, "l": [3]})["a"] == {"b": 1, "c": {"d": 2, "e": 3}}
    assert merge(below, {"l": [3]})["l"] == [3]
    assert merge(below, {"o": {"eps": 2}})["o"] == {"kind": "adam", "eps": 2}
    assert merge(below, {"o": {"kind": "adam", "betas": 3}})["o"] == {"kind": "adam", "eps": 1, "betas": 3}
    assert merge(below, {"o": {"kind": "sgd", "momentum": 1}})["o"] == {"kind": "sgd", "momentum": 1}
    assert merge(below, {"o": {"import": "a:b"}})["o"] == {"import": "a:b"}
    assert merge(below, {"o": "sgd"})["o"] == "sgd"
    assert merge(below, {"w": {"momentum": 1}})["w"] == {"kind": "sgd", "momentum": 1}
    assert below["a"] == {"b": 1, "c": {"d": 2}}


def test_several_configs_merge_from_left_to_right_and_overrides_come_last(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        BASE + "learner: {batch_size: 8, optimizer: {kind: adam, eps: 1e-5}}\nseed: 1\n"
    )
    (tmp_path / "fast.yaml").write_text("learner: {optimizer: {kind: sgd, momentum: 0.5}}\nseed: 2\n")
    (tmp_path / "last.yaml").write_text("seed: 3\nalgorithm: {clip: 0.3}\n")
    first, fast, last = (str(tmp_path / f"{name}.yaml") for name in ("base", "fast", "last"))
    run = config.load(first, [fast, last, "algorithm.label=x", "learner.optimizer.momentum=0.9"])
    assert (run.name, run.seed, run.learner.batch_size) == ("base", 3, 8)
    assert run.learner.optimizer == OPTIMIZERS.component("sgd", momentum=0.9)
    assert (run.algorithm.clip, run.algorithm.label) == (0.3, "x")
    assert config.load(first, ["seed=9", last]).seed == 9
    with pytest.raises(UserError, match="'fats' is neither a config nor an override KEY=VALUE"):
        config.load(first, ["fats"])


def test_a_config_may_extend_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "below"
    folder.mkdir()
    (folder / "base.yaml").write_text(BASE + "seed: 5\nlearner: {batch_size: 8}\n")
    (folder / "middle.yaml").write_text("extends: base.yaml\nlearner: {count: 1, batch_size: 16}\n")
    (folder / "top.yaml").write_text("extends: middle.yaml\nlearner: {optimizer: sgd}\n")
    run = config.load("below/top.yaml")  # names are looked up beside the file
    assert (run.name, run.seed, run.learner.batch_size) == ("top", 5, 16)
    assert run.learner.optimizer == OPTIMIZERS.component("sgd")
    assert "extends" not in run.to_tree()
    (tmp_path / "shipped.yaml").write_text("extends: mlp_digits\nseed: 4\n")
    assert config.load("shipped.yaml").algorithm == config.load("mlp_digits").algorithm
    assert config.load("shipped.yaml").seed == 4


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a": "extends: a.yaml\n"}, "extends: a.yaml extends a.yaml, which extends it; break the circle"),
        ({"a": "extends: b.yaml\n", "b": "extends: a.yaml\n"}, "extends: b.yaml extends a.yaml, which extends it"),
        ({"a": "extends: 5\n"}, "extends: name one config that a.yaml changes, not 5"),
        ({"a": "extends: mlp_digist\n"}, "there is no config file or shipped config 'mlp_digist'; did you mean"),
        ({"a": "extends: b.yaml\n", "b": ""}, "b.yaml is empty"),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, files: dict[str, str], sentence: str) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        config.load(str(tmp_path / "a.yaml"))
    assert sentence in str(caught.value)
