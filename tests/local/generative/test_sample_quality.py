"""A run judged in the features of a classifier that another run has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rayloom
from cases import case
from rayloom.config.load import from_tree
from rayloom.errors import UserError
from rayloom.runs.observer import Result

QUALITY = "evaluate.import=rayloom_generative.evaluation.sample_quality:SampleQuality"
NETWORK = {"kind": "mlp", "hidden_sizes": [24, 12]}
SECOND = {"kind": "cnn", "channels": [4], "hidden_sizes": [12]}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judged")


@pytest.fixture(scope="module")
def classifier(output: Path) -> Result:
    config = case("softmax_regression", str(output), algorithm={"network": NETWORK}, stop={"updates": 60})
    return rayloom.run(config, local=True)


def judged(output: Path, run: str | None, **judge: Any) -> Any:
    tree = case("conditional_gan", str(output), stop={"updates": 6}).to_tree()
    tree["algorithm"]["judge"] = {"network": NETWORK, **judge}
    return from_tree({**tree, "inputs": {"judge": run} if run else {}})


@pytest.fixture(scope="module")
def model(output: Path, classifier: Result) -> Result:
    return rayloom.run(judged(output, classifier.run_dir.name), local=True)


def test_the_judge_is_the_classifier(output: Path, classifier: Result, model: Result) -> None:
    theirs = rayloom.load(classifier.run_dir.name, output=str(output))
    judge: Any = rayloom.load(model.run_dir.name, output=str(output)).algorithm.judge
    images = theirs._built.dataset.test.columns["image"]  # type: ignore[union-attr]
    network: Any = theirs.algorithm.network
    features = judge(images / 255)
    assert features.shape == (300, 12)
    torch.testing.assert_close(network.layers[-1](features), theirs.predict(images), rtol=1e-5, atol=1e-5)


def test_samples_lie_between_floor_and_ceiling_and_repeat_themselves(output: Path, model: Result) -> None:
    first = rayloom.evaluate(model.run_dir.name, QUALITY, output=str(output)).metrics
    assert rayloom.evaluate(model.run_dir.name, QUALITY, output=str(output)).metrics == first
    name = next(key for key in first if key.startswith("evaluate/frechet_") and key.count("_") == 1)
    judge = name.partition("_")[2]
    assert len(judge) == 8 and all(judge in key for key in first) and len(first) == 10
    # After six updates samples are little better than noise.
    assert 0 <= first[f"{name}_floor"] < first[name]
    assert first[f"{name}_floor"] < 0.3 * first[f"{name}_ceiling"]
    assert first[f"evaluate/kernel_{judge}_floor"] < first[f"evaluate/kernel_{judge}"]
    assert first[f"evaluate/recall_{judge}"] < 0.5
    # And noise is read as few of the ten digits.
    assert first[f"evaluate/classes_{judge}"] < 0.8 and first[f"evaluate/classes_{judge}_divergence"] > 0.3


def test_the_nearest_training_images_are_shown(output: Path, model: Result) -> None:
    found = rayloom.load(model.run_dir.name, output=str(output)).evaluate(QUALITY)
    picture = found.figures["nearest_training_images"]
    assert picture.data is not None and picture.data.shape == (64, 1, 8, 8)


def test_another_judge_has_another_name(output: Path, model: Result) -> None:
    tree = case("softmax_regression", str(output), algorithm={"network": NETWORK}, stop={"updates": 6}).to_tree()
    other = rayloom.run(from_tree({**tree, "seed": 5}), local=True)
    second = rayloom.run(judged(output, other.run_dir.name), local=True)
    names = [set(rayloom.evaluate(each.run_dir.name, QUALITY, output=str(output)).metrics) for each in (model, second)]
    assert not names[0] & names[1]


def test_a_vae_has_two_judges_of_which_each_gives_all_numbers(output: Path, classifier: Result, model: Result) -> None:
    linear = case("softmax_regression", str(output), algorithm={"network": SECOND}, stop={"updates": 60})
    second = rayloom.run(linear, local=True)
    tree = case("vae", str(output), stop={"updates": 6}).to_tree()
    tree["algorithm"] |= {"judge": {"network": NETWORK}, "second_judge": {"network": SECOND}}
    tree["inputs"] = {"judge": classifier.run_dir.name, "second_judge": second.run_dir.name}
    run = rayloom.run(from_tree(tree), local=True)
    found = rayloom.load(run.run_dir.name, output=str(output)).evaluate(QUALITY)
    judges = {name.split("_")[1] for name in found.metrics}
    assert len(judges) == 2 and len(found.metrics) == 20
    theirs = rayloom.evaluate(model.run_dir.name, QUALITY, output=str(output)).metrics
    floors = {name: value for name, value in theirs.items() if name.endswith("_floor")}
    # The floor is the data's and the judge's, whoever the model is.
    assert {name: found.metrics[name] for name in floors} == floors
    table = found.figures["sample_quality"]
    assert [label.split()[0] for label in table.labels] == ["mlp", "cnn"]
    assert table.data is not None and table.data.shape == (2, 10)


def test_a_run_may_be_judged_while_it_trains(output: Path, classifier: Result) -> None:
    tree = judged(output, classifier.run_dir.name).to_tree()
    path = QUALITY.partition("=")[2]
    config = from_tree({**tree, "evaluate": {"import": path, "every": "3 updates", "samples": 100}})
    metrics = rayloom.run(config, local=True).metrics
    assert sum(name.startswith("evaluate/frechet_") for name in metrics) == 3


@pytest.mark.parametrize(
    ("judge", "run", "sentence"),
    [
        ({}, False, r"inputs\.judge: the judge has no weights; name the run of the classifier there"),
        ({"network": {**NETWORK, "hidden_sizes": [5]}}, True, r"inputs\.judge: run \S+ has another network than"),
        ({"sha256": "00000000"}, True, r"algorithm\.judge\.sha256: run \S+ has the weights \w{8} and not '00000000'"),
        ({"network": {"kind": "softmax_regression"}}, True, r"algorithm\.judge\.network: it needs a hidden layer"),
    ],
)
def test_mistakes_are_one_sentence(
    output: Path, classifier: Result, judge: dict[str, Any], run: bool, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        rayloom.run(judged(output, classifier.run_dir.name if run else None, **judge), local=True)


def test_a_model_without_a_judge_is_told_to_have_one(output: Path) -> None:
    plain = rayloom.run(case("conditional_gan", str(output), stop={"updates": 3}), local=True)
    with pytest.raises(UserError, match=r"SampleQuality needs a judge, and this ConditionalGAN has none"):
        rayloom.evaluate(plain.run_dir.name, QUALITY, output=str(output))
    points = rayloom.run(case("wgan", str(output), stop={"updates": 3}), local=True)
    with pytest.raises(UserError, match=r"SampleQuality judges images, and this run's data have none"):
        rayloom.evaluate(points.run_dir.name, QUALITY, output=str(output))
    tree = case("wgan", str(output)).to_tree()
    with pytest.raises(UserError, match=r"inputs\.judge: WGAN takes the input judge, with algorithm\.judge"):
        rayloom.run(from_tree({**tree, "inputs": {"judge": plain.run_dir.name}}), local=True)
