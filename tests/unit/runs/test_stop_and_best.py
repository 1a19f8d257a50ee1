"""What a run is after: one direction for each metric, from its declaration or the config, never from its name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from cases import case
from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Metric
from rayloom.errors import UserError
from rayloom.launch.search import describe_study
from rayloom.runs.objectives import Objectives, declaration, declared_metrics, read_objectives, study_directions
from rayloom.timeline import ACTIVITIES, as_metrics


class Scores(Algorithm):
    """Declares a loss that is to rise, a score that is to fall, and a measure of neither."""

    sources = frozenset({"dataset"})
    metrics = {  # noqa: RUF012  as a user writes it
        "odd_loss": Metric(better="max"),
        "score": Metric(better="min"),
        "neutral": Metric(),
        "top_*": Metric(better="max"),
    }


def scores(**sections: Any) -> RunConfig:
    """Return a config of that algorithm."""
    algorithm = {"import": f"{__name__}:Scores"}
    tree = {"name": "s", "algorithm": algorithm, "source": {"kind": "dataset", "dataset": "digits"}}
    return from_tree({**tree, "stop": {"updates": 9}, **sections})


def stop(written: float | str, metric: str = "evaluate/score") -> Objectives:
    return read_objectives(scores(stop={"updates": 9, metric: written}))


@pytest.mark.parametrize(
    ("metric", "written", "value", "expected"),
    [
        ("evaluate/score", 0.2, 0.1, "evaluate/score <= 0.2"),
        ("evaluate/score", 0.2, 0.2, "evaluate/score <= 0.2"),
        ("evaluate/score", 0.2, 0.3, None),
        ("evaluate/odd_loss", 2, 3.0, "evaluate/odd_loss >= 2"),  # by its declaration, whatever it is called
        ("evaluate/odd_loss", 2, 1.0, None),
        ("evaluate/neutral", "<= 0.2", 0.1, "evaluate/neutral <= 0.2"),
        ("evaluate/neutral", ">=0.2", 0.1, None),
        ("evaluate/score", ">= 10", 11.0, "evaluate/score >= 10"),  # a guard
        ("evaluate/score", 0.2, math.nan, None),
        ("evaluate/odd_loss", 2, math.nan, None),
    ],
)
def test_a_metric_stops_a_run_in_its_declared_direction_or_in_that_of_the_condition(
    metric: str, written: float | str, value: float, expected: str | None
) -> None:
    found = stop(written, metric)
    assert found.reached({metric: value}) == expected
    assert found.reached({}) is None


@pytest.mark.parametrize(
    ("sections", "best", "mode"),
    [
        ({}, None, "max"),
        ({"stop": {"updates": 9, "evaluate/score": 0.2}}, "evaluate/score", "min"),
        ({"stop": {"updates": 9, "evaluate/score": ">= 10"}}, None, "max"),  # a guard is no goal
        ({"stop": {"updates": 9, "evaluate/score": ">= 10", "evaluate/odd_loss": 2}}, "evaluate/odd_loss", "max"),
        ({"stop": {"updates": 9, "evaluate/neutral": "<= 2"}}, "evaluate/neutral", "min"),
        ({"checkpoint": {"best": "evaluate/score"}}, "evaluate/score", "min"),
        ({"checkpoint": {"best": "evaluate/score", "mode": "min"}}, "evaluate/score", "min"),
        ({"checkpoint": {"best": "train/neutral", "mode": "min"}}, "train/neutral", "min"),
        ({"checkpoint": {"best": "evaluate/top_5"}}, "evaluate/top_5", "max"),
        (
            {"checkpoint": {"best": "evaluate/neutral"}, "stop": {"updates": 9, "evaluate/neutral": "<= 2"}},
            "evaluate/neutral",
            "min",
        ),
    ],
)
def test_the_best_checkpoint_is_chosen_by_the_same_direction(
    sections: Mapping[str, Any], best: str | None, mode: str
) -> None:
    found = read_objectives(scores(**sections))
    assert (found.best, found.mode) == (best, mode)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"stop": {"updates": 9, "evaluate/scor": 1}},
            "stop.evaluate/scor: nothing in this run declares the metric 'evaluate/scor'; did you mean "
            "'evaluate/score'?",
        ),
        (
            {"checkpoint": {"best": "evaluat/odd_loss"}},
            "checkpoint.best: nothing in this run declares the metric 'evaluat/odd_loss'; did you mean "
            "'evaluate/odd_loss'?",
        ),
        (
            {"stop": {"updates": 9, "evaluate/neutral": 0.5}},
            'stop.evaluate/neutral: evaluate/neutral has no direction of its own; write ">= 0.5" or "<= 0.5"',
        ),
        (
            {"checkpoint": {"best": "evaluate/neutral"}},
            "checkpoint.mode: evaluate/neutral has no direction of its own; say here in which one it improves",
        ),
        (
            {"checkpoint": {"best": "evaluate/score", "mode": "max"}},
            "checkpoint.mode: evaluate/score improves towards its min by its declaration; remove checkpoint.mode",
        ),
        (
            {
                "checkpoint": {"best": "evaluate/neutral", "mode": "max"},
                "stop": {"updates": 9, "evaluate/neutral": "<= 1"},
            },
            "checkpoint.mode: evaluate/neutral improves towards its min by stop.evaluate/neutral; remove "
            "checkpoint.mode",
        ),
    ],
)
def test_what_nobody_declares_and_what_contradicts_itself_is_refused(
    sections: Mapping[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_objectives(scores(**sections))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("written", ["0.2", "< 0.2", "<= x", "<= nan", ">= inf", "<="])
def test_a_condition_that_cannot_be_read_is_refused_when_the_config_is_loaded(written: str) -> None:
    with pytest.raises(UserError, match=r"stop\.evaluate/score: write a number, or a comparison as '<= 0\.2'"):
        scores(stop={"updates": 9, "evaluate/score": written})


def test_the_metrics_of_several_phases_begin_with_their_names() -> None:
    known = declared_metrics(case("wgan_gp"), ("critic", "generator"))
    assert declaration(known, "train/critic_wasserstein", "k").better is None
    assert declaration(known, "train/generator_loss", "k").better == "min"
    with pytest.raises(UserError, match="did you mean 'train/critic_slope'"):
        declaration(known, "train/critc_slope", "k")
    before = declared_metrics(case("wgan_gp"))  # the phases are not known yet
    assert declaration(before, "train/critc_slope", "k").better is None


def test_a_phase_alone_gives_its_metrics_no_name() -> None:
    known = declared_metrics(case("ppo"), ("policy_and_value",))
    assert declaration(known, "train/entropy", "k").better is None
    with pytest.raises(UserError, match="declares"):
        declaration(known, "train/policy_and_value_entropy", "k")


def test_a_study_goes_by_the_same_directions() -> None:
    config = scores()
    metrics = ("evaluate/score", "evaluate/odd_loss")
    assert study_directions(config, metrics, None) == ("minimize", "maximize")
    assert study_directions(config, ("evaluate/neutral",), ("minimize",)) == ("minimize",)
    assert study_directions(scores(stop={"updates": 9, "evaluate/neutral": "<= 1"}), ("evaluate/neutral",), None) == (
        "minimize",
    )
    with pytest.raises(UserError, match=r"search\.direction: evaluate/score improves towards its min"):
        study_directions(config, metrics, ("maximize", "maximize"))
    with pytest.raises(UserError, match=r"search\.direction: evaluate/neutral has no direction"):
        study_directions(config, ("evaluate/neutral",), None)


def test_a_study_of_a_misspelt_metric_is_refused_before_its_first_trial() -> None:
    search = {"space": {"seed": [1, 2]}, "sampler": "grid", "metric": "evaluate/acuracy"}
    with pytest.raises(UserError, match=r"search\.metric: .* did you mean 'evaluate/accuracy'"):
        describe_study(case("softmax_regression", search=search), local=True)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_nan_is_never_the_best_and_blocks_nothing(mode: Any) -> None:
    objectives = Objectives((), "evaluate/score", mode)
    better, worse = (2.0, 1.0) if mode == "max" else (1.0, 2.0)
    assert not objectives.improves(math.nan, None)
    assert objectives.improves(worse, None)
    assert not objectives.improves(math.nan, worse)
    assert objectives.improves(better, worse) and not objectives.improves(worse, better)
    assert objectives.improves(worse, math.nan)
    assert not objectives.improves(None, None)


def test_patience_needs_to_know_what_is_to_become_better() -> None:
    with pytest.raises(UserError, match=r"stop\.patience: say in checkpoint\.best which metric"):
        read_objectives(scores(stop={"updates": 9, "patience": 3}))
    found = read_objectives(scores(stop={"updates": 9, "patience": 3}, checkpoint={"best": "evaluate/score"}))
    assert found.lost_patience(2) is None
    assert found.lost_patience(3) == "patience 3: evaluate/score was no better in 3 evaluations"
    assert read_objectives(scores()).lost_patience(10**6) is None


@pytest.mark.parametrize(
    ("value", "message"), [(0, "must be at least 1"), (1.5, "whole number"), ("x", "is not a number")]
)
def test_patience_is_a_whole_number(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"stop\.patience: .*{message}"):
        scores(stop={"updates": 9, "patience": value}, checkpoint={"best": "evaluate/score"})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("time/lernng", "time/"),
        ("time/learner_lern_percent", "time/learner_learn_percent"),
        ("faults/rollout_restart", "faults/rollout_restarts"),
        ("faults/struck_leaner", "faults/struck_learner"),
        ("throughput/updates", "throughput/updates_per_s"),
    ],
)
def test_a_misspelt_metric_of_the_engine_is_refused_too(wrong: str, meant: str) -> None:
    for refused in (lambda: stop("<= 3", wrong), lambda: read_objectives(best(wrong))):
        with pytest.raises(UserError, match=f"declares the metric '{wrong}'.*{meant}"):
            refused()


def best(metric: str) -> RunConfig:
    return scores(checkpoint={"best": metric, "mode": "max"})


def test_an_empty_name_is_no_metric() -> None:
    with pytest.raises(UserError, match=r"^checkpoint\.best: nothing in this run declares the metric ''"):
        read_objectives(best(""))


def test_every_time_that_a_timeline_has_is_declared() -> None:
    known = declared_metrics(scores())
    for role, activities in ACTIVITIES.items():
        for name in as_metrics(role, dict.fromkeys(activities, 1.0)):
            assert name in known
