"""What is checked and packed before a job is sent, and how a job is followed, without a cluster."""

from __future__ import annotations

import io
import json
import shlex
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cases import case
from loopback import git
from processes import write_config
from rayloom.cli import main as cli
from rayloom.cluster import submission
from rayloom.cluster.submission import Submission, follow, prepare
from rayloom.errors import UserError
from rayloom.tracking.provenance import git_state, is_uploaded, ray_job_tag, submission_text

OUTPUT = "output=/mnt/shared/runs"


@pytest.fixture(autouse=True)
def _no_cluster_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def ready(name: str = "softmax_regression_digits", *overrides: str, **options: Any) -> Submission:
    """Prepare a submission."""
    return prepare(name, overrides or (OUTPUT,), **{"address": None, "runtime_env": None, "job": None, **options})


def test_the_command_of_the_job_is_the_one_that_was_checked() -> None:
    made = ready("softmax_regression_digits", OUTPUT, "stop={epochs: 1}", "name=a b's")
    words = shlex.split(made.entrypoint)
    assert words[:5] == ["python", "-m", "rayloom", "run", "softmax_regression_digits"]
    assert words[5:] == [OUTPUT, "stop={epochs: 1}", "name=a b's", "--job", made.id]
    assert made.id.startswith("a-b-s-") and made.job == made.id and ready().id != ready().id
    assert made.address == "http://127.0.0.1:8265" and made.folder == Path.cwd()
    again = ready(job="nightly")
    assert again.job == "nightly" != again.id and again.entrypoint.endswith("--job nightly")


def test_the_shipped_environment_has_the_source_roots_and_no_place_for_large_or_secret_files(root: Path) -> None:
    from ray.runtime_env import RuntimeEnv

    shipped = yaml.safe_load((root / "configs/cluster/runtime_env.yaml").read_text())
    assert dict(ready().environment) == shipped
    RuntimeEnv(**shipped)
    assert shipped["env_vars"]["PYTHONPATH"].split(":") == ["platform", "agents", "generative", "supervised"]


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("softmax_regression_digit", OUTPUT), "there is no config file or shipped config"),
    (("softmax_regression_digits", OUTPUT, "learner.batchsize=3"), "batch_size"),
    (("softmax_regression_digits", OUTPUT, "learner.batch_size=0"), "batch_size"),
    (("ppo_cartpole_ray", OUTPUT, "learner.count=2", "source.rollout_workers=3"), "cannot be shared evenly"),
    (("softmax_regression_digits",), "output: rayloom-runs would go with its node"),
    (("softmax_regression_digits", OUTPUT, "--job", "a/b"), "--job: 'a/b' is no id"),
    (("softmax_regression_digits", OUTPUT, "--address", "10.0.0.1:6379"), "--address: write the URL"),
    (("softmax_regression_digits", OUTPUT, "--runtime-env", "/nowhere.yaml"), "/nowhere.yaml cannot be read"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES)
def test_a_mistake_is_found_here_before_anything_is_sent(
    words: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submission, "_connect", lambda _: pytest.fail("something was sent"))
    assert cli.main(["submit", *words]) == 2
    out, err = capsys.readouterr()
    assert sentence in err and len(err.splitlines()) == 1 and not out


def test_a_config_file_is_named_as_the_upload_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project/sub").mkdir(parents=True)
    path = write_config(case("softmax_regression", "/mnt/runs"), tmp_path / "project/sub")
    monkeypatch.chdir(tmp_path / "project")
    made = ready(str(path), "seed=1")
    assert shlex.split(made.entrypoint)[4] == "sub/softmax_regression.yaml"
    monkeypatch.chdir(tmp_path / "project/sub")
    (tmp_path / "project/other.yaml").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="lies outside of"):
        ready("../other.yaml", "seed=1")


def test_a_runtime_environment_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "environment.yaml"
    file.write_text("env_vars: {A: b}\n")
    assert ready(runtime_env=file).environment == {"env_vars": {"A": "b"}}
    file.write_text("")
    assert ready(runtime_env=file).environment == {}
    for text, sentence in (("- a", "holds no mapping"), ("working_dir: .", "leave working_dir out"), ("a: [", "valid")):
        file.write_text(text)
        with pytest.raises(UserError, match=sentence):
            ready(runtime_env=file)


def test_the_tracking_server_of_this_shell_is_passed_on_but_never_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def variables(*overrides: str, **options: Any) -> tuple[Any, tuple[str, ...]]:
        made = ready("softmax_regression_digits", OUTPUT, *overrides, **options)
        return made.environment["env_vars"].get("MLFLOW_TRACKING_URI"), made.notes

    assert variables() == (None, ())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert variables() == ("https://mlflow.example.org", ())
    assert variables("tracking.uri=http://other:5000") == (None, ())
    file = tmp_path / "environment.yaml"
    file.write_text("env_vars: {MLFLOW_TRACKING_URI: http://set}\n")
    assert variables(runtime_env=file) == ("http://set", ())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    uri, (note,) = variables()
    assert uri is None and "password" in note and "secret" not in note
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////home/me/mlflow.db")
    uri, (note,) = variables()
    assert uri is None and "this machine's own" in note and "/mnt/shared/runs" in note


