"""Studies of seconds, an algorithm whose faults are asked for by its config, and what two studies are compared by."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cases import case
from processes import DEADLINE_S, history, write_config
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.tracking.journal import read_metrics
from rayloom_supervised.tasks.classification import Classifier, ClassifierConfig

STEPS = "RAYLOOM_TEST_STEPS"
"""Environment variable with the file in which Probe notes what it trained."""
MARK = "RAYLOOM_TEST_MARK"
"""Environment variable by which a study's processes are told from others'."""
DEATH = "RAYLOOM_TEST_DEATH"
"""Environment variable with CLASS.METHOD:before|after:N[:SIGNAL], the call around which the process kills itself."""
GRID = {"algorithm.l2": [0.0, 0.001, 0.01, 0.1]}
TPE: dict[str, Any] = {
    "space": {
        "algorithm.l2": {"float": [0.0, 1.0]},
        "learner.optimizer.kind": ["adam", "sgd"],
        "learner.optimizer.learning_rate": {"log": [1e-4, 1e-1]},
        "learner.optimizer.momentum": {"float": [0.0, 0.9], "when": {"learner.optimizer.kind": "sgd"}},
    },
    "sampler": "tpe",
    "sampler_options": {"n_startup_trials": 4},
    "pruner": "hyperband",
    "trials": 9,
    "metric": "evaluate/accuracy",
}
"""A conditional space whose later trials depend on all that was reported before."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(ClassifierConfig):
    """A classifier with faults."""

    fault: Literal["none", "raise", "exit", "user_error"] = "none"
    """What happens in a trial whose l2 is above `fault_above`."""
    fault_above: float = 1e9
    incompatible: bool = False
    """Whether l1 and l2 exclude each other."""
    fault_at: int = 30
    """Update after which it happens."""
    pause_s: float = 0.0
    """Sleep after each update, so that a trial lasts long enough to be killed."""

    def __post_init__(self) -> None:
        """Refuse two values that are right one by one."""
        if self.incompatible and self.l1 and self.l2:
            raise ValueError("l1 and l2 exclude each other")


class Probe(Classifier):
    """A classifier that notes every update, and fails where its config says so."""

    Config = ProbeConfig
    population_fields = None

    def after_update(self, number: int) -> None:
        """Note (process, l2, update); then perhaps fail."""
        config = self.config
        if STEPS in os.environ:
            with open(os.environ[STEPS], "a", encoding="utf-8") as file:
                file.write(json.dumps([os.getpid(), config.l2, number]) + "\n")
        if config.l2 > config.fault_above and number == config.fault_at:
            self._fail(config.fault)
        if config.pause_s:
            time.sleep(config.pause_s)

    @staticmethod
    def _fail(fault: str) -> None:
        if fault == "raise":
            raise ArithmeticError("the probe was told to fail")
        if fault == "user_error":
            raise UserError("algorithm.l2: the probe does not like it; make it smaller")
        if fault == "exit":
            os._exit(7)


def study(name: str, output: Path, search: dict[str, Any], **sections: dict[str, Any]) -> RunConfig:
    """Return the config of a study over Probe: trials of 6 epochs of 23 updates, an evaluation each, on digits."""
    algorithm = {"import": "search_cases:Probe", **sections.pop("algorithm", {})}
    base: dict[str, dict[str, Any]] = {
        "checkpoint": {"every": "2 epochs"},
        "evaluate": {"every": "1 epochs"},
        "stop": {"epochs": 6},
        "search": search,
    }
    config = case("softmax_regression", str(output), algorithm=algorithm, **{**base, **sections})
    return RunConfig(**{**vars(config), "name": name})


_PRELOADED = (
    "torch._dynamo",
    "rayloom.launch.search",
    "rayloom.cli.study_display",
    "rayloom.search.population",
    "search_cases",
)


