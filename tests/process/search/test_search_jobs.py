"""The study of a job: found again by whoever starts the job again, and searched by one at a time."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayloom import run
from rayloom.cluster.submission import prepare
from rayloom.errors import UserError
from rayloom.launch.run import resume
from rayloom.launch.search import check_study, describe_study, resume_study, run_study
from rayloom.runs import jobs
from rayloom.search.observer import StudyObserver
from rayloom.tracking.journal import last_start
from search_cases import GRID, TPE, Forked, facts, kill_when, outcome, results, search, study, study_folder, trials
from tracking_store import empty_store

SMALL: dict[str, Any] = {"space": GRID, "sampler": "grid", "metric": "evaluate/accuracy"}
SHORT: dict[str, Any] = {"stop": {"epochs": 1}}


class Notes(StudyObserver):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_a_killed_job_goes_on_with_its_own_study_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    part = {**TPE, "trials": 5}
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert outcome(search(study("s", whole, part), tmp_path, "--local"))[0] == 0
    total = facts(whole)
    config = study("s", output, part)
    for share in (0.3, 0.7):
        process = search(config, tmp_path, "--local", "--job", "nightly")
        assert kill_when(process, lambda least=int(total * share): facts(output) >= least)
    code, line, err = outcome(search(config, tmp_path, "--local", "--job", "nightly"))
    assert code == 0 and "job nightly goes on with its study" in err
    assert line["study_dir"] == str(study_folder(output)) == str(output / "job-nightly")
    assert trials(output) == trials(whole) and results(output) == results(whole)


def test_a_finished_job_is_reported_again_word_for_word(tmp_path: Path) -> None:
    output = tmp_path / "out"
    store = empty_store(output)
    config = study("s", output, SMALL, tracking={"enabled": True}, **SHORT)
    first = outcome(search(config, tmp_path, "--local", "--job", "once"))
    known = facts(output)
    second = outcome(search(config, tmp_path, "--local", "--job", "once"))
    assert first[:2] == second[:2] and first[0] == 0
    assert first[1]["metrics"]["evaluate/accuracy"] > 0.5 and first[1]["trials"]["COMPLETE"] == 4
    assert "job once has finished its study before" in second[2]
    assert facts(output) == known > 0
    assert store.tags(first[1]["run_id"])["rayloom.job"] == "once"
    assert len(store.runs()) == 5


def test_a_study_that_stopped_is_taken_up_by_its_job_and_by_resume_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayloom.search.ledger import Ledger

    config = study("s", tmp_path, SMALL, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "end", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_study(config, local=True, job="j")
    notes = Notes()
    assert run_study(config, local=True, job="j", observer=notes).counts["COMPLETE"] == 4
    assert any("goes on with its study" in line for line in notes.lines)
    with pytest.raises(UserError, match="job-j has finished; to extend it"):
        resume_study("job-j", output=str(tmp_path))


def test_other_settings_under_the_same_id_are_refused_by_name(tmp_path: Path) -> None:
    config = study("s", tmp_path, SMALL, **SHORT)
    run_study(config, local=True, job="j")
    with pytest.raises(UserError, match=r"job j began its study with other search\.space.*: keep those"):
        run_study(replace(config, search=replace(config.search, space={"algorithm.l2": [0.5]})), local=True, job="j")
    with pytest.raises(UserError, match="job j began its study with --local: keep to that"):
        run_study(config, job="j")
    with pytest.raises(UserError, match="job j began a study, not a run: give another --job"):
        run(replace(config, search=None), local=True, job="j")
    run(replace(config, search=None), local=True, job="k")
    with pytest.raises(UserError, match="job k began a run, not a study: give another --job"):
        run_study(config, local=True, job="k")


def test_a_job_may_be_given_more_trials_and_resume_alike(tmp_path: Path) -> None:
    part = {**SMALL, "trials": 1}
    config = study("s", tmp_path, part, **SHORT)
    assert config.search is not None
    assert run_study(config, local=True, job="j").counts["COMPLETE"] == 1
    more = replace(config, search=replace(config.search, trials=3))
    assert run_study(more, local=True, job="j").counts["COMPLETE"] == 3
    assert resume_study("job-j", "search.trials=4", output=str(tmp_path)).counts["COMPLETE"] == 4
    most = run_study(replace(config, search=replace(config.search, trials=4)), local=True, job="j")
    assert most.counts["COMPLETE"] == 4 and len(list((tmp_path / "job-j/trials").iterdir())) == 4


def test_resume_takes_the_jobs_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = study("s", tmp_path, {**SMALL, "trials": 1}, **SHORT)
    run_study(config, local=True, job="j")
    run(replace(config, search=None), local=True, job="k")
    monkeypatch.setattr(jobs, "_LOCK_DEADLINE_S", 0.1)
    with jobs.held(tmp_path / "job-j", print), pytest.raises(UserError, match="job j is running"):
        resume_study("job-j", "search.trials=2", output=str(tmp_path))
    with jobs.held(tmp_path / "job-k", print), pytest.raises(UserError, match="job k is running"):
        resume("job-k", output=str(tmp_path))
    assert resume_study("job-j", "search.trials=2", output=str(tmp_path)).counts["COMPLETE"] == 2


def test_what_an_attempt_left_that_had_not_begun_is_forgotten(tmp_path: Path) -> None:
    config = study("s", tmp_path, {**SMALL, "storage": "sqlite:////nowhere/at/all/study.db"}, **SHORT)
    with pytest.raises(UserError, match=r"search\.storage"):
        run_study(config, local=True, job="j")
    assert (tmp_path / "job-j/study.yaml").exists() and (tmp_path / "job-j/internal/local").exists()
    run(replace(config, search=None), local=True, job="j")
    with pytest.raises(UserError, match="has finished"):  # and not: it is a study
        resume("job-j", output=str(tmp_path))


def test_a_study_whose_database_has_lost_its_trials_does_not_mix_them(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    config = study("s", tmp_path, {**SMALL, "trials": 1, "storage": f"sqlite:///{database}"}, **SHORT)
    run_study(config, local=True, job="j")
    database.unlink()
    assert config.search is not None
    with pytest.raises(UserError, match="trials are not there any more"):
        run_study(replace(config, search=replace(config.search, trials=2)), local=True, job="j")


def test_trials_on_a_cluster_need_nothing_of_the_drivers_machine(tmp_path: Path) -> None:
    config = study("s", tmp_path, SMALL, learner={"gpus": 1, "device": "cuda"}, **SHORT)
    with pytest.raises(UserError, match=r"learner\.gpus"):
        describe_study(config)
    elsewhere = replace(config, cluster=replace(config.cluster, address="10.0.0.7:6379"))
    assert "trials by grid" in describe_study(elsewhere)
    with pytest.raises(UserError, match=r"gpu|GPU|cuda"):
        describe_study(elsewhere, local=True)


def test_a_second_attempt_while_the_first_searches_is_refused_in_a_sentence(tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = study("s", output, SMALL, algorithm={"pause_s": 0.05}, stop={"epochs": 100})
    first = search(config, tmp_path, "--local", "--job", "j")
    assert kill_when(first, lambda: facts(output) >= 8, 0)  # no signal: it only has to be on its way
    second = search(config, tmp_path, "--local", "--job", "j")
    code, line, err = outcome(second)
    assert code == 2 and f"job j is running in process {first.pid} on " in err and "Traceback" not in err
    assert line["status"] == "FAILED"
    assert kill_when(first, lambda: True)


def test_a_database_that_knows_a_study_of_this_name_is_refused(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    part = {**SMALL, "storage": f"sqlite:///{database}"}
    run_study(study("s", tmp_path / "one", part, **SHORT), local=True, job="j")
    with pytest.raises(UserError, match="has trials of a study job-j already: give another --job"):
        run_study(study("s", tmp_path / "two", part, **SHORT), local=True, job="j")
    assert last_start(tmp_path / "two/job-j") is None  # nothing was begun
    with sqlite3.connect(database) as connection:
        assert connection.execute("select count(*) from trials").fetchone() == (4,)


def test_the_command_takes_a_study_or_the_job_of_one(tmp_path: Path) -> None:
    code, _, err = outcome(Forked("search", "--resume", "abc", "--job", "j", cwd=tmp_path))
    assert code == 2 and "give one of them" in err
    code, _, err = outcome(Forked("search", "grid_softmax_regression_digits", "--output", "/tmp/o", cwd=tmp_path))
    assert code == 2 and "write output=/tmp/o for a new study" in err


def test_a_search_is_checked_here_and_submitted_as_one(tmp_path: Path) -> None:
    output = f"output={tmp_path}"
    submission = prepare("grid_softmax_regression_digits", [output], job="j", check_study=check_study)
    words = submission.entrypoint.split()
    assert words[:4] == ["python", "-m", "rayloom", "search"] and words[-2:] == ["--job", "j"]
    assert prepare("grid_softmax_regression_digits", [output]).entrypoint.split()[3] == "run"
    with pytest.raises(UserError, match=r"^search: the config needs a mapping"):
        prepare("ppo_cartpole_ray", [output], check_study=check_study)
    with pytest.raises(UserError, match=r"^search\.space\.algorithm\.nothing: .* has no such setting"):
        prepare(
            "grid_softmax_regression_digits", [output, "search.space={algorithm.nothing: [1]}"], check_study=check_study
        )
    with pytest.raises(UserError, match=r"^search\.storage: the file would go with its node"):
        prepare("grid_softmax_regression_digits", [output, "search.storage=sqlite:///s.db"], check_study=check_study)
    secret = "search.storage=postgresql+psycopg://me:hidden@host/studies"
    with pytest.raises(UserError, match=r"^search\.storage: the dashboard shows") as refused:
        prepare("grid_softmax_regression_digits", [output, secret], check_study=check_study)
    assert "hidden" not in str(refused.value)
