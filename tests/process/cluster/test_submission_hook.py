"""`ray job submit` with the hook that records the commit: it sends what Ray would have sent."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayloom.cluster import submission
from rayloom.cluster.submission import Submission, submit_hook

ARGUMENTS: dict[str, Any] = {
    "address": "http://a:1", "job_id": None, "submission_id": "mine", "runtime_env": None, "runtime_env_json": None,
    "metadata_json": {"team": "x"}, "working_dir": None, "entrypoint": ("rayloom", "run", "a b"), "no_wait": True,
    "entrypoint_num_cpus": 2, "entrypoint_num_gpus": None, "entrypoint_memory": None, "entrypoint_resources": None,
    "entrypoint_label_selector": None,
}  # fmt: skip


def hooked(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> tuple[Submission, Any]:
    """Call the hook as Ray does; return what was sent and the exit code."""
    sent: list[Submission] = []
    monkeypatch.setattr(submission, "send", sent.append)
    monkeypatch.setattr(submission, "follow", lambda *_: SimpleNamespace(exit_code=7))
    with pytest.raises(SystemExit) as ended:
        submit_hook(**{**ARGUMENTS, **arguments})
    return sent[0], ended.value.code


def test_the_hook_sends_what_ray_would_have_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, code = hooked(monkeypatch, working_dir=str(tmp_path), runtime_env_json='{"env_vars": {"A": "b"}}')
    assert code == 0 and (sent.id, sent.address, sent.folder) == ("mine", "http://a:1", tmp_path)
    assert shlex.split(sent.entrypoint) == ["rayloom", "run", "a b"] and sent.environment == {"env_vars": {"A": "b"}}
    assert sent.options == {"metadata": {"team": "x"}, "entrypoint_num_cpus": 2}
    file = tmp_path / "environment.yaml"
    file.write_text(f"working_dir: {tmp_path}\n")
    sent, code = hooked(monkeypatch, runtime_env=str(file), no_wait=False, submission_id=None)
    assert code == 7 and sent.folder == tmp_path and sent.environment == {} and sent.id.startswith("raysubmit_")


def test_the_hook_leaves_ray_alone_where_no_folder_is_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "send", lambda _: pytest.fail("something was sent"))
    for arguments in ({}, {"working_dir": "s3://bucket/tree.zip"}, {"runtime_env_json": "{}"}):
        submit_hook(**{**ARGUMENTS, **arguments})


def test_the_hooks_refusals_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        submit_hook(**{**ARGUMENTS, "runtime_env": "/nowhere.yaml", "working_dir": str(tmp_path)})
    assert ended.value.code == 2 and "cannot be read" in capsys.readouterr().err


def test_ray_knows_the_hook_by_its_documented_name() -> None:
    from ray._common.utils import load_class

    assert load_class("rayloom.cluster.submission.submit_hook") is submit_hook
