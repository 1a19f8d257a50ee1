"""Where studies are kept: a journal file and databases, for Optuna's own tools to read, and for the next driver."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ledgers import BRANCHES, MIXED, Game, KilledError, Log, facts, stored
from places import FAKES
from rayloom.errors import UserError
from rayloom.search.ledger import Ledger, open_storage

GAME = Game("tpe", "hyperband", BRANCHES, trials=8, evaluations=4, options={"n_startup_trials": 3})
DEADLINE_S = 60


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server of the tests' own."""

    port: int
    password: str

    def url(self, database: str, password: str | None = None) -> str:
        """Return the address of a database."""
        return f"postgresql+psycopg://weaver:{password or self.password}@127.0.0.1:{self.port}/{database}"


def programs() -> Path | None:
    """Return the folder of the newest server that is installed; Debian's are not on the path."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    known = [path.parent for path in sorted(versions, key=lambda path: int(path.parts[-3]))]
    found = shutil.which("initdb")
    return known[-1] if known else Path(found).resolve().parent if found else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server on a free port of this machine; it is gone afterwards."""
    folder = programs()
    if folder is None:
        reason = "PostgreSQL is not installed; `make system` does it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    data = tmp_path_factory.mktemp("postgres")
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        as_user = ["runuser", "-u", "postgres", "--"]
        data = Path(subprocess.check_output([*as_user, "mktemp", "-d"], text=True, timeout=DEADLINE_S).strip())
    secret = data / "password"
    subprocess.run([*as_user, "tee", str(secret)], input="loom&heddle", text=True, check=True, timeout=DEADLINE_S)
    cluster = data / "cluster"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    make = [folder / "initdb", "-D", cluster, "-U", "weaver", "-A", "scram-sha-256", f"--pwfile={secret}"]
    _do([*as_user, *make, "--no-sync", "--no-locale", "-E", "UTF8"])
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c fsync=off -c unix_socket_directories={data}"
    control = [*as_user, folder / "pg_ctl", "-D", cluster, "-w", "-t", str(DEADLINE_S)]
    try:
        _do([*control, "-l", data / "log", "-o", options, "start"])
        yield Server(port, "loom%26heddle")
    finally:
        _do([*control, "-m", "immediate", "stop"])
        _do([*as_user, "rm", "-r", data])


def _do(command: list[object]) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # a pipe would stay open in the server
        stderr=subprocess.DEVNULL,
        timeout=2 * DEADLINE_S,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, f"{command} failed"


class Frail:
    """A storage whose driver is killed after some writes."""

    def __init__(self, storage: BaseStorage, left: int) -> None:
        self._storage = storage
        self._left = left

    def __getattr__(self, name: str) -> object:
        """Return a method of the storage; those that write are counted."""
        if name.startswith(("set_", "create_")):
            if self._left <= 0:
                raise KilledError
            self._left -= 1
        return getattr(self._storage, name)


def check_storage(url: str | None, folder: Path) -> None:
    """Play a study with a driver that is killed again and again, and read it with plain Optuna."""
    whole = Log()
    expected = facts(GAME.play(GAME.open(whole)))
    deaths = 0
    while True:
        try:
            ledger = GAME.play(GAME.open(Frail(open_storage(url, folder), 12)))  # type: ignore[arg-type]
            break
        except KilledError:
            deaths += 1
    assert deaths > 3
    assert facts(ledger) == expected
    assert facts(GAME.open(open_storage(url, folder))) == expected
    assert stored(open_storage(url, folder)) == stored(whole)
    plain: str | JournalStorage = url or JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    check_plain(optuna.load_study(study_name="game", storage=plain), ledger)


def check_plain(study: optuna.Study, ledger: Ledger) -> None:
    """Compare what Optuna reads with what the ledger knows."""
    names = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "FAILED": TrialState.FAIL}
    assert {entry.state for entry in ledger.entries} == set(names)
    for trial, entry in zip(study.trials, ledger.entries, strict=True):
        assert trial.state == names[str(entry.state)]
        assert trial.params == entry.assignment.parameters
        assert trial.user_attrs["values"] == entry.assignment.values
        assert trial.user_attrs.get("failure") == entry.failure
        reported = {step: values[0] for step, (values, _) in entry.reports.items()}
        assert repr(trial.intermediate_values) == repr(reported)
        assert trial.datetime_start is not None and trial.datetime_complete is not None
        if entry.state == "COMPLETE":
            assert tuple(trial.values) == entry.values
    best = ledger.best()
    assert best is not None and study.best_trial.number == best.number


def test_the_journal_file(tmp_path: Path) -> None:
    check_storage(None, tmp_path)


