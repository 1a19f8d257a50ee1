"""Search spaces: what they mean, which grid they have, and what the config of a trial becomes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from rayloom.config.load import from_tree, parse_yaml
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.search import space as space_module
from rayloom.search.domains import Categorical, Leaf, Numeric, Range
from rayloom.search.space import Space, apply
from search_spaces import BASE, CONDITIONAL, CONFIG, FITTING, FLAT, search, space


def drawn(text: str, *answers: Any) -> dict[str, Any]:
    """Return the values of the trial in which the sampler gives these answers, one for each question."""
    left = list(answers)
    values: dict[str, Any] = space(text).assign(lambda leaf: left.pop(0)).values
    assert not left
    return values


LEAVES: list[tuple[str, tuple[Leaf, ...]]] = [
    ("a: [adam, sgd]", (Categorical("a", ("adam", "sgd")),)),
    ("a: {choice: [adam, sgd]}", (Categorical("a", ("adam", "sgd")),)),
    ("a: [null, true, 0.5, 3, x]", (Categorical("a", (None, True, 0.5, 3, "x")),)),
    ("a: [[64, 32], {b: null, a: [é]}, é]", (Categorical("a", ("[64,32]", '{"a":["é"],"b":null}', "é")),)),
    ("a: {log: [1e-5, 1e-2]}", (Numeric("a", "float", 1e-5, 1e-2, None, True),)),
    ("a: {float: [1, 2]}", (Numeric("a", "float", 1.0, 2.0, None, False),)),
    ("a: {float: [1, 2], log: true}", (Numeric("a", "float", 1.0, 2.0, None, True),)),
    ("a: {float: [0.1, 0.3], step: 0.2}", (Numeric("a", "float", 0.1, 0.3, 0.2, False),)),
    ("a: {float: [0.0, 1.0], step: 0.3}", (Numeric("a", "float", 0.0, 0.9, 0.3, False),)),
    ("a: {float: [0.5, 0.5]}", (Numeric("a", "float", 0.5, 0.5, None, False),)),
    ("a: {int: [16, 1e2]}", (Numeric("a", "int", 16, 100, None, False),)),
    ("a: {int: [16, 100], step: 16}", (Numeric("a", "int", 16, 96, 16, False),)),
    ("a: {int: [16, 256], log: true}", (Numeric("a", "int", 16, 256, None, True),)),
    (
        "a: {list: {length: {int: [0, 2]}, item: [x, [1]]}}",
        (
            Numeric("a/length", "int", 0, 2, None, False),
            Categorical("a/0", ("x", "[1]")),
            Categorical("a/1", ("x", "[1]")),
        ),
    ),
    (
        "a: {list: {length: 2, item: {log: [1, 8]}}}",
        (Numeric("a/0", "float", 1.0, 8.0, None, True), Numeric("a/1", "float", 1.0, 8.0, None, True)),
    ),
]


@pytest.mark.parametrize(("text", "leaves"), LEAVES)
def test_a_sampler_sees_scalar_parameters(text: str, leaves: tuple[Leaf, ...]) -> None:
    assert space(text).leaves == leaves
    for leaf in space(text).leaves:
        scalars = leaf.choices if isinstance(leaf, Categorical) else (leaf.low, leaf.high)
        if isinstance(leaf, Numeric):
            assert {type(scalar) for scalar in scalars} == {int if leaf.kind == "int" else float}
        assert all(scalar is None or isinstance(scalar, str | int | float) for scalar in scalars)


@pytest.mark.parametrize(
    ("domain", "answers", "value"),
    [
        ("[adam, sgd]", ["sgd"], "sgd"),
        ("[[64, 32], {b: [null]}, true]", ["[64,32]"], [64, 32]),
        ("[[64, 32], {b: [null]}, true]", ['{"b":[null]}'], {"b": [None]}),
        ("[[64, 32], {b: [null]}, true]", [True], True),
        ("{int: [1, 9]}", [3.0], 3),
        ("{float: [1, 9]}", [3], 3.0),
        ("{float: [0.0, 1.0], step: 0.1}", [0.1 + 0.2], 0.3),
        ("{float: [0.05, 1.0], step: 0.1}", [0.05 + 3 * 0.1], 0.35),
        ("{log: [1e-3, 0.1], transform: one_minus}", [0.01], 0.99),
        ("{log: [1e-3, 0.9], transform: one_minus}", [0.9], 0.1),
        ("{float: [0.0, 1.0], step: 0.1, transform: one_minus}", [0.1 + 0.2], 0.7),
        ("{int: [1, 9], transform: one_minus}", [9], -8),
        ("{int: [0, 9], transform: power_of_two}", [8], 256),
        ("{int: [-3, 9], transform: power_of_two}", [-3], 0.125),
        ("{int: [-3, 9], transform: power_of_two}", [1], 2.0),
        ("{float: [-3, 9], transform: power_of_two}", [0.5], math.sqrt(2)),
        ("{int: [0, 9], transform: power_of_ten}", [3], 1_000),
        ("{int: [-5, 0], transform: power_of_ten}", [-5], 1e-5),
        ("{float: [-5, 23], transform: power_of_ten}", [23.0], 1e23),
        ("{float: [-5, 0], step: 0.5, transform: power_of_ten}", [-0.5], 10**-0.5),
        ("{list: {length: 2, item: {int: [0, 9]}}}", [4, 5], [4, 5]),
        ("{list: {length: {int: [0, 3]}, item: [x, [1]]}}", [2, "[1]", "x"], [[1], "x"]),
        ("{list: {length: {int: [0, 3]}, item: [x, [1]]}}", [0], []),
        ("{list: {length: 1, item: {int: [5, 7], transform: power_of_two}}}", [6], [64]),
    ],
)
def test_the_config_gets_the_true_value(domain: str, answers: list[Any], value: Any) -> None:
    got = drawn(f"a: {domain}", *answers)["a"]
    assert got == value
    assert type(got) is type(value)


def test_a_trial_keeps_what_the_sampler_said_beside_what_the_config_gets() -> None:
    found = space("a: [[1], [2]]\nb: {int: [0, 9], transform: power_of_two}").assign(
        lambda leaf: {"a": "[2]", "b": 3.0}[leaf.name]
    )
    assert found.parameters == {"a": "[2]", "b": 3}
    assert type(found.parameters["b"]) is int
    assert found.values == {"a": [2], "b": 8}


def test_trials_do_not_share_their_lists() -> None:
    tree = space("a: [[1], {b: [2]}]")
    tree.assign(lambda leaf: "[1]").values["a"].append(7)
    tree.assign(lambda leaf: '{"b":[2]}').values["a"]["b"].append(7)
    assert tree.assign(lambda leaf: "[1]").values["a"] == [1]
    assert tree.assign(lambda leaf: '{"b":[2]}').values["a"] == {"b": [2]}


def test_a_sampler_that_leaves_the_space_is_our_bug() -> None:
    with pytest.raises(ValueError, match="whole number"):
        drawn("a: {int: [0, 9]}", 3.5)
    with pytest.raises(ValueError, match="not in"):
        drawn("a: [x]", "y")


def test_questions_come_in_the_order_written_but_behind_their_conditions() -> None:
    assert [leaf.name for leaf in space(CONDITIONAL).leaves] == [
        "kind",
        "depth",
        "momentum",
        "momentum_kind",
        "nesterov",
    ]


@pytest.mark.parametrize(
    ("answers", "values"),
    [
        (["adam", 2], {"kind": "adam", "depth": 2}),
        (["sgd", 1, "a"], {"kind": "sgd", "depth": 1, "momentum_kind": "a"}),
        (["sgd", 1, "b", True], {"kind": "sgd", "depth": 1, "momentum_kind": "b", "nesterov": True}),
        (["rmsprop", 2, 0.5], {"kind": "rmsprop", "depth": 2, "momentum": 0.5}),
    ],
)
def test_only_what_its_conditions_let_through_is_asked_for(answers: list[Any], values: dict[str, Any]) -> None:
    assert drawn(CONDITIONAL, *answers) == values


@pytest.mark.parametrize(
    ("parent", "wanted", "answer", "active"),
    [
        ("[true, false]", "true", True, True),
        ("[[1], [2]]", "[1]", "[1]", True),  # one value that is a list
        ("[[1], [2]]", "[1]", "[2]", False),
        ("[[1], [2], [3]]", "[[1], [2]]", "[2]", True),  # a list of such values
        ("[[1], [2], [3]]", "[[1], [2]]", "[3]", False),
        ("[null, x]", "null", None, True),
        ("{int: [1, 3]}", "3", 3, True),
        ("{int: [5, 9], transform: power_of_two}", "64", 6, True),  # the value in the config
        ("{int: [-2, 0], transform: power_of_ten}", "0.1", -1, True),
        ("{int: [1, 9], transform: one_minus}", "-3", 4, True),
    ],
)
def test_a_condition_names_values_of_the_config(parent: str, wanted: str, answer: Any, active: bool) -> None:
    tree = space(f"p: {parent}\nc: {{choice: [x], when: {{p: {wanted}}}}}")
    values = tree.assign(lambda leaf: answer if leaf.name == "p" else "x").values
    assert ("c" in values) == active


def test_tuples_from_python_mean_what_lists_mean() -> None:
    tree = {"p": ((1,), (2,)), "c": {"choice": ("x",), "when": {"p": ((1,), (2,))}}, "f": {"float": (0, 1)}}
    assert Space.parse(tree) == space("p: [[1], [2]]\nc: {choice: [x], when: {p: [[1], [2]]}}\nf: {float: [0, 1]}")


@pytest.mark.parametrize(
    ("text", "conditional"),
    [
        ("a: [1, 2]", False),
        ("a: {list: {length: 2, item: [1]}}", False),
        ("a: {list: {length: {int: [2, 2]}, item: [1]}}", False),
        ("a: {list: {length: {int: [1, 2]}, item: [1]}}", True),
        (CONDITIONAL, True),
    ],
)
def test_a_space_knows_whether_it_is_conditional(text: str, conditional: bool) -> None:
    assert space(text).conditional == conditional


def test_the_grid_of_a_conditional_space_by_hand() -> None:
    # adam: 2 depths; sgd: 2 depths x (a; b true, false), times 2 momenta at depth 2; rmsprop: 1 + 2.
    points = space(CONDITIONAL).grid()
    assert len(points) == 2 + 3 + 2 * 3 + 1 + 2
    assert points[:4] == [
        {"kind": "adam", "depth": 1},
        {"kind": "adam", "depth": 2},
        {"kind": "sgd", "depth": 1, "momentum_kind": "a"},
        {"kind": "sgd", "depth": 1, "momentum_kind": "b", "nesterov": True},
    ]
    assert points[-1] == {"kind": "rmsprop", "depth": 2, "momentum": 0.5}


def test_the_grid_of_lists_and_steps_by_hand() -> None:
    text = "a: {list: {length: {int: [0, 2]}, item: [x, [1]]}}\nb: {float: [0.1, 0.35], step: 0.1}"
    points = space(text).grid()
    assert len(points) == (1 + 2 + 4) * 3
    assert [point["b"] for point in points[:3]] == [0.1, 0.2, 0.3]
    assert points[3] == {"a/length": 1, "a/0": "x", "b": 0.1}
    assert points[-1] == {"a/length": 2, "a/0": "[1]", "a/1": "[1]", "b": 0.3}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a: {int: [1, 10_000]}", 10_000),
        ("a: {int: [0, 7], transform: power_of_two}", 8),
        ("a: {float: [0.5, 0.5]}", 1),
        ("a: {log: [0.5, 0.5]}", 1),
        ("a: {float: [0.0, 1.0], step: 0.001}", 1_001),
        ("a: {list: {length: {int: [1, 5], step: 2}, item: {int: [1, 2]}}}", 2 + 8 + 32),
    ],
)
def test_the_size_of_a_grid(text: str, count: int) -> None:
    made = space(text)
    assert len(made.grid()) == count == made.entries[0].domain.size


def test_the_largest_grid_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert space_module.GRID_LIMIT == 1_000_000
    monkeypatch.setattr(space_module, "GRID_LIMIT", 1_000)
    text = "p: [1, 2]\na: {int: [1, 998], when: {p: 1}}\nb: {int: [1, 2], when: {p: 2}}"
    for largest in (text, "a: {int: [1, 1_000]}", "a: {int: [1, 10]}\nb: {int: [1, 100]}"):
        assert len(space(largest).grid()) == 1_000


def test_a_space_that_fits_the_config_passes() -> None:
    space(FITTING.replace("source.env_options2.x: [1]\n", "")).check(CONFIG)
    space("source.env_options.render_mode: [null, rgb_array]").check(CONFIG)
    space("learner.schedule: [{kind: linear}, {kind: cosine, warmup: 3}]").check(CONFIG)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (CONDITIONAL, {"sampler": "grid"}),
        (CONDITIONAL, {"sampler": "tpe", "trials": 1, "pruner": "hyperband", "population": 4}),
        (CONDITIONAL, {"sampler": "random", "trials": 1}),
        ("a: [1, 2]", {"sampler": "gp", "trials": 1, "metric": ["x", "y"], "direction": ["maximize", "minimize"]}),
        (FLAT, {"sampler": "cmaes", "trials": 1, "metric": ["x"], "pruner": "median"}),
        (FLAT, {"sampler": "qmc", "trials": 1, "direction": "minimize"}),
    ],
)
def test_a_sampler_that_can_handle_the_space_passes(text: str, settings: dict[str, Any]) -> None:
    space(text).check_sampler(search(text, **settings))


def test_search_settings_survive_the_round_trip_through_yaml() -> None:
    config = from_tree({**BASE, "search": {
        "space": parse_yaml(FITTING, "test"), "sampler": "gp", "trials": 7, "metric": ["a/b", "c/d"],
        "direction": ["maximize", "minimize"], "sampler_options": {"n": 1, "x": 0.5, "y": True, "z": None, "w": "v"},
    }})  # fmt: skip
    assert from_tree(parse_yaml(config.to_yaml(), "test")) == config
    assert config.search is not None
    assert config.search.metric == ("a/b", "c/d")
    assert config.search.sampler_options == {"n": 1, "x": 0.5, "y": True, "z": None, "w": "v"}
    assert config.search.sampler_options["y"] is True
    assert Space.parse(config.search.space) == space(FITTING)


def test_apply_sets_keys_whole_and_drops_the_search() -> None:
    config = from_tree(
        {**BASE, "search": {"space": {"seed": [1]}}, "learner": {"optimizer": {"kind": "rmsprop", "momentum": 0.5}}}
    )
    before = config.to_tree()
    tree = apply(config, {"learner.optimizer": {"kind": "sgd"}, "source.env_options.a": [1], "seed": 3})
    assert tree["learner"]["optimizer"] == {"kind": "sgd"}
    assert tree["search"] is None
    assert config.to_tree() == before
    made = from_tree(tree)
    assert (made.learner.optimizer.kind, made.learner.optimizer.settings.momentum, made.seed) == ("sgd", 0.0, 3)
    assert made.source.env_options == {"a": [1]}  # type: ignore[union-attr]


# Properties, over random spaces that fit CONFIG.
WORDS = st.lists(st.sampled_from(["adam", "adamw", "sgd", "rmsprop"]), min_size=1, max_size=3, unique=True)
SIZES = st.lists(st.sampled_from([1, 8, 32, 64]), min_size=1, max_size=2, unique=True)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Return a small random space in random order, conditions included."""
    names = draw(WORDS)
    low, span = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    whole: dict[str, Any] = {"int": [low, low + span]}
    if span > 1:
        whole["step"] = draw(st.integers(1, span))
    tree: dict[str, Any] = {
        "learner.optimizer.kind": names,
        "learner.batch_size": {**whole, "transform": draw(st.sampled_from([None, "power_of_two"]))},
        "learner.optimizer.weight_decay": {"float": [0.1, 0.9], "step": draw(st.sampled_from([0.3, 0.4, 0.8]))},
        "algorithm.sizes": {"list": {"length": {"int": [0, draw(st.integers(1, 2))]}, "item": draw(SIZES)}},
        "learner.compile": {"choice": [True, False]},
    }
    if draw(st.booleans()):
        tree["learner.optimizer.weight_decay"]["when"] = {"learner.optimizer.kind": draw(st.sampled_from(names))}
    if draw(st.booleans()):
        wanted = Range("int", low, low + span, whole.get("step"), False, tree["learner.batch_size"]["transform"])
        tree["learner.compile"]["when"] = {
            "learner.batch_size": wanted.draw("", lambda leaf: low), "learner.optimizer.kind": names,
        }  # fmt: skip
    if draw(st.booleans()) and "when" in tree["learner.compile"]:
        tree["algorithm.sizes"]["when"] = {"learner.compile": [True]}
    return {key: tree[key] for key in draw(st.permutations(list(tree)))}


