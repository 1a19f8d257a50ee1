"""The command line: arguments, exit codes and the promise of one JSON line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest

from loopback import free_port
from rayloom.checkpoint.store import Loaded
from rayloom.cli import main as cli
from rayloom.config import load as config
from rayloom.errors import UserError
from rayloom.launch import run as execution
from rayloom.launch import trained as trained_runs
from rayloom.launch.trained import Evaluated, Written
from rayloom.runs.observer import Observer, Report, Result
from rayloom.runs.weights import Weights
from rayloom.signals import Terminated

RESULT = Result(
    run_id="f00d",
    status="FINISHED",
    metrics={"evaluate/accuracy": 0.9, "train/loss": float("nan")},
    counters={"updates": 7},
    weights_sha256="ab" * 32,
    run_dir=Path("/runs/here"),
    tracking_uri="sqlite:////runs/mlflow.db",
    stopped_by="updates",
)


class Engine:
    """Stands in for rayloom.launch and notes how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.failure: BaseException | None = None

    def _train(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Result:
        observer: Observer = options.pop("observer")
        self.calls.append((name, arguments, options))
        observer.started(CONFIG, SimpleNamespace(describe=lambda: "the plan"), RESULT.run_dir)  # type: ignore[arg-type]
        observer.run_id("f00d")
        observer.report(Report({"updates": 7}, dict(RESULT.metrics), 1.0, 2.0))
        if self.failure is not None:
            raise self.failure
        observer.finished(RESULT)
        return RESULT

    def run(self, *arguments: Any, **options: Any) -> Result:
        return self._train("run", arguments, options)

    def resume(self, *arguments: Any, **options: Any) -> Result:
        return self._train("resume", arguments, options)

    def evaluate(self, *arguments: Any, **options: Any) -> Evaluated:
        self.calls.append(("evaluate", arguments, options))
        return Evaluated({"evaluate/accuracy": 0.91}, WEIGHTS)

    def sample(self, run_id: str, *, destination: Path, **options: Any) -> Written:
        self.calls.append(("sample", (run_id, destination), options))
        return Written(destination, WEIGHTS)

    def export(self, run_id: str, *, destination: Path, **options: Any) -> Written:
        self.calls.append(("export", (run_id, destination), options))
        return Written(destination, WEIGHTS)

    def describe(self, *arguments: Any, **options: Any) -> str:
        self.calls.append(("describe", arguments, options))
        return "the description"


CONFIG: Any = SimpleNamespace(
    name="a", algorithm_path="m:A", seed=0, output="rayloom-runs", tracking=SimpleNamespace(enabled=True)
)
PLAIN = {"job": None, "chaos": None}
WEIGHTS = Weights("best", 40, "evaluate/accuracy", Loaded(40, {}, {}, Path("c"), ["another is damaged"]))
OF_RUN = {"weights": None, "output": "rayloom-runs"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Put a stand-in behind the command line."""
    engine = Engine()
    for name in ("run", "resume", "describe"):
        monkeypatch.setattr(execution, name, getattr(engine, name))
    for name in ("evaluate", "sample", "export"):
        monkeypatch.setattr(trained_runs, name, getattr(engine, name))
    # The files of these tests are not there; what a shipped config says is read.
    load = config.load

    def load_shipped(names: Any, words: Any) -> Any:
        return load(names, words) if set([names] if isinstance(names, str) else names) <= shipped else None

    shipped = set(config.shipped_configs())
    monkeypatch.setattr(config, "load", load_shipped)
    return engine


# --- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("run a.yaml", ("run", ("a.yaml",), {"local": False, **PLAIN})),
        ("run a.yaml seed=1 x.y=2 --local", ("run", ("a.yaml", "seed=1", "x.y=2"), {"local": True, **PLAIN})),
        ("run --json a.yaml seed=1", ("run", ("a.yaml", "seed=1"), {"local": False, **PLAIN})),
        ("run a.yaml --json seed=1", ("run", ("a.yaml", "seed=1"), {"local": False, **PLAIN})),
        ("run a.yaml s=1 --local t=2 --json u=3", ("run", ("a.yaml", "s=1", "t=2", "u=3"), {"local": True, **PLAIN})),
        (
            "run a.yaml --job j-1 --chaos rollout=1",
            ("run", ("a.yaml",), {"local": False, "job": "j-1", "chaos": "rollout=1"}),
        ),
        ("run a.yaml x=-1", ("run", ("a.yaml", "x=-1"), {"local": False, **PLAIN})),
        ("resume f00d", ("resume", ("f00d",), {"output": "rayloom-runs"})),
        ("resume f00d --output o --json", ("resume", ("f00d",), {"output": "o"})),
        ("evaluate f00d", ("evaluate", ("f00d",), OF_RUN)),
        (
            "evaluate f00d evaluate.split=test --output o --weights last evaluate.batch_size=3",
            (
                "evaluate",
                ("f00d", "evaluate.split=test", "evaluate.batch_size=3"),
                {"weights": "last", "output": "o"},
            ),
        ),
        ("sample f00d", ("sample", ("f00d", Path("sample-f00d.png")), {**OF_RUN, "count": 64, "options": {}})),
        (
            "sample f00d digit=3 --count 9 --destination a/b.gif --output o --weights 120 noise=1e-3",
            (
                "sample",
                ("f00d", Path("a/b.gif")),
                {"weights": 120, "output": "o", "count": 9, "options": {"digit": 3, "noise": 1e-3}},
            ),
        ),
        ("export f00d", ("export", ("f00d", Path("model-f00d.pt2")), OF_RUN)),
        (
            "export f00d --weights best --destination m.pt2",
            ("export", ("f00d", Path("m.pt2")), {**OF_RUN, "weights": "best"}),
        ),
    ],
)
def test_the_engine_is_called_as_told(engine: Engine, line: str, call: Any) -> None:
    assert cli.main(line.split()) == 0
    assert engine.calls == [call]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("train x", "invalid choice: 'train'"),
        ("run", "the following arguments are required: CONFIG"),
        ("run a.yaml --lokal", "unrecognized argument '--lokal'"),
        ("run a.yaml s=1 --workers 3", "unrecognized argument '--workers'"),
        ("resume", "the following arguments are required: RUN"),
        ("explain seed more", "unrecognized argument 'more'"),
        ("list optimizer more", "unrecognized argument 'more'"),
        ("evaluate f00d --split train", "unrecognized argument '--split'"),
        ("sample f00d --count many", "argument --count: must be a whole number of at least 1, not 'many'"),
        ("sample f00d --count -1", "argument --count: "),
        ("ui --port x", "argument --port: must be a whole number"),
    ],
)
def test_wrong_arguments_end_with_two_and_a_sentence(
    engine: Engine, capsys: pytest.CaptureFixture[str], line: str, complaint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.out == ""
    assert engine.calls == []


def test_show_resolves_the_config_with_its_overrides(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(iter(config.shipped_configs()))
    assert cli.main(["show", name, "--json", "seed=17", "--local"]) == 0
    ((_, (resolved, local), options),) = engine.calls
    assert (resolved.name, resolved.seed, local, options) == (name, 17, True, {"changed": False})
    captured = capsys.readouterr()
    assert captured.err == "the description\n"
    assert json.loads(captured.out) == {"status": "FINISHED", "config": resolved.to_tree()}


# --- what is printed -----------------------------------------------------------------------------------------------


def test_a_run_prints_its_name_first_and_last(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "a.yaml"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert (lines[0], lines[-1]) == ("here", "here")
    assert "MLflow run f00d" in lines
    assert any(line.split() == ["evaluate/accuracy", "0.9"] for line in lines)
    assert captured.err == ""


@pytest.mark.parametrize("command", ["run a.yaml", "resume f00d"])
def test_json_is_the_only_line_on_standard_output(
    engine: Engine, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert cli.main([*command.split(), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out, parse_constant=pytest.fail) == {
        "run_id": "f00d",
        "status": "FINISHED",
        "stopped_by": "updates",
        "metrics": {"evaluate/accuracy": 0.9, "train/loss": None},
        "counters": {"updates": 7},
        "weights_sha256": "ab" * 32,
        "run_dir": "/runs/here",
        "tracking_uri": "sqlite:////runs/mlflow.db",
        "advice": None,
    }
    human = captured.err.splitlines()
    assert (human[0], human[-1]) == ("here", "here")


def test_evaluate_and_sample_print_for_people_and_programs(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["evaluate", "f00d"])
    told = "best weights by evaluate/accuracy (update 40)"
    assert capsys.readouterr() == (f"{told}\n  evaluate/accuracy  0.91\n", "another is damaged\n")
    cli.main(["evaluate", "f00d", "--json"])
    captured = capsys.readouterr()
    about = {"run_id": "f00d", "status": "FINISHED", "weights": "best", "update": 40}
    assert json.loads(captured.out) == {**about, "metrics": {"evaluate/accuracy": 0.91}}
    assert captured.err == f"another is damaged\n{told}\n  evaluate/accuracy  0.91\n"
    cli.main(["sample", "f00d"])
    assert capsys.readouterr().out == f"sample-f00d.png ({told})\n"
    cli.main(["sample", "f00d", "--json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {**about, "file": "sample-f00d.png"}


def test_weights_that_cannot_be_meant_are_one_sentence(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample", "f00d", "--weights", "newest"]) == 2
    assert "--weights: write best, last, or the update of a checkpoint, not 'newest'" in capsys.readouterr().err


def test_list_names_every_config_and_component(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--json"]) == 0
    captured = capsys.readouterr()
    listed = json.loads(captured.out)
    shipped = config.shipped_configs()
    assert len(shipped) > 0
    assert {(folder, name) for folder, names in listed["configs"].items() for name in names} == {
        (path.parent.relative_to(config.config_folder()).as_posix(), name) for name, path in shipped.items()
    }
    assert listed["configs"]["agents/policy_gradient"]["ppo_cartpole"] == "rayloom_agents.policy_gradient.ppo:PPO"
    assert set(listed["kinds"]["source"]) == set(config.SOURCES.shipped)
    assert {"adam", "sgd"} < set(listed["kinds"]["optimizer"])
    assert {"mlp", "lenet5", "rnn"} < set(listed["kinds"]["network"])
    assert all(text for kinds in listed["kinds"].values() for text in kinds.values())
    for word in (*shipped, *(name for kinds in listed["kinds"].values() for name in kinds)):
        assert f"  {word}" in captured.err
    assert max(map(len, captured.err.splitlines())) <= 80
    assert cli.main(["list"]) == 0
    assert capsys.readouterr().out == captured.err


# --- exit codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "code", "sentence", "status"),
    [
        (UserError("learner.count: set it to 1"), 2, "rayloom: learner.count: set it to 1\n", "FAILED"),
        (KeyboardInterrupt(), 130, "rayloom: interrupted; go on with rayloom resume here\n", "KILLED"),
        (Terminated(), 143, "rayloom: terminated; go on with rayloom resume here\n", "KILLED"),
        (Terminated(signal.SIGHUP), 129, "rayloom: terminated; go on with rayloom resume here\n", "KILLED"),
    ],
)
@pytest.mark.parametrize("command", ["run a.yaml", "resume f00d"])
def test_expected_ends_have_a_code_and_a_sentence(
    engine: Engine,
    capsys: pytest.CaptureFixture[str],
    failure: BaseException,
    code: int,
    sentence: str,
    status: str,
    command: str,
) -> None:
    engine.failure = failure
    assert cli.main(command.split()) == code
    captured = capsys.readouterr()
    assert captured.err == sentence
    assert captured.out.splitlines()[0] == "here"
    assert cli.main([*command.split(), "--json"]) == code
    captured = capsys.readouterr()
    assert captured.err.endswith(sentence)
    line = json.loads(captured.out)
    assert (line["run_id"], line["status"]) == ("f00d", status)
    assert line["error"] in sentence


def test_a_bug_keeps_its_traceback(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.failure = ZeroDivisionError("in the algorithm")
    with pytest.raises(ZeroDivisionError, match="in the algorithm"):
        cli.main(["run", "a.yaml", "--json"])
    line = json.loads(capsys.readouterr().out)
    assert line == {"run_id": "f00d", "status": "FAILED", "error": "ZeroDivisionError: in the algorithm"}


def test_remarks_are_shown_when_a_run_fails_before_it_has_an_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resume(run_id: str, *, output: str, observer: Observer) -> Result:
        observer.note("checkpoint 3 is damaged")
        raise UserError("there is no other")

    monkeypatch.setattr(execution, "resume", resume)
    assert cli.main(["resume", "f00d", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "checkpoint 3 is damaged\nrayloom: there is no other\n"
    assert json.loads(captured.out) == {"run_id": "f00d", "status": "FAILED", "error": "there is no other"}


def rayloom(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rayloom", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nothing_like_it"], "rayloom: there is no config file or shipped config 'nothing_like_it'"),
        (["run", "ppo_cartpole", "learner.batchsize=3"], "rayloom: learner.batchsize: there is no such key; did you"),
        (["resume", "0123456789"], "rayloom: there is no run '0123456789'"),
        (["evaluate", "0123456789"], "rayloom: there is no run '0123456789'"),
        (["show", "ppo_cartpole", "learner.count=0"], "rayloom: learner.count: input should be greater"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(sentence)
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_process_ends_with_the_code(tmp_path: Path) -> None:
    done = rayloom("run", "nothing_like_it", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, rayloom.cli.main\n"
        "try: rayloom.cli.main.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'numpy', 'ray', 'mlflow', 'rich', 'yaml', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("run", "resume", "evaluate", "sample", "export", "show", "list", "explain", "ui"):
        assert f"\n    {command} " in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path, unbuffered: str) -> None:
    script = f"{sys.executable} -m rayloom list | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.returncode in (0, 1)


# --- a real run ----------------------------------------------------------------------------------------------------

SOFTMAX = """\
algorithm: {import: "rayloom_supervised.tasks.classification:Classifier"}
source: {kind: dataset, dataset: digits}
learner: {batch_size: 64}
stop: {epochs: 2}
tracking: {system_metrics: false}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Train a small classifier by the command line, once."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "softmax.yaml").write_text(SOFTMAX)
    done = rayloom("run", "softmax.yaml", "--local", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    yield SimpleNamespace(folder=folder, line=json.loads(done.stdout), human=done.stderr)


@pytest.mark.xdist_group("cli")
def test_a_real_run_finishes_and_says_so(trained: SimpleNamespace) -> None:
    line = trained.line
    assert line["status"] == "FINISHED"
    assert line["counters"]["epochs"] == 2
    assert line["metrics"]["evaluate/accuracy"] > 0.8
    assert len(line["weights_sha256"]) == 64
    assert Path(line["run_dir"]).is_dir()
    lines = trained.human.splitlines()
    name = Path(line["run_dir"]).name
    assert (lines[0], lines[-1]) == (name, name) and f"MLflow run {line['run_id']}" in lines


@pytest.mark.xdist_group("cli")
def test_a_run_is_repeated_to_the_bit(trained: SimpleNamespace) -> None:
    done = rayloom("run", "softmax.yaml", "--json", "--local", "tracking.enabled=false", cwd=trained.folder)
    assert json.loads(done.stdout)["weights_sha256"] == trained.line["weights_sha256"]


@pytest.mark.xdist_group("cli")
def test_a_finished_run_is_evaluated_but_not_resumed(trained: SimpleNamespace) -> None:
    done = rayloom("evaluate", trained.line["run_id"], "--json", cwd=trained.folder)
    assert done.returncode == 0, done.stderr
    expected = trained.line["metrics"]["evaluate/accuracy"]
    assert json.loads(done.stdout)["metrics"]["evaluate/accuracy"] == pytest.approx(expected, abs=1e-9)
    done = rayloom("resume", trained.line["run_id"], cwd=trained.folder)
    assert done.returncode == 2
    assert "has finished" in done.stderr


@pytest.mark.xdist_group("cli")
def test_a_real_config_is_shown(trained: SimpleNamespace) -> None:
    done = rayloom("show", "softmax.yaml", "seed=3", cwd=trained.folder)
    assert done.returncode == 0, done.stderr
    assert "seed: 3" in done.stdout
    assert "learner" in done.stdout


@pytest.mark.xdist_group("cli")
def test_the_real_ui_answers_with_the_run(trained: SimpleNamespace) -> None:
    port = free_port()
    command = [sys.executable, "-m", "rayloom", "ui", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=trained.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={trained.line['run_id']}"
        deadline = time.monotonic() + 90
        while True:
            try:
                with urlopen(address, timeout=10) as answer:
                    body = json.load(answer)
                break
            except OSError:
                assert server.poll() is None, server.stdout.read() if server.stdout else ""
                assert time.monotonic() < deadline, "the server did not answer in time"
                time.sleep(0.5)
        assert body["run"]["info"]["status"] == "FINISHED"
        with urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert b"<html" in answer.read().lower()
    finally:
        os.killpg(server.pid, 15)
        server.communicate(timeout=60)