class Forked:
    """`rayloom ARGUMENTS --json` in a child of a server that has imported everything: it starts at once."""

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="process-", dir=cwd))
        for name in ("out", "err"):
            (self.folder / name).touch()  # a process that is killed at its start has written nothing
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*_PRELOADED])
        self._process = context.Process(target=_command, args=(arguments, self.folder, environment), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the signal's number of a process that a signal killed."""
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end and return what the process wrote to its outputs."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"the process did not end: {(self.folder / 'err').read_text()[-4000:]}")
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()


def _command(arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
    """Be the command's process."""
    from rayloom.cli.main import main

    os.environ.update(environment)
    os.chdir(folder)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  the old ones may be those of pytest
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if DEATH in environment:
        _arrange_death(environment[DEATH])
    code = 1
    try:
        code = main([*arguments, "--json"])
    except Exception:  # noqa: BLE001  what Python does with it at the end
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def _arrange_death(moment: str) -> None:
    """Let the process kill itself just before or after the n-th call of a method: between two facts of a study."""
    from rayloom.checkpoint.store import CheckpointStore
    from rayloom.runs.session import Session
    from rayloom.search.driver import Driver
    from rayloom.search.ledger import Ledger

    place, when, count, *names = moment.split(":")
    number = signal.Signals[names[0]] if names else signal.SIGKILL
    owner, name = place.split(".")
    found = {kind.__name__: kind for kind in (CheckpointStore, Driver, Ledger, Session)}[owner]
    method, left = getattr(found, name), [int(count)]

    def dying(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if when == "before" and left[0] == 0:
            os.kill(os.getpid(), number)
        answer = method(*arguments, **options)
        if when == "after" and left[0] == 0:
            os.kill(os.getpid(), number)
        return answer

    setattr(found, name, dying)


Process = Forked | subprocess.Popen[str]


def search(config: RunConfig, folder: Path, *options: str, **environment: str) -> Forked:
    """Start `rayloom search` on a config."""
    return Forked("search", str(write_config(config, folder)), *options, cwd=folder, **environment)


def resume(output: Path, *options: str, **environment: str) -> Forked:
    """Start `rayloom search --resume` on the only study under `output`."""
    arguments = ["search", "--resume", study_folder(output).name, *options, f"--output={output}"]
    return Forked(*arguments, cwd=output.parent, **environment)


def study_folder(output: Path) -> Path:
    """Return the only study's folder under an output folder, or the output folder while there is none."""
    return next((path.parent for path in output.glob("*/study.yaml")), output)


def trial_folders(output: Path) -> list[Path]:
    """Return the folders of the trials, in order."""
    return sorted(study_folder(output).glob("trials/*"))


def facts(output: Path) -> int:
    """Return how many facts the study has written down: records of Optuna's journal and points of the trials'."""
    paths = [study_folder(output) / "optuna.journal", *study_folder(output).glob("trials/*/internal/journal.jsonl")]
    return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())


def kill_when(
    process: Process, condition: Callable[[], Any], number: int = signal.SIGKILL, pid: int | None = None
) -> bool:
    """Send a signal to the process, or to another one, once a condition holds; False when it had ended before."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "the study does not get there"
        time.sleep(0.002)
    if process.poll() is not None:
        return False
    os.kill(pid or process.pid, number)
    if pid is None and number == signal.SIGKILL:
        process.communicate(timeout=60)
    return True


def outcome(process: Process) -> tuple[int, dict[str, Any], str]:
    """Wait for the end; return the exit code, the one JSON line and what was said beside it."""
    out, err = process.communicate(timeout=DEADLINE_S)
    # Ray itself tells about dead workers on the standard output, whatever its settings.
    lines = [line for line in out.strip().splitlines() if "(raylet)" not in line]
    assert len(lines) == 1, (out, err[-4000:])
    return process.returncode, json.loads(lines[0]), err


def trials(output: Path) -> list[dict[str, Any]]:
    """Return what the study's storage has of every trial, without its clock."""
    folder = study_folder(output)
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    (found,) = storage.get_all_studies()
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "parameters": trial.params,
            "values": trial.values,
            "reports": trial.intermediate_values,
            "facts": {key: value for key, value in trial.user_attrs.items() if key != "failure"},
        }
        for trial in storage.get_all_trials(found._study_id)
    ]


def results(output: Path) -> list[tuple[Any, ...]]:
    """Return status, last weights, counters and the whole metric history of every trial."""
    found = []
    for folder in trial_folders(output):
        assert_no_doubles(folder)
        result = json.loads((folder / "result.json").read_text())
        found.append((result["status"], result.get("weights_sha256"), result.get("counters"), history(folder)))
    return found


def assert_no_doubles(folder: Path) -> None:
    """A metric has one point at a step."""
    points = [(step, key) for step, key, _ in read_metrics(folder)]
    assert len(points) == len(set(points)), folder


def updates(file: Path) -> dict[float, list[list[int]]]:
    """Return what Probe noted: l2 of a trial to the updates that each process did, in the order of the processes."""
    noted: dict[float, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for line in file.read_text(encoding="utf-8").splitlines():
        pid, l2, update = json.loads(line)
        noted[l2][pid].append(update)
    return {l2: list(parts.values()) for l2, parts in noted.items()}


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that were started with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def assert_all_gone(mark: str, deadline_s: float = 60.0) -> None:
    """Nothing that the study started is left after a while."""
    deadline = time.monotonic() + deadline_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, [" ".join(process.cmdline())[:200] for process in left]
