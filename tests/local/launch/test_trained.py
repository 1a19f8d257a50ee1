"""What a run has learnt, in Python: the best weights first, said which; acting, predicting, sampling, history."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rayloom
from cases import case
from rayloom.errors import UserError
from rayloom.launch.export import load_inference
from rayloom.runs.learner_role import load_run_dataset
from rayloom.runs.objectives import Objectives
from rayloom.runs.observer import Result
from rayloom.tracking.journal import read_metrics


def best_in_the_middle(tmp_path: Path, **sections: Any) -> Result:
    """Train a classifier that is taken for better the worse it is, so that its best checkpoint is not its last."""
    checkpoint = {"best": "evaluate/error", "every": "10 updates", "keep": 2}
    config = case(
        "softmax_regression",
        str(tmp_path),
        checkpoint=checkpoint,
        evaluate={"every": "10 updates"},
        stop={"updates": 40, "epochs": 99},
        **sections,
    )
    return rayloom.run(config, local=True)


@pytest.fixture
def worst_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayloom.runs.loop.read_objectives", lambda *_: Objectives((), "evaluate/error", "max"))
    monkeypatch.setattr("rayloom.runs.weights.read_objectives", lambda *_: Objectives((), "evaluate/error", "max"))


def errors(result: Result) -> dict[int, float]:
    """Return the error of each evaluation by its step."""
    return {step: value for step, name, value in read_metrics(result.run_dir) if name == "evaluate/error"}


@pytest.mark.usefixtures("worst_first")
def test_the_best_weights_are_used_where_there_are_some_and_said_to_be(tmp_path: Path) -> None:
    result = best_in_the_middle(tmp_path)
    found = errors(result)
    worst = max(found, key=lambda step: (found[step], -step))
    assert worst == 10 and found[worst] > found[40]
    run, output = result.run_dir.name, str(tmp_path)
    for weights, step, which in ((None, 10, "best"), ("best", 10, "best"), ("last", 40, "last"), (30, 30, "step")):
        evaluated = rayloom.evaluate(run, weights=weights, output=output)
        assert (evaluated.weights.which, evaluated.weights.step) == (which, step)
        assert evaluated.metrics["evaluate/error"] == found[step]
    assert str(rayloom.load(run, output=output).weights) == "best weights by evaluate/error (update 10)"
    assert str(rayloom.load(run, weights=30, output=output).weights) == "weights (update 30)"
    logged = load_inference(result.run_dir)
    assert logged is not None and "best weights by evaluate/error (update 10)" in logged[2]


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    result = rayloom.run(case("softmax_regression", str(tmp_path)), local=True)
    run, output = result.run_dir.name, str(tmp_path)
    assert rayloom.load(run, output=output).weights.which == "last"
    with pytest.raises(UserError, match=r"kept no best checkpoint: its config names no metric \(checkpoint\.best\)"):
        rayloom.load(run, weights="best", output=output)
    with pytest.raises(UserError, match=r"has no checkpoint of update 7; there are \d+"):
        rayloom.load(run, weights=7, output=output)
    with pytest.raises(UserError, match="there is no run 'nothing'"):
        rayloom.load("nothing", output=output)


def test_a_classifier_predicts_what_it_is_judged_by(tmp_path: Path) -> None:
    result = rayloom.run(case("softmax_regression", str(tmp_path)), local=True)
    trained = rayloom.load(result.run_dir.name, output=str(tmp_path))
    assert not trained.algorithm.training and trained.config.name == "softmax_regression"
    data = load_run_dataset(trained.config)
    assert data is not None
    images, labels = data.validation["image"], data.validation["label"]
    logits = trained.predict(images.numpy())
    accuracy = float((logits.argmax(dim=1) == labels).double().mean())
    assert accuracy == pytest.approx(result.metrics["evaluate/accuracy"], abs=1e-9)
    assert torch.equal(trained.predict({"image": images, "label": labels}), logits)
    with pytest.raises(UserError, match="is not a generative model"):
        trained.sample(3)


def test_history_is_a_table_of_steps_and_metrics(tmp_path: Path) -> None:
    result = rayloom.run(case("softmax_regression", str(tmp_path)), local=True)
    table = rayloom.load(result.run_dir.name, output=str(tmp_path)).history()
    by_metric: dict[str, dict[int, float]] = defaultdict(dict)
    for step, name, value in read_metrics(result.run_dir):
        by_metric[name][step] = value
    assert set(table.columns) == set(by_metric)
    for name, points in by_metric.items():
        assert table[name].dropna().to_dict() == points
    assert list(table.index) == sorted(table.index)


def test_an_agent_acts_as_in_its_evaluation(tmp_path: Path) -> None:
    import gymnasium

    result = rayloom.run(case("ppo", str(tmp_path)), local=True)
    trained = rayloom.load(result.run_dir.name, output=str(tmp_path))
    environment = gymnasium.make("CartPole-v1")
    observation, _ = environment.reset(seed=3)
    total, ended = 0.0, False
    while not ended:
        (action,) = trained.act(observation[None])
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, ended = total + float(reward), terminated or truncated
    assert total >= 8
    with torch.no_grad():
        many = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        greedy = trained.algorithm.act(torch.from_numpy(many), None, None).action.numpy()
    assert np.array_equal(trained.act(many), greedy) and len(set(greedy.tolist())) == 2


def test_samples_repeat_themselves_and_take_no_unknown_option(tmp_path: Path) -> None:
    result = rayloom.run(case("vae", str(tmp_path)), local=True)
    trained = rayloom.load(result.run_dir.name, output=str(tmp_path))
    first = trained.sample(5)
    assert first.data.shape[0] == 5
    assert torch.equal(trained.sample(5).data, first.data)
    assert not torch.equal(trained.sample(5, seed=1).data, first.data)
    with pytest.raises(UserError, match="sample: VAE has no option 'steps'"):
        trained.sample(5, steps=3)


def test_an_exported_model_computes_what_the_module_does(tmp_path: Path) -> None:
    result = rayloom.run(case("lenet5", str(tmp_path), stop={"epochs": 1}), local=True)
    run, output = result.run_dir.name, str(tmp_path)
    written = rayloom.export(run, output=output, destination=tmp_path / "made" / "model.pt2")
    assert written.weights.which == "last"
    files = {"labels.json": ""}
    program = torch.export.load(written.path, extra_files=files).module()
    trained = rayloom.load(run, output=output)
    assert json.loads(files["labels.json"]) == {"label": [str(digit) for digit in range(10)]}
    field = trained.spec["image"]
    images = torch.randint(0, 16, (7, *field.shape)).to(field.dtype)
    torch.testing.assert_close(program(images), trained.predict(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"must end in \.pt2 or \.onnx"):
        rayloom.export(run, output=output, destination=tmp_path / "model.bin")


@pytest.mark.parametrize(("name", "outputs"), [("lenet5", 1), ("ppo_continuous", 1), ("alphazero", 2)])
def test_an_onnx_model_takes_raw_inputs_in_batches_of_any_size(name: str, outputs: int, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    result = rayloom.run(case(name, str(tmp_path), stop={"updates": 2}), local=True)
    run, output = result.run_dir.name, str(tmp_path)
    written = rayloom.export(run, output=output, destination=tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(written.path.read_bytes())
    trained = rayloom.load(run, output=output)
    field = trained.spec[trained.algorithm.inference_input()]
    inputs = (torch.rand(7, *field.shape) * 255).to(field.dtype)
    module = trained.algorithm.inference_module()
    assert module is not None
    with torch.no_grad():
        expected = module(inputs)
    found = session.run(None, {"input": inputs.numpy()})
    assert len(found) == outputs
    for mine, theirs in zip(expected if outputs > 1 else (expected,), found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), mine, rtol=1e-3, atol=1e-4)
    if name == "lenet5":
        labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
        assert labels == {"label": [str(digit) for digit in range(10)]}


def test_an_onnx_model_needs_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = rayloom.run(case("softmax_regression", str(tmp_path), stop={"updates": 2}), local=True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'rayloom\[onnx\]'"):
        rayloom.export(result.run_dir.name, output=str(tmp_path), destination=tmp_path / "model.onnx")


def test_loading_imports_no_ray_and_no_mlflow(tmp_path: Path) -> None:
    result = rayloom.run(case("softmax_regression", str(tmp_path), stop={"epochs": 1}), local=True)
    code = (
        "import sys, rayloom\n"
        f"trained = rayloom.load({result.run_dir.name!r}, output={str(tmp_path)!r})\n"
        "trained.evaluate()\n"
        "print(sorted({'ray', 'mlflow', 'optuna', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_no_public_name_is_a_submodule_too() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(rayloom.__path__)}
    assert set(rayloom.__all__).isdisjoint(submodules)
    assert {"run", "load", "evaluate", "sample", "export"} <= set(rayloom.__all__)