def test_sqlite(tmp_path: Path) -> None:
    check_storage(f"sqlite:///{tmp_path}/study.db", tmp_path)


def test_postgresql(server: Server, tmp_path: Path) -> None:
    check_storage(server.url("postgres"), tmp_path)


def test_postgresql_keeps_numbers_at_the_edges(server: Server, tmp_path: Path) -> None:
    game = Game("random", "none", MIXED, directions=("minimize", "maximize"), evaluations=2)
    url = server.url("template1")
    ledger = game.open(open_storage(url, tmp_path))
    values = [(math.inf, -math.inf), (0.1 + 0.2, 5e-324), (-0.0, 1.7976931348623157e308)]
    for pair in values:
        number = ledger.ask().number
        ledger.report(number, 1, (math.nan, math.inf))
        ledger.report(number, 2, pair)
        ledger.end(number, "COMPLETE", pair)
    failed = ledger.ask()
    ledger.end(failed.number, "FAILED", failure="a zero \0, a snowman \u2603, a lone surrogate \udc80")
    again = game.open(open_storage(url, tmp_path))
    assert facts(again) == facts(ledger)
    assert [entry.values for entry in again.entries[:3]] == values


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("nowhere://u:hush@h/d", r"cannot be opened \(Can't load plugin: sqlalchemy\.dialects:nowhere\)"),
        ("postgresql+asyncpg://u:hush@h/d", r"driver is not installed \(No module named 'asyncpg'\); install it"),
        ("postgresql+psycopg://u:hush@127.0.0.1:1/d", r"cannot be opened \(.*127\.0\.0\.1.*refused\)"),
        ("postgresql+psycopg://127.0.0.1:1/d?user=u&password=hush", r"cannot be opened \(.*refused\)"),
        ("postgresql+psycopg://u:hush@h:hush/d", r"cannot be opened \(invalid .*\*\*\*.*\)"),
        ("postgresql//u:hush@h/d", r"cannot be opened \(Could not parse"),
        ("sqlite:////nowhere/hush/study.db", r"cannot be opened \(.*unable to open database file\)"),
        ("", r"cannot be opened \(Could not parse"),
    ],
)
def test_bad_addresses(address: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^search\.storage: the database('s)? {sentence}") as caught:
        open_storage(address, tmp_path)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_passwords(server: Server, tmp_path: Path) -> None:
    for address, said in (
        (server.url("postgres", "hush%26"), "password authentication failed for user"),
        (server.url("nosuch"), 'database "nosuch" does not exist'),
    ):
        with pytest.raises(UserError, match=rf"^search\.storage: the database cannot be opened \(.*{said}") as caught:
            open_storage(address, tmp_path)
        assert not any(secret in str(caught.value) for secret in ("hush", "heddle", "\n"))


def test_half_a_line_and_a_lock_are_left_behind(tmp_path: Path) -> None:
    """A driver that died while it wrote."""
    game = Game(trials=4, evaluations=2)
    ledger = game.play(game.open(open_storage(None, tmp_path)))
    journal = tmp_path / "optuna.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    lock = tmp_path / "optuna.journal.lock"
    lock.symlink_to(journal)
    longer = Game(trials=6, evaluations=2)
    storage = open_storage(None, tmp_path)
    assert not lock.is_symlink(), "writers would wait for the dead"
    reopened = longer.play(longer.open(storage))
    assert facts(reopened)[:4] == facts(ledger)[:4]
    assert facts(longer.open(open_storage(None, tmp_path))) == facts(reopened)
    assert b"\n{" in journal.read_bytes() and b'"wor{' not in journal.read_bytes()


def test_kill_9(tmp_path: Path) -> None:
    """The real thing: processes that are killed while they play a study."""
    game = "ledgers.Game('random', 'hyperband', ledgers.MIXED, trials=400)"
    script = f"import pathlib, ledgers\nfrom rayloom.search.ledger import open_storage\ngame = {game}\n"
    script += f"game.play(game.open(open_storage(None, pathlib.Path({str(tmp_path)!r}))))"
    paths = os.pathsep.join([str(FAKES), *(path for path in sys.path if path)])
    journal = tmp_path / "optuna.journal"
    for _ in range(3):
        size = journal.stat().st_size if journal.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": paths})
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until and (not journal.exists() or journal.stat().st_size < size + 20_000):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    done = len(Game("random", "hyperband", MIXED, trials=400).open(open_storage(None, tmp_path)).entries)
    assert 3 <= done < 400
    short = Game("random", "hyperband", MIXED, trials=done + 5)
    expected = facts(short.play(short.open(Log())))
    assert facts(short.play(short.open(open_storage(None, tmp_path)))) == expected
