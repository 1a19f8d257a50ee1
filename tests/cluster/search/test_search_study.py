"""Studies from config to result: what is searched is what is run, and what is best can be run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rayloom
from cases import TREES
from rayloom.cli.main import main
from rayloom.config.load import from_tree, load
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.runs.folders import load_run_config, read_result
from rayloom.search.observer import StudyObserver, StudyResult, TrialView
from rayloom.tracking.journal import read_metrics

RATE = "learner.optimizer.learning_rate"


def study(output: Path, search: dict[str, Any], name: str = "softmax_regression", **sections: Any) -> RunConfig:
    """Return the config of a small study."""
    base = TREES[name]
    tree = {**base, **{key: {**base.get(key, {}), **values} for key, values in sections.items()}}
    return from_tree(
        {
            "name": "small",
            "output": str(output),
            **tree,
            "tracking": {"enabled": False},
            "search": {"metric": "evaluate/accuracy", **search},
        }
    )


class Recorder(StudyObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.views: list[TrialView] = []
        self.notes: list[str] = []
        self.result: StudyResult | None = None

    def trial(self, view: TrialView) -> None:
        self.views.append(view)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, result: StudyResult) -> None:
        self.result = result

    def ended(self) -> list[TrialView]:
        return sorted((view for view in self.views if view.state != "RUNNING"), key=lambda view: view.number)


def facts(recorder: Recorder) -> list[tuple[Any, ...]]:
    """Return what must not depend on where and when a study ran."""
    return [(v.number, v.state, v.values, sorted(v.parameters.items(), key=str)) for v in recorder.ended()]


SMALL_TPE = {
    "sampler": "tpe",
    "sampler_options": {"n_startup_trials": 3},
    "pruner": "hyperband",
    "trials": 8,
    "space": {
        RATE: {"log": [1e-4, 1e-1]},
        "learner.optimizer.kind": ["adam", "sgd"],
        "learner.optimizer.momentum": {"float": [0.0, 0.9], "when": {"learner.optimizer.kind": "sgd"}},
        "algorithm.label_smoothing": {"float": [0.0, 0.2], "step": 0.05},
    },
}


def test_the_best_trial_runs_again_to_the_same_weights(tmp_path: Path) -> None:
    recorder = Recorder()
    result = rayloom.run_study(study(tmp_path, SMALL_TPE), local=True, observer=recorder)
    assert result == recorder.result
    assert result.status == "FINISHED" and sum(result.counts.values()) == 8
    complete = [view for view in recorder.ended() if view.state == "COMPLETE"]
    best = max(complete, key=lambda view: view.values or ())
    assert result.best_values == best.values
    assert result.best_config is not None
    again = rayloom.run(str(result.best_config), "tracking.enabled=false", local=True)
    trial = read_result(result.study_dir / "trials" / f"{result.best_number:04d}")
    assert trial is not None
    assert again.weights_sha256 == trial["weights_sha256"]
    assert (again.metrics["evaluate/accuracy"],) == result.best_values
    assert load(str(result.best_config)).search is None


def test_every_trial_is_a_whole_run_with_its_own_values(tmp_path: Path) -> None:
    recorder = Recorder()
    result = rayloom.run_study(study(tmp_path, SMALL_TPE), local=True, observer=recorder)
    for view in recorder.ended():
        folder = result.study_dir / "trials" / f"{view.number:04d}"
        config = load_run_config(folder)
        assert config.learner.optimizer.settings.learning_rate == view.parameters[RATE]
        assert config.learner.optimizer.kind == view.parameters["learner.optimizer.kind"]
        assert ("learner.optimizer.momentum" in view.parameters) == (config.learner.optimizer.kind == "sgd")
        evaluations = [value for _, key, value in read_metrics(folder) if key == "evaluate/accuracy"]
        assert view.values == (evaluations[-1],)
        assert len(evaluations) == 3 or view.state == "PRUNED"


def test_a_study_is_the_same_twice_and_another_seed_is_another_study(tmp_path: Path) -> None:
    recorders = [Recorder(), Recorder(), Recorder()]
    for seed, recorder in zip((0, 0, 1), recorders, strict=True):
        config = study(tmp_path, {**SMALL_TPE, "trials": 5})
        rayloom.run_study(config, f"seed={seed}", local=True, observer=recorder)
    assert facts(recorders[0]) == facts(recorders[1])
    assert facts(recorders[0]) != facts(recorders[2])


@pytest.mark.xdist_group("ray")
def test_one_slot_on_ray_gives_the_same_study_as_one_process(tmp_path: Path) -> None:
    here, there = Recorder(), Recorder()
    config = study(tmp_path, {**SMALL_TPE, "trials": 6, "parallel": 1})
    rayloom.run_study(config, local=True, observer=here)
    rayloom.run_study(config, observer=there)
    assert facts(here) == facts(there)


@pytest.mark.xdist_group("ray")
def test_trials_with_rollout_actors_run_in_their_own_placement_group(tmp_path: Path) -> None:
    search = {
        "sampler": "random",
        "trials": 2,
        "metric": "evaluate/return_mean",
        "space": {RATE: {"log": [1e-4, 1e-2]}},
    }
    config = study(tmp_path, search, "ppo", source={"rollout_workers": 1}, stop={"env_steps": 512})
    here, there = Recorder(), Recorder()
    rayloom.run_study(config, local=True, observer=here)
    rayloom.run_study(config, observer=there)
    assert facts(here) == facts(there)


def test_transformed_parameters_are_recorded_as_the_config_has_them(tmp_path: Path) -> None:
    space = {"algorithm.gamma": {"log": [1e-3, 0.1], "transform": "one_minus"}}
    search = {"sampler": "random", "trials": 2, "metric": "evaluate/return_mean", "space": space}
    recorder = Recorder()
    result = rayloom.run_study(study(tmp_path, search, "ppo", stop={"env_steps": 256}), local=True, observer=recorder)
    for view in recorder.ended():
        gamma: Any = load_run_config(result.study_dir / "trials" / f"{view.number:04d}").algorithm
        assert 0.9 <= gamma.gamma <= 0.999
        assert view.parameters["algorithm.gamma"] == gamma.gamma


def test_several_metrics_give_a_pareto_front(tmp_path: Path) -> None:
    metrics = ["evaluate/accuracy", "evaluate/loss"]
    search = {"sampler": "random", "trials": 6, "metric": metrics, "space": {RATE: {"log": [1e-4, 1.0]}}}
    recorder = Recorder()
    result = rayloom.run_study(study(tmp_path, search), local=True, observer=recorder)
    assert result.directions == ("maximize", "minimize")
    points = {view.number: view.values for view in recorder.ended() if view.values}
    front = {
        number
        for number, (accuracy, loss) in points.items()
        if not any(a >= accuracy and b <= loss and (a, b) != (accuracy, loss) for a, b in points.values())
    }
    assert set(result.pareto) == front
    assert result.best_number in front


def test_the_best_evaluation_counts_when_it_is_asked_for(tmp_path: Path) -> None:
    search = {"sampler": "random", "trials": 4, "value": "best", "space": {RATE: {"log": [0.3, 3.0]}}}
    recorder = Recorder()
    result = rayloom.run_study(study(tmp_path, search), local=True, observer=recorder)
    differs = False
    for view in recorder.ended():
        folder = result.study_dir / "trials" / f"{view.number:04d}"
        accuracies = [value for _, key, value in read_metrics(folder) if key == "evaluate/accuracy"]
        assert view.values == (max(accuracies),)
        differs |= max(accuracies) != accuracies[-1]
    assert differs, "no trial fell at its end: the test shows nothing"


def test_a_population_finds_what_sequential_trials_find(tmp_path: Path) -> None:
    space = {RATE: {"log": [1e-4, 1e-1]}, "algorithm.l2": {"float": [0.0, 0.01]}, "seed": {"int": [0, 9]}}
    recorders = [Recorder(), Recorder()]
    for population, recorder in zip((1, 3), recorders, strict=True):
        search = {"sampler": "random", "trials": 6, "population": population, "space": space}
        config = study(tmp_path, {**search, "metric": "evaluate/loss"})
        rayloom.run_study(config, local=True, observer=recorder)
    alone, together = (recorder.ended() for recorder in recorders)
    assert [view.parameters for view in alone] == [view.parameters for view in together]
    for one, other in zip(alone, together, strict=True):
        assert one.values is not None and other.values is not None
        assert other.values[0] == pytest.approx(one.values[0], rel=1e-4)


def test_pruning_saves_half_of_the_updates_at_an_equal_best_value(tmp_path: Path) -> None:
    space = {RATE: {"log": [1e-5, 1.0]}, "learner.optimizer.momentum": {"float": [0.0, 0.95]}}
    spent, best = {}, {}
    for pruner, options in (("none", {}), ("successive_halving", {"reduction_factor": 3})):
        search = {"sampler": "random", "pruner": pruner, "pruner_options": options, "trials": 27, "space": space}
        config = study(tmp_path, search, learner={"optimizer": {"kind": "sgd"}}, stop={"epochs": 9})
        recorder = Recorder()
        result = rayloom.run_study(config, local=True, observer=recorder)
        assert result.best_values is not None
        best[pruner] = result.best_values[0]
        spent[pruner] = sum(
            max(step for step, _, _ in read_metrics(folder)) for folder in (result.study_dir / "trials").iterdir()
        )
    assert spent["successive_halving"] <= 0.5 * spent["none"], (spent, best)
    assert best["successive_halving"] >= best["none"] - 0.005, (spent, best)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"space": {"learner.optimizer.learning_rat": {"log": [1e-4, 1e-1]}}}, "learning_rat"),
    ({"space": {RATE: {"log": [1e-1, 1e-4]}}}, RATE),
    ({"space": {RATE: {"log": [0.0, 1e-1]}}}, RATE),
    ({"space": {RATE: {"log": [-1.0, 1e-1]}}}, RATE),
    ({"space": {}}, "search.space"),
    ({"space": {"output": ["a", "b"]}}, "output"),
    ({"space": {"learner.batch_size": [64, "many"]}}, "learner.batch_size"),
    ({"sampler": "grid", "space": {RATE: {"log": [1e-4, 1e-1]}}}, "search.space"),
    ({"sampler": "gp", "space": {"learner.optimizer.kind": ["adam", "sgd"],
      "learner.optimizer.momentum": {"float": [0, 1], "when": {"learner.optimizer.kind": "sgd"}}}}, "search.sampler"),
    ({"sampler": "cmaes", "space": {"learner.optimizer.kind": ["adam", "sgd"]}}, "search.sampler"),
    ({"trials": None}, "search.trials"),
    ({"pruner": "median", "metric": ["evaluate/loss", "evaluate/accuracy"]}, "search.pruner"),
    ({"sampler_options": {"n_startup": 3}}, "n_startup_trials"),
    ({"pruner": "median", "pruner_options": {"n_warmup": 3}}, "n_warmup_steps"),
    ({"direction": ["minimize", "maximize"]}, "search.direction"),
    ({"value": "best", "metric": ["evaluate/loss", "evaluate/accuracy"]}, "search.value"),
    ({"storage": "nosuch://host/database"}, "search.storage"),
    ({"metric": "evaluate/acuracy"}, "evaluate/accuracy"),
]  # fmt: skip


@pytest.mark.parametrize(("search", "word"), REFUSALS)
def test_a_mistake_ends_with_one_sentence(
    search: dict[str, Any], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = study(tmp_path, {"trials": 3, "space": {RATE: {"log": [1e-4, 1e-1]}}}).to_tree()
    tree["search"] = {"trials": 3, "metric": "evaluate/accuracy", "space": {RATE: {"log": [1e-4, 1e-1]}}, **search}
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(tree))
    assert main(["search", str(path), "--local"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("rayloom: ") and "\n" not in error
    assert word in error


def test_a_pruner_needs_evaluations(tmp_path: Path) -> None:
    config = study(tmp_path, {**SMALL_TPE}, evaluate={"every": None})
    with pytest.raises(UserError, match=r"evaluate\.every"):
        rayloom.run_study(config, local=True)
    assert not list(tmp_path.iterdir()), "nothing is left of a study that was refused"


def test_a_config_without_a_search_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "softmax_regression_digits", "--local"]) == 2
    assert "search: the config needs" in capsys.readouterr().err
    assert main(["search"]) == 2
    assert "name a config" in capsys.readouterr().err


@pytest.mark.xdist_group("ray")
def test_more_trials_at_once_than_fit_are_refused_without_a_wait(tmp_path: Path) -> None:
    config = study(tmp_path, {**SMALL_TPE, "sampler": "random", "sampler_options": {}, "parallel": 8})
    with pytest.raises(UserError, match=r"search\.parallel: each trial needs 1 CPUs"):
        rayloom.run_study(config)
