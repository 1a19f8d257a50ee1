"""Search spaces: what is refused, and the sentence that says how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from rayloom.config.load import from_tree
from rayloom.errors import UserError
from rayloom.search import space as space_module
from search_spaces import BASE, CONFIG, FITTING, FLAT, refusal, search, space
from tiny_algorithm import Tiny, TinyConfig


@dataclass(frozen=True, kw_only=True)
class PickyConfig(TinyConfig):
    """Settings of which one bounds another."""

    def __post_init__(self) -> None:
        if self.label == "b" and self.clip > 0.5:
            raise UserError("algorithm.clip: must be at most 0.5 with the label b")


class Picky(Tiny):
    """Takes large clips under some labels only."""

    Config = PickyConfig


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: {float: [0, 1]}", "search.space.a: a grid needs a step here, or use another sampler"),
        (
            "a: {int: [1, 9], log: true}",
            "search.space.a: a grid cannot walk through a log scale; write choices, or use another sampler",
        ),
        (
            "p: [1, 2]\na: {log: [1, 9], when: {p: 1}}",
            "search.space.a: a grid cannot walk through a log scale; write choices, or use another sampler",
        ),
        (
            "a: {list: {length: {int: [0, 1]}, item: {float: [0, 1]}}}",
            "search.space.a.item: a grid needs a step here, or use another sampler",
        ),
        (
            "a: {list: {length: {int: [1, 3], log: true}, item: [1]}}",
            "search.space.a.length: a grid cannot walk through a log scale; write choices, or use another sampler",
        ),
        *(
            (
                text,
                "search.space: the grid has more than 1,000 points; leave out keys or values, or use another sampler",
            )
            for text in (
                "a: {int: [0, 1_000]}",
                "a: {int: [0, 1_000_000_000_000]}",
                "p: [1, 2]\na: {int: [0, 1_000_000_000_000], when: {p: 1}}",
                "a: {int: [1, 1_000]}\nb: {int: [1, 1_000_000_000]}",
                "p: [1, 2]\na: {int: [1, 999], when: {p: 1}}\nb: {int: [1, 2], when: {p: 2}}",
                "a: {list: {length: {int: [1, 500]}, item: [1, 2]}}",
            )
        ),
    ],
)
def test_what_has_no_grid_is_refused(text: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "GRID_LIMIT", 1_000)
    assert refusal(space(text).grid) == sentence


REFUSED: list[tuple[str, str]] = [
    ("{}", ": name at least one key to vary, as learner.optimizer.learning_rate"),
    ("a: 3", "a: write a list of choices or one of choice, int, float, log, list, not 3"),
    ("a: null", "a: write a list of choices or one of choice, int, float, log, list, not None"),
    ("a: {}", "a: say what it may become with one of choice, int, float, log, list"),
    ("a: {when: {b: 1}}\nb: [1]", "a: say what it may become with one of choice, int, float, log, list"),
    ("a: {flaot: [0, 1]}", "a: there is no kind 'flaot'; did you mean 'float'?"),
    ("a: {step: 1, itn: [0, 1]}", "a: there is no kind 'itn'; did you mean 'int'?"),
    ("a: {int: [0, 1], float: [0, 1]}", "a: write only one of int and float"),
    ("a: {int: [0, 1], stpe: 1}", "a.stpe: int has no such option; did you mean 'step'?"),
    ("a: {choice: [1], transform: one_minus}", "a.transform: choice has no such option; the choices are when"),
    ("a: {choice: [1], log: true}", "a.log: choice has no such option; the choices are when"),
    ("a: {log: [1, 2], step: 1}", "a: a log scale has no step; leave step out or write float instead of log"),
    ("a: {int: [1, 2], log: true, step: 1}", "a: a log scale has no step; leave out step or log"),
    ("a: {int: [1, 2], log: [1, 2]}", "a.log: must be true or false, not [1, 2]"),
    ("a: []", "a: choices must be a list of at least one value, not []"),
    ("a: {choice: adam}", "a: choices must be a list of at least one value, not 'adam'"),
    ("a: [x, y, x]", "a: the choices 'x' and 'x' are the same; drop one"),
    ("a: [true, 1.0]", "a: the choices True and 1.0 are the same; drop one"),
    ("a: [{a: 1, b: 2}, {b: 2, a: 1}]", "a: the choices {'a': 1, 'b': 2} and {'b': 2, 'a': 1} are the same; drop one"),
    ("a: ['[1]', [1]]", "a: the choices '[1]' and [1] are the same; drop one"),
    ("a: [1, .inf]", "a: the choice inf must be plain data without infinities and NaN"),
    ("a: [1, [.nan]]", "a: the choice [nan] must be plain data without infinities and NaN"),
    ("a: {int: 3}", "a: int needs two bounds [low, high], not 3"),
    ("a: {float: [1, 2, 3]}", "a: float needs two bounds [low, high], not [1, 2, 3]"),
    ("a: {float: [2, 1]}", "a: the range from 2.0 to 1.0 is empty; swap the bounds"),
    ("a: {float: [0, .inf]}", "a: each bound must be a finite number, not inf"),
    ("a: {float: [.nan, 1]}", "a: each bound must be a finite number, not nan"),
    ("a: {float: [0, true]}", "a: each bound must be a finite number, not True"),
    ("a: {float: [0, x]}", "a: each bound must be a finite number, not 'x'"),
    ("a: {int: [0, 1.5]}", "a: each bound must be a whole number, not 1.5"),
    ("a: {int: [0, .inf]}", "a: each bound must be a whole number, not inf"),
    ("a: {int: [0, 9007199254740993]}", "a: each bound must be a whole number, not 9007199254740993"),
    ("a: {log: [0, 1]}", "a: a log scale needs positive bounds, not 0.0"),
    ("a: {int: [-1, 1], log: true}", "a: a log scale needs positive bounds, not -1"),
    ("a: {int: [0, 9], step: 0}", "a.step: must lie between 0 and the range's 9, not 0"),
    ("a: {float: [0, 1], step: -0.1}", "a.step: must lie between 0 and the range's 1, not -0.1"),
    ("a: {float: [0, 1], step: 1.1}", "a.step: must lie between 0 and the range's 1, not 1.1"),
    ("a: {int: [0, 9], step: 0.5}", "a.step: must be a whole number, not 0.5"),
    ("a: {float: [0, 9], step: .nan}", "a.step: must be a finite number, not nan"),
    ("a: {float: [0, 9], transform: one_mius}", "a.transform: there is no 'one_mius'; did you mean 'one_minus'?"),
    (
        "a: {float: [0, 9], transform: [log]}",
        "a.transform: there is no ['log']; the choices are one_minus, power_of_two, power_of_ten",
    ),
    (
        "a: {int: [16, 1024], transform: power_of_ten}",
        "a: power_of_ten takes exponents from -300 to 300, not 16 to 1024",
    ),
    (
        "a: {int: [-1001, 1], transform: power_of_two}",
        "a: power_of_two takes exponents from -1000 to 1000, not -1001 to 1",
    ),
    ("a: {list: {length: 1}}", "a: list needs length and item and nothing else, as {length: {int: [1, 3]}, item: ...}"),
    ("a: {list: [1, 2]}", "a: list needs length and item and nothing else, as {length: {int: [1, 3]}, item: ...}"),
    ("a: {list: {length: -1, item: [1]}}", "a.length: must lie between 0 and 1000, and above 0 for the longest list"),
    ("a: {list: {length: 0, item: [1]}}", "a.length: must lie between 0 and 1000, and above 0 for the longest list"),
    (
        "a: {list: {length: {int: [1, 1001]}, item: [1]}}",
        "a.length: must lie between 0 and 1000, and above 0 for the longest list",
    ),
    *(
        (
            f"a: {{list: {{length: {length}, item: [1]}}}}",
            "a.length: write a whole number or {int: [low, high]} without transform",
        )
        for length in ("[1, 2]", "{float: [1, 2]}", "{int: [1, 2], transform: power_of_two}")
    ),
    (
        "a: {list: {length: true, item: [1]}}",
        "a.length: write a list of choices or one of choice, int, float, log, list, not True",
    ),
    (
        "a: {list: {length: 1, item: {list: {length: 1, item: [1]}}}}",
        "a.item: lists of lists are not supported; write the inner lists as choices",
    ),
    (
        "b: [1]\na: {list: {length: 1, item: {choice: [1], when: {b: 1}}}}",
        "a.item.when: a condition belongs to the whole list; move it one level up",
    ),
    (
        "b: [1]\na: {list: {length: {int: [1, 2], when: {b: 1}}, item: [1]}}",
        "a.length.when: a condition belongs to the whole list; move it one level up",
    ),
    ("a: {list: {length: 1, item: {int: [2, 1]}}}", "a.item: the range from 2 to 1 is empty; swap the bounds"),
    ("a: {choice: [1], when: b}", "a.when: write {KEY: VALUE} with keys of the space, not 'b'"),
    ("a: {choice: [1], when: {}}", "a.when: write {KEY: VALUE} with keys of the space, not {}"),
    (
        "a: {choice: [1], when: {learner.nam: 1}}\nlearner.name: [1]",
        "a.when: learner.nam is not another key of the space; did you mean 'learner.name'?",
    ),
    ("a: {choice: [1], when: {a: 1}}", "a.when: a is not another key of the space"),
    *(
        (
            f"a: {{choice: [1], when: {{b: 1}}}}\nb: {kind}",
            "a.when: only a choice or an int can be a condition, which b is not",
        )
        for kind in ("{float: [0, 1]}", "{log: [1, 2]}", "{list: {length: 1, item: [1]}}")
    ),
    *(
        (
            f"a: {{choice: [1], when: {{b: {wanted}}}}}\nb: {kind}",
            f"a.when: b never becomes {shown}; write one of its own values",
        )
        for kind, wanted, shown in (
            ("[x, y]", "z", "'z'"),
            ("[x, y]", "[x, z]", "'z'"),
            ("[x, y]", "[]", "[]"),
            ("[true, x]", "1", "1"),
            ("{int: [1, 3]}", "4", "4"),
            ("{int: [1, 3]}", "true", "True"),
            ("{int: [1, 3]}", "1.5", "1.5"),
            ("{int: [1, 9], step: 2}", "4", "4"),
            ("{int: [5, 7], transform: power_of_two}", "6", "6"),
            ("{int: [5, 7], transform: one_minus}", "6", "6"),
        )
    ),
    (
        "x: [1]\na: {choice: [1], when: {b: 1}}\nb: {choice: [1], when: {c: 1}}\nc: {choice: [1], when: {a: 1}}",
        "a.when: the conditions of a, b, c go in a circle",
    ),
    (
        "n: [1, 2]\na: {choice: [1], when: {n: 1}}\nb: {choice: [1], when: {a: 1, n: 2}}",
        "b.when: a and other keys want different values of n",
    ),
    ("a.b: [1]\na: [{b: 2}]", "a.b: lies in a, which the space varies as a whole; keep one of them"),
    ("a: {list: {length: 1, item: [1]}}\na/0: [1]", "a/0: a part of a list has the same name; rename the key"),
    ("3: [1]", "3: a key must be dotted words, as learner.batch_size, not 3"),
    ("a..b: [1]", "a..b: a key must be dotted words, as learner.batch_size, not 'a..b'"),
    *(
        (f"{key}: [x]", f"{key}: a search cannot vary {fixed}; leave the key out")
        for key, fixed in (
            ("name", "name"),
            ("output", "output"),
            ("stop.env_steps", "stop"),
            ("stop", "stop"),
            ("tracking.uri", "tracking"),
            ("search.trials", "search"),
            ("cluster.address", "cluster"),
            ("checkpoint.every", "checkpoint"),
            ("algorithm.import", "algorithm.import"),
            ("algorithm", "algorithm.import"),
        )
    ),
]


@pytest.mark.parametrize(("text", "sentence"), REFUSED)
def test_a_mistake_in_a_space_is_refused(text: str, sentence: str) -> None:
    assert refusal(space, text) == (f"search.space.{sentence}" if sentence[0] != ":" else f"search.space{sentence}")


UNFIT: list[tuple[str, str]] = [
    ("evaluate.split: [test]", "evaluate.split: episodes has no such setting; the choices are "),
    ("evaluate.episodes: {int: [0, 3]}", "evaluate.episodes: input should be greater than or equal to 1, not 0"),
    (
        "source.wrappers: [[clip_rewards]]",
        "source.wrappers: the value ['clip_rewards'] does not fit: source.wrappers.0",
    ),
    (FITTING, "source.env_options2.x: the value 1 does not fit: source.env_options2: there is no such key"),
    (
        "learner.optimizer.learnin_rate: {log: [1e-4, 1e-3]}",
        "learner.optimizer.learnin_rate: adam has no such setting; did you mean 'learning_rate'?",
    ),
    (
        "learnr.count: [1]",
        "learnr.count: the value 1 does not fit: learnr: there is no such key; did you mean 'learner'?",
    ),
    ("seed.x: [1]", "seed.x: seed is not a mapping; vary seed as a whole"),
    ("algorithm.sizes.0: [1]", "algorithm.sizes.0: algorithm.sizes is not a mapping; vary algorithm.sizes as a whole"),
    (
        "learner.optimizer.kind: [adam, sgd, adma]",
        "learner.optimizer.kind: 'adma' is no optimizer; did you mean 'adam'?",
    ),
    ("learner.batch_size: {int: [0, 8]}", "learner.batch_size: input should be greater than or equal to 1, not 0"),
    (
        "learner.schedule.final: {float: [0, 1.5]}",
        "learner.schedule.final: input should be less than or equal to 1, not 1.5",
    ),
    (  # both ends are whole, and what lies between is not
        "learner.batch_size: {float: [16, 256]}",
        "learner.batch_size: input should be a valid integer, got a number with a fractional part, not 107.67",
    ),
    (
        "learner.batch_size: {float: [1, 3], step: 0.5}",
        "learner.batch_size: input should be a valid integer, got a number with a fractional part, not 1.5",
    ),
    ("learner.batch_size: [true]", "learner.batch_size: must be a number, not True"),
    (
        "algorithm.sizes: {list: {length: 2, item: [32, x]}}",
        "algorithm.sizes: the value ['x', 'x'] does not fit: algorithm.sizes.0: input should be a valid integer, "
        "unable to parse string as an integer, not 'x'",
    ),
    ("source.importance_exponent: [[0.1, 0.2]]", "source.importance_exponent: there is no such key"),
    *(
        (
            f"learner.optimizer.betas: {{list: {{length: {{int: {lengths}}}, item: [0.5]}}}}",
            f"learner.optimizer.betas: {why}",
        )
        for lengths, why in (
            ("[2, 3]", "tuple should have at most 2 items"),
            ("[1, 2]", "the value [0.5] does not fit"),
        )
    ),
    ("learner.schedule.final: {int: [0, 2]}", "learner.schedule.final: input should be less than or equal to 1, not 2"),
    (  # the refusal speaks of a key that is not in turn yet
        "seed: {int: [0, 9]}\nlearner.count: [0, 1]",
        "learner.count: input should be greater than or equal to 1, not 0",
    ),
    (  # seen only where its conditions hold
        "learner.compile: [false, true]\nlearner.precision: {choice: [float32, x], when: {learner.compile: true}}",
        "learner.precision: input should be 'float32' or 'bfloat16', not 'x'",
    ),
    (
        "learner.optimizer.kind: [adam, sgd]\nsource.num_envs: {choice: [1, 2], when: {learner.optimizer.kind: sgd}}\n"
        "source.epochs: {int: [0, 1], when: {source.num_envs: 2}}",
        "source.epochs: input should be greater than or equal to 1, not 0",
    ),
    (  # a part varied as a whole
        "source: [{kind: on_policy, env: a}, {kind: replay, env: a}]",
        "source: the value {'kind': 'replay', 'env': 'a'} does not fit: source.kind: Tiny cannot learn "
        "from 'replay'; use dataset, on_policy",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), UNFIT)
def test_a_space_that_does_not_fit_the_config_is_refused(text: str, sentence: str) -> None:
    assert refusal(space(text).check, CONFIG).startswith(f"search.space.{sentence}")


@pytest.mark.parametrize("labels", ["[none, b]", "[b, none]", "b"])
def test_every_value_of_a_condition_is_tried(labels: str) -> None:
    config = from_tree({**BASE, "algorithm": {"import": f"{__name__}:Picky"}})
    text = "algorithm.label: [none, b, c]\nalgorithm.clip: {float: [0.1, 0.9], when: {algorithm.label: %s}}"
    space(text % "[none, c]").check(config)
    sentence = "search.space.algorithm.clip: must be at most 0.5 with the label b"
    assert refusal(space(text % labels).check, config) == sentence


@pytest.mark.parametrize(
    ("text", "settings", "sentence"),
    [
        *(
            (
                text,
                {"sampler": sampler, "trials": 3},
                f"search.sampler: {sampler} cannot handle {name}, which is not always varied; use tpe",
            )
            for sampler in ("gp", "cmaes", "qmc")
            for text, name in (
                ("p: {int: [1, 2]}\nc: {int: [1, 2], when: {p: 1}}", "c"),
                ("a: {list: {length: {int: [1, 2]}, item: {int: [1, 2]}}}", "a/1"),
            )
        ),
        *(
            (
                text,
                {"sampler": sampler, "trials": 3},
                f"search.sampler: {sampler} cannot handle the choices of {name}; use tpe or gp",
            )
            for sampler in ("cmaes", "qmc")
            for text, name in (("a: [1, 2]", "a"), ("a: {list: {length: 2, item: [1, 2]}}", "a/0"))
        ),
        (
            FLAT,
            {"sampler": "grid"},
            "search.space.a: a grid cannot walk through a log scale; write choices, or use another sampler",
        ),
        *(
            (
                FLAT,
                {"sampler": sampler},
                f"search.trials: say how many trials {sampler} may propose (only grid ends by itself)",
            )
            for sampler in ("random", "tpe", "gp", "cmaes", "qmc")
        ),
        (FLAT, {"trials": 3, "metric": ["x", "x"]}, "search.metric: a metric stands twice; keep one of them"),
        (
            FLAT,
            {"trials": 3, "metric": ["x", "y"], "direction": ["maximize"]},
            "search.direction: write 2 directions, one for each of search.metric",
        ),
        (
            FLAT,
            {"trials": 3, "metric": "x", "direction": ["maximize", "minimize"]},
            "search.direction: write 1 directions, one for each of search.metric",
        ),
        (
            FLAT,
            {"trials": 3, "metric": ["x", "y"], "pruner": "median"},
            "search.pruner: only trials with a single metric can be pruned; write none or one search.metric",
        ),
        (
            FLAT,
            {"trials": 3, "metric": ["x", "y"], "sampler": "cmaes"},
            "search.sampler: cmaes handles a single metric; use tpe or gp, or write one search.metric",
        ),
    ],
)
def test_a_sampler_that_cannot_handle_the_space_is_refused(text: str, settings: dict[str, Any], sentence: str) -> None:
    assert refusal(space(text).check_sampler, search(text, **settings)) == sentence


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({"smapler": "tpe"}, "search.smapler: there is no such key; did you mean 'sampler'?"),
        ({"sampler": "bayes"}, "search.sampler: input should be 'grid', "),
        ({"trials": 0}, "search.trials: input should be greater than or equal to 1, not 0"),
        ({"trials": True}, "search.trials: must be a number, not True"),
        ({"metric": []}, "search.metric: "),
        ({"direction": "up"}, "search.direction: "),
        ({"value": "mean"}, "search.value: input should be 'last' or 'best'"),
        ({"parallel": 0}, "search.parallel: "),
        ({"population": 0}, "search.population: "),
        ({"max_failures": -1}, "search.max_failures: "),
        ({"sampler_options": {"a": [1]}}, "search.sampler_options.a: "),
    ],
)
def test_mistakes_in_the_settings_are_refused(settings: dict[str, Any], start: str) -> None:
    assert refusal(lambda: search(FLAT, **settings)).startswith(start)
    assert refusal(from_tree, {**BASE, "search": {"trials": 3}}) == "search.space: this key is required"