def values_of(leaf: Leaf) -> list[Any]:
    """Return all values of a leaf with steps, counted apart from the space."""
    if isinstance(leaf, Categorical):
        return list(leaf.choices)
    step = leaf.step or 1
    count = round((leaf.high - leaf.low) / step) + 1
    return [round(leaf.low + index * step, 6) for index in range(count)]


def expected_keys(tree: dict[str, Any], values: dict[str, Any]) -> set[str]:
    """Return the keys whose conditions hold, straight from the YAML."""
    kept = set(tree)
    for _ in tree:  # a key whose parent falls away falls away too
        for key, item in tree.items():
            for parent, wanted in (item.get("when", {}) if isinstance(item, dict) else {}).items():
                allowed = wanted if isinstance(wanted, list) else [wanted]
                if parent not in kept or values.get(parent) not in allowed:
                    kept.discard(key)
    return kept


@settings(max_examples=examples(60, 25), deadline=None)
@given(trees(), st.randoms(use_true_random=False))
def test_a_trial_asks_for_active_parameters_and_is_rebuilt_from_them(tree: dict[str, Any], chance: Any) -> None:
    made = Space.parse(tree)
    asked: list[str] = []

    def suggest(leaf: Leaf) -> Any:
        assert leaf in made.leaves
        asked.append(leaf.name)
        return chance.choice(values_of(leaf))

    found = made.assign(suggest)
    assert asked == list(found.parameters) == [leaf.name for leaf in made.leaves if leaf.name in found.parameters]
    assert set(found.values) == expected_keys(tree, found.values)
    sizes = found.values.get("algorithm.sizes")
    parts = [name for name in asked if name.startswith("algorithm.sizes/")]
    assert len(parts) == (0 if sizes is None else len(sizes) + 1)
    assert made.assign(lambda leaf: found.parameters[leaf.name]) == found
    assert made.conditional or len(asked) == len(made.leaves)