@pytest.mark.parametrize("uri", ["http://me:hush@h", "https://hush@h", "http://h/?token=hush"])
def test_a_jobs_words_hold_no_password_and_may_have_the_mark(uri: str) -> None:
    with pytest.raises(
        UserError, match=r"^tracking\.uri: the dashboard shows a job's words to everybody; write \*\*\*"
    ) as caught:
        submission.prepare("softmax_regression_digits", [OUTPUT, f"tracking.uri={uri}"])
    assert "hush" not in str(caught.value)
    assert (
        "'tracking.uri=http://me:***@h'"
        in ready("softmax_regression_digits", OUTPUT, "tracking.uri=http://me:***@h").entrypoint
    )


@pytest.mark.parametrize(
    ("variables", "argument", "expected"),
    [
        ({}, None, "http://127.0.0.1:8265"),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, None, "http://127.0.0.1:8265"),  # of a driver, not of a dashboard
        ({"RAY_ADDRESS": "http://a:1"}, None, "http://a:1"),
        ({"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "https://b/"}, None, "https://b"),
        ({"RAY_API_SERVER_ADDRESS": "https://b/"}, "http://c:3/", "http://c:3"),
    ],
)
def test_the_address_that_is_written_counts_most(
    variables: dict[str, str], argument: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ready(address=argument).address == expected


# --- the upload ----------------------------------------------------------------------------------------------------


def project(folder: Path) -> Path:
    """Make a git tree with what must travel and what must stay."""
    files = {
        "train.py": "a = 1\n",
        "sub/config.yaml": "a: 1\n",
        ".gitignore": "secrets/\n",
        "secrets/key.txt": "s",
        ".env": "TOKEN=1",
        "id.pem": "s",
        "server.key": "s",
        ".aws/credentials": "s",
        "ray_auth_token": "s",
        ".venv/bin/python": "x",
        "platform/rayloom.egg-info/PKG-INFO": "x",
        "rayloom-runs/run/checkpoint.bin": "x",
        "mlflow.db": "x",
        "mlflow.db-wal": "x",
        "agents/__pycache__/a.pyc": "x",
        ".mypy_cache/x": "x",
        "rayloom-submission.json": '{"commit": "stale", "branch": "", "diff": ""}',
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q", "-b", "trunk")
    git(folder, "add", "train.py", ".gitignore")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def packed(folder: Path, scratch: Path) -> dict[str, str]:
    """Return the files of an upload."""
    excludes = [*submission._EXCLUDES, *ready().environment["excludes"]]
    scratch.mkdir()
    with zipfile.ZipFile(submission._pack(folder, excludes, scratch)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        assert len(names) == len(set(names))
        return {name: archive.read(name).decode() for name in names}


def test_the_upload_has_the_sources_and_their_commit_and_nothing_large_or_secret(tmp_path: Path) -> None:
    folder = project(tmp_path / "tree")
    files = packed(folder, tmp_path / "scratch")
    assert sorted(files) == [".gitignore", "rayloom-submission.json", "sub/config.yaml", "train.py"]
    state = json.loads(files["rayloom-submission.json"])
    assert state["commit"] == git(folder, "rev-parse", "HEAD").strip() and state["branch"] == "trunk"
    assert "# left out: sub/config.yaml" in state["diff"] and "secret" not in state["diff"]
    outside = packed(tmp_path / "tree/sub", tmp_path / "scratch2")
    assert json.loads(outside["rayloom-submission.json"]) == state


def test_an_upload_that_ray_would_refuse_names_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(3 << 20))
    monkeypatch.setattr(submission, "GCS_STORAGE_MAX_SIZE", 2 << 20)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError, match=r"has 3 MiB and Ray takes 2.*largest are weights\.bin"):
        submission._pack(tmp_path, ["scratch"], tmp_path / "scratch")


def test_in_an_upload_the_commit_of_the_submitting_machine_counts_and_nothing_else(tmp_path: Path) -> None:
    # Even where Ray's folder lies within somebody's git tree.
    tree = project(tmp_path / "tree")
    upload = tree / "ray/working_dir_files/_ray_pkg_0123"
    (upload / "sub").mkdir(parents=True)
    assert not is_uploaded(tree) and is_uploaded(upload / "sub")
    unknown = git_state(upload / "sub")
    assert unknown is not None and unknown.diff == ""
    tags = unknown.tags()
    assert tags["rayloom.commit"].startswith("unknown") and tags["rayloom.dirty"] == "unknown"
    assert "mlflow.source.git.commit" not in tags
    (upload / "rayloom-submission.json").write_text(submission_text(tree))
    assert git_state(upload / "sub") == git_state(tree) != unknown
    # A leftover in a checkout says nothing about the checkout.
    here = git_state(tree)
    assert here is not None and here.commit != "stale"


def test_a_folder_without_git_is_uploaded_with_an_unknown_commit(tmp_path: Path) -> None:
    upload = tmp_path / "_ray_pkg_1"
    upload.mkdir()
    (tmp_path / "plain").mkdir()
    (upload / "rayloom-submission.json").write_text(submission_text(tmp_path / "plain"))
    state = git_state(upload)
    assert state is not None and state.tags()["rayloom.dirty"] == "unknown"


def test_the_driver_of_a_ray_job_knows_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert ray_job_tag() == {}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "j-1"}}))
    assert ray_job_tag() == {"rayloom.ray_job": "j-1"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {}}))
    assert ray_job_tag() == {}


