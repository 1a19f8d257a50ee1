"""What people do between runs answers at once: help, lists, explanations and the refusal of a wrong config."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rayloom import datasets
from rayloom.cli import main as cli
from rayloom.cli.explain import explain
from rayloom.components import Kinds
from rayloom.config.evaluations import EVALUATIONS
from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schema import LearnerConfig
from rayloom.config.sources import WRAPPERS
from rayloom.errors import UserError

HEAVY = ("torch", "numpy", "ray", "mlflow", "optuna", "gymnasium", "matplotlib")
BUDGET_S = 0.5
PATIENCE = 3.0
"""Other tests share the processor's caches."""


def light(*words: str, cwd: Path) -> tuple[int, str, str, float]:
    """Run one command; return code, output, errors and seconds of CPU. It must not import anything heavy."""
    code = (
        "import sys\nfrom rayloom.cli.main import main\n"
        "try: ended = main(sys.argv[1:])\nexcept SystemExit as end: ended = end.code\n"
        f"found = sorted({set(HEAVY)!r} & set(sys.modules))\n"
        "assert not found, f'imported {found}'\nraise SystemExit(ended)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "imported" not in done.stderr, done.stderr
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stdout, done.stderr, spent


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("--help", 0, "explain"),
        ("list", 0, "ppo_cartpole"),
        ("list optimizer", 0, "adadelta"),
        ("list network", 0, "lenet5"),
        ("list optimiser", 2, "there is no kind 'optimiser' to list; did you mean 'optimizer'?"),
        ("explain optimizer.adam", 0, "betas: [float >= 0 and < 1, float >= 0 and < 1], default [0.9, 0.999]"),
        ("explain source.replay", 0, "capacity: int >= 1, default 100000"),
        ("explain learner.batch_size", 0, "int >= 1, default 128"),
        ("explain learner.batchsize", 2, "there is no 'learner.batchsize'; did you mean 'learner.batch_size'?"),
        ("run ppo_cartpole learner.batchsize=3", 2, "learner.batchsize: there is no such key"),
        ("run ppo_cartpole learner.optimizer.momentum=1", 2, "learner.optimizer.momentum: adam has no such setting"),
        ("run ppo_cartpole source.kind=on-policy", 2, "did you mean 'on_policy'?"),
        ("run ppo_cartpol", 2, "did you mean 'ppo_cartpole'?"),
        ("run ppo_cartpole stop.update=3", 2, "did you mean 'updates'?"),
        ("show ppo_cartpole seed=-1", 2, "seed: input should be greater than or equal to 0"),
        ("search tpe_ppo_cartpole search.sampler=x", 2, "search.sampler: input should be"),
        ("submit ppo_cartpole evaluate.every=soon", 2, "evaluate.every: write a positive number"),
    ],
)
def test_answers_come_without_anything_heavy_and_at_once(tmp_path: Path, line: str, code: int, told: str) -> None:
    ended, out, err, spent = light(*line.split(), cwd=tmp_path)
    assert (ended, told in (err if code else out)) == (code, True), out + err
    assert len(err.splitlines()) == (1 if code else 0)
    assert spent < BUDGET_S * PATIENCE, f"{spent:.2f} s of CPU"


def test_show_builds_the_networks_without_torchs_compiler(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rayloom.cli.main import main\nassert main(['show', 'ppo_cartpole', '--local']) == 0\n"
        "print(sorted({'torch._dynamo', 'sympy', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("line", ["list", "list schedule", "explain learner.optimizer", "explain source.replay"])
def test_eighty_columns_and_one_json_line(tmp_path: Path, line: str) -> None:
    _, out, _, _ = light(*line.split(), cwd=tmp_path)
    assert max(map(len, out.splitlines())) <= 80
    code, line_of_json, err, _ = light(*line.split(), "--json", cwd=tmp_path)
    assert code == 0 and err == out
    assert line_of_json.count("\n") == 1
    assert json.loads(line_of_json)["status"] == "FINISHED"


def test_every_key_of_the_learner_and_every_optimizer_is_explained() -> None:
    for name in LearnerConfig.__dataclass_fields__:
        assert explain(f"learner.{name}").summary, name
    for kind in OPTIMIZERS.shipped:
        found = explain(f"optimizer.{kind}")
        assert found.summary
        assert set(found.settings) == set(OPTIMIZERS.config(kind).__dataclass_fields__)
        assert all(setting["meaning"] for setting in found.settings.values())
    momentum = explain("learner.optimizer.momentum")
    assert set(momentum.kinds) == {"sgd", "rmsprop"}
    assert set(explain("learner.optimizer").kinds) == set(OPTIMIZERS.shipped)


@pytest.mark.parametrize("kinds", [EVALUATIONS, WRAPPERS], ids=lambda kinds: kinds.of)
def test_every_evaluation_and_wrapper_is_listed_and_explained(kinds: Kinds, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", kinds.of]) == 0
    listed = capsys.readouterr().out
    for kind in kinds.shipped:
        found = explain(f"{kinds.of}.{kind}")
        assert found.summary and found.summary.split()[0] in listed and kind in listed
        assert found.settings and all(setting["meaning"] for setting in found.settings.values())


def test_keys_of_evaluations_are_explained_once_for_those_that_have_them() -> None:
    assert explain("evaluate.every").text().count("Interval, as") == 1
    assert set(explain("evaluate.every").kinds) == {"episodes", "data", "none"}
    assert set(explain("evaluate.split").kinds) == {"data"}
    assert explain("evaluate").summary and set(explain("evaluate").kinds) == set(EVALUATIONS.shipped)
    assert explain("gymnasium.wrappers:TimeLimit").settings["max_episode_steps"]["default"] is None


def test_settings_of_an_import_path_are_those_of_its_config() -> None:
    found = explain("rayloom_supervised.tasks.classification:Classifier")
    assert found.settings["l2"]["type"] == "float >= 0"
    assert found.settings["network"] == {
        "type": "network", "default": "mlp", "meaning": "What maps an image to the logits of the classes.",
    }  # fmt: skip
    assert explain("network.rnn").settings["cell"]["type"] == "rnn, lstm, gru"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("optimizer.adm", "there is no 'optimizer.adm'; did you mean 'optimizer.adam'?"),
        ("learner.optimizer.momentun", "no optimizer has 'momentun'; did you mean 'momentum'?"),
        ("learner.device.x", "learner.device has no settings; explain it alone"),
        ("os:system", "os:system is no component: it has no Config beside it"),
        ("no_such_module:X", "explain: there is no module 'no_such_module'"),
    ],
)
def test_what_cannot_be_explained(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        explain(name)
    assert str(caught.value).startswith(sentence)


def test_the_listed_data_sets_are_those_that_load(tmp_path: Path) -> None:
    code, out, _, _ = light("list", "dataset", "--json", cwd=tmp_path)
    assert code == 0
    assert json.loads(out)["kinds"] == {"dataset": datasets.descriptions()}
    assert explain("dataset.csv").settings["path"]["default"] is None


def test_several_configs_are_given_to_run(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("learner: {optimizer: {kind: sgd, betas: [0, 0]}}\n")
    code, _, err, _ = light("run", "ppo_cartpole", "small.yaml", "seed=1", cwd=tmp_path)
    assert code == 2
    assert err.startswith("rayloom: learner.optimizer.betas: sgd has no such setting")
    assert os.listdir(tmp_path) == ["small.yaml"]