@settings(max_examples=examples(40, 15), deadline=None)
@given(trees())
def test_a_grid_has_every_active_combination_once_in_order(tree: dict[str, Any]) -> None:
    made = Space.parse(tree)
    expected: dict[tuple[Any, ...], dict[str, Any]] = {}
    for combination in itertools.product(*(values_of(leaf) for leaf in made.leaves)):
        whole = dict(zip((leaf.name for leaf in made.leaves), combination, strict=True))
        parameters = made.assign(lambda leaf, whole=whole: whole[leaf.name]).parameters  # type: ignore[misc]
        expected.setdefault(tuple(parameters.items()), parameters)
    assert made.grid() == list(expected.values())


@settings(max_examples=6, deadline=None)
@given(trees(), st.integers(1, 7))
def test_every_point_of_a_checked_space_makes_a_valid_config(tree: dict[str, Any], stride: int) -> None:
    made = Space.parse(tree)
    made.check(CONFIG)
    for point in made.grid()[:: 9 * stride]:
        found = made.assign(lambda leaf, point=point: point[leaf.name])  # type: ignore[misc]
        config: RunConfig = from_tree(apply(CONFIG, found.values))
        assert list(config.algorithm.sizes) == found.values.get("algorithm.sizes", [64, 64])  # type: ignore[attr-defined]
        assert config.learner.batch_size == found.values["learner.batch_size"]
        assert config.search is None