# --- the cluster's answers -----------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """Listen, and never answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_cluster_that_never_answers_is_given_up(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_ANSWER_S", 0.3)
    with pytest.raises(UserError, match=f"no Ray cluster answers at {silent} .*timed out"):
        submission.send(ready(address=silent))


def test_a_closed_port_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert cli.main(["submit", "softmax_regression_digits", OUTPUT, "--address", address]) == 2
    out, err = capsys.readouterr()
    assert f"--address: no Ray cluster answers at {address}" in err and len(err.splitlines()) == 1 and not out


class Jobs:
    """Stands in for the job server: a list of answers, each (status, log) or an exception."""

    def __init__(self, *answers: Any, exit_code: int | None = None, message: str = "why") -> None:
        self.answers = list(answers)
        self.exit_code = exit_code
        self.message = message

    def get_job_info(self, job: str) -> Any:
        if isinstance(self.answers[0], BaseException):
            answer = self.answers[0]
            if len(self.answers) > 1:
                self.answers.pop(0)
            raise answer
        status = self.answers[0][0]
        terminal = status in ("SUCCEEDED", "FAILED", "STOPPED")
        named = SimpleNamespace(value=status, is_terminal=lambda: terminal)
        return SimpleNamespace(status=named, driver_exit_code=self.exit_code, message=self.message)

    def get_job_logs(self, job: str) -> str:
        return str(self.answers.pop(0)[1])


class Clock:
    """A clock that moves only while somebody sleeps, a minute at a time."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += 60.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "time", Clock())


def followed(monkeypatch: pytest.MonkeyPatch, jobs: Jobs) -> tuple[Any, str]:
    """Follow a job with these answers; return how it ended and what was printed."""
    monkeypatch.setattr(submission, "_connect", lambda _: jobs)
    stream = io.StringIO()
    return follow(ready(), stream), stream.getvalue()


@pytest.mark.parametrize(
    ("status", "exit_code", "expected"),
    [
        ("SUCCEEDED", 0, ("FINISHED", 0)),
        ("SUCCEEDED", None, ("FINISHED", 0)),
        ("FAILED", 2, ("FAILED", 2)),
        ("FAILED", -9, ("FAILED", 137)),
        ("FAILED", None, ("FAILED", 1)),
        ("FAILED", 0, ("FAILED", 1)),
        ("STOPPED", None, ("KILLED", 143)),
        ("STOPPED", 143, ("KILLED", 143)),
    ],
)
def test_the_exit_code_is_the_jobs(
    status: str, exit_code: int | None, expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, text = followed(monkeypatch, Jobs(("RUNNING", "a\n"), (status, "a\nb\n"), exit_code=exit_code))
    assert (ended.status, ended.exit_code) == expected
    assert text == "a\nb\n" + ("why\n" if exit_code is None and status != "SUCCEEDED" else "")


def test_the_log_is_shown_once_whatever_breaks_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [("PENDING", ""), ("RUNNING", "one\ntw"), ConnectionError("gone"), RuntimeError("500"), TimeoutError()]
    _, text = followed(monkeypatch, Jobs(*answers, ("RUNNING", "one\ntwo\n"), ("SUCCEEDED", "one\ntwo\nthree\n")))
    assert text == "one\ntwo\nthree\n"


def test_a_cluster_that_is_gone_for_long_ends_the_watch_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"has not answered for 300 s \(gone\); the job .* may go on"):
        followed(monkeypatch, Jobs(("RUNNING", ""), ConnectionError("gone")))
    # Minutes of answers in between count, however long the job takes.
    breaks = [ConnectionError("gone")] * 4
    answers = [*breaks, ("RUNNING", ""), *breaks, ("RUNNING", ""), *breaks, ("SUCCEEDED", "")]
    assert followed(monkeypatch, Jobs(*answers))[0].exit_code == 0


def test_who_stops_watching_learns_how_to_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(submission, "_connect", lambda _: Jobs(KeyboardInterrupt()))
    made = ready()
    with pytest.raises(KeyboardInterrupt):
        follow(made, stream)
    assert f"ray job stop --address {made.address} {made.id}" in stream.getvalue()