def test_another_kind_begins_with_its_own_defaults_and_then_gets_what_is_varied_of_it() -> None:
    adam = {"kind": "adam", "learning_rate": 0.5, "betas": [0.5, 0.9]}
    config = from_tree({**BASE, "learner": {"optimizer": adam}})
    rate = {"learner.optimizer.learning_rate": 0.1}  # written before the kind on which the others depend
    sgd = {"learner.optimizer.momentum": 0.9, "learner.optimizer.kind": "sgd"}
    assert apply(config, {**rate, **sgd})["learner"]["optimizer"] == {
        "kind": "sgd", "momentum": 0.9, "learning_rate": 0.1,
    }  # fmt: skip
    assert apply(config, {"learner.optimizer.kind": "sgd"})["learner"]["optimizer"] == {"kind": "sgd"}
    kept = apply(config, {**rate, "learner.optimizer.kind": "adam"})["learner"]["optimizer"]
    assert kept == {**config.to_tree()["learner"]["optimizer"], "learning_rate": 0.1}
    assert config.learner.optimizer.settings.betas == (0.5, 0.9)


def test_a_study_varies_kinds_and_each_kinds_settings() -> None:
    found = space("""
        learner.optimizer.learning_rate: [0.1]
        learner.optimizer.betas: {choice: [[0.5, 0.9]], when: {learner.optimizer.kind: [adam, adamw]}}
        learner.optimizer.momentum: {choice: [0.0, 0.9], when: {learner.optimizer.kind: sgd}}
        learner.optimizer.kind: [adam, sgd, adamw]
        learner.schedule: [constant, {kind: cosine, final: 0.1}]
    """)
    found.check(CONFIG)
    assert len(found.grid()) == 2 * (1 + 2 + 1)
    wrong = space("learner.optimizer.kind: [sgd, adam]\nlearner.optimizer.momentum: [0.5]")
    with pytest.raises(UserError, match=r"^search\.space\.learner\.optimizer\.momentum: adam has no such setting"):
        wrong.check(CONFIG)
