"""Passwords in URLs: what is one, what stays, and how it comes back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NoReturn, cast

import pytest

from rayloom.cli.main import main
from rayloom.config.load import apply_overrides, from_tree, load
from rayloom.config.schema import RunConfig
from rayloom.errors import UserError
from rayloom.launch import trained
from rayloom.redaction import RedactedStream, completed, has_secret, lacks_secret, redacted, redacted_tree, redacted_url
from rayloom.runs.folders import make_run_folder
from rayloom.runs.passwords import given_passwords, with_passwords
from rayloom.runs.sameness import learnt_from

CONFIG = "softmax_regression_digits"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://u:hush@h/d?sslpassword=hush&x=1", "postgresql+psycopg://u:***@h/d?sslpassword=***&x=1"),
        ("http://u:p@hush@host:5000/x", "http://u:***@host:5000/x"),
        ("http://u:12345@host:5000", "http://u:***@host:5000"),
        ("http://:hush@host", "http://:***@host"),
        ("postgresql://u:hu/sh@h/d", "postgresql://u:***@h/d"),
        ("https://hush@host/x", "https://***@host/x"),
        ("https://hush:x-oauth-basic@host", "https://***@host"),
        ("https://h/?pass%77ord=hush", "https://h/?pass%77ord=***"),
        ("https://h/?api_key=hush&n=1", "https://h/?api_key=***&n=1"),
        ("mssql+pyodbc://?odbc_connect=Server%3Dh%3BPWD%3Dhush", "mssql+pyodbc://?odbc_connect=***"),
        ("it is (mysql://u:hush@h/d), and a@b", "it is (mysql://u:***@h/d), and a@b"),
        ("two: http://u:hush@h and http://v:hush@i", "two: http://u:***@h and http://v:***@i"),
    ],
)
def test_secrets_are_replaced(text: str, shown: str) -> None:
    assert redacted(text) == redacted_url(text) == shown
    assert has_secret(text) and not has_secret(shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hush hush@h/d", "postgresql://u:***@h/d"),
        ('postgresql://u:hu"sh@h/d', "postgresql://u:***@h/d"),
        ("sqlite:////a/b.db?password=hush hush", "sqlite:////a/b.db?password=***"),
        ("http://h/x?a=1;password=hush", "http://h/x?a=1;password=***"),
        ("http://h/x;token=hush", "http://h/x;token=***"),
        ("http://h/x#access_token=hush", "http://h/x#access_token=***"),
        ("http://h/x?jwt=hush&n=1", "http://h/x?jwt=***&n=1"),
        ("http://h/x?bearer=hu;sh", "http://h/x?bearer=***"),
        ("http://h/x?oauth=hush", "http://h/x?oauth=***"),
        ("http://h/x?pw=hush", "http://h/x?pw=***"),
    ],
)
def test_a_secret_of_a_url_that_stands_alone_may_have_spaces(url: str, shown: str) -> None:
    assert redacted_url(url) == shown and redacted_tree([url]) == [shown]
    assert completed(shown, [url]) == url


def test_a_sentence_that_begins_with_a_url_keeps_its_end() -> None:
    for url in ("http://u:hush@h", "sqlite:////a/b.db?password=hush", "https://hush@h/x"):
        sentence = str(UserError(f"{url} does not answer"))
        assert sentence == f"{redacted_url(url)} does not answer" == redacted_tree(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/a@b",
        "http://host:8265 does not answer: ask a@b",
        "http://[::1]:5000/x",
        "postgresql://u@h/d",
        "sqlite:////a b@c/x:y@z.db",
        "https://h/?tokens_per_batch",
        "x = 1;token=2  #key=3",
        "postgresql+psycopg://h/d?sslkey=/etc/k.pem&sslmode=require",
        "at 12:30 a@b",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text and not has_secret(text) and not lacks_secret(text)


def test_secrets_of_a_url_go_wherever_they_stand() -> None:
    url = "postgresql://u:lo%26om@h/d?token=we+ft"
    assert redacted("no 'lo&om', 'lo%26om', 'we ft'", url) == "no '***', '***', '***'"


def test_a_recorded_url_is_completed_by_the_same_one_only() -> None:
    url = "http://u:hush@h"
    recorded = redacted(url)
    assert lacks_secret(recorded)
    assert completed(recorded, [None, "", recorded, "http://u:other@elsewhere", url]) == url
    assert completed(recorded, ["http://v:hush@h"]) is None
    assert completed("http://h", []) == "http://h"


def test_trees_and_streams() -> None:
    tree = {"a": ["http://u:hush@h", 1, None], "b": {"c": ("http://u:hush@h", 2.5)}}
    assert redacted_tree(tree) == {"a": ["http://u:***@h", 1, None], "b": {"c": ("http://u:***@h", 2.5)}}
    told = io.StringIO()
    stream = RedactedStream(told, "http://u:hush@h")
    print("at http://u:hush@h", "with hush", file=cast(io.TextIOBase, stream))
    assert told.getvalue() == "at http://u:***@h with ***\n"


def test_sentences_and_yaml_have_no_passwords() -> None:
    assert str(UserError("no http://u:hush@h here")) == "no http://u:***@h here"
    config = load(CONFIG, ("tracking.uri=http://u:hush@h", "tracking.enabled=true"))
    assert "hush" not in config.to_yaml() and "http://u:***@h" in config.to_yaml()
    assert config.tracking.uri == "http://u:hush@h"


def test_a_recorded_config_gets_its_passwords_again(monkeypatch: pytest.MonkeyPatch) -> None:
    search = {"space": {"learner.batch_size": [1, 2]}, "storage": "postgresql://u:hush@h/d"}
    whole = from_tree({**load(CONFIG, ("tracking.uri=http://u:hush@h",)).to_tree(), "search": search})
    recorded = from_tree(redacted_tree(whole.to_tree()))
    storage = "search.storage=postgresql://u:hush@h/d"
    assert with_passwords(recorded, (storage, "tracking.uri=http://u:hush@h")) == whole
    with pytest.raises(UserError, match=r"^tracking\.uri: http://u:\*\*\*@h stands here without.*MLFLOW_TRACKING_URI"):
        with_passwords(recorded, (storage,))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:hush@h")
    assert with_passwords(recorded, (storage,)) == whole
    with pytest.raises(UserError, match=r"^search\.storage: .* set RAYLOOM_SEARCH_STORAGE to the whole of it, or give"):
        with_passwords(recorded)
    monkeypatch.setenv("RAYLOOM_SEARCH_STORAGE", "postgresql://u:hush@h/d")
    assert with_passwords(recorded) == whole
    untracked = from_tree(apply_overrides(recorded.to_tree(), ("tracking.enabled=false",)))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert with_passwords(untracked).tracking.uri == "http://u:***@h"


def test_a_checkpoint_has_no_passwords_of_the_settings() -> None:
    """Those of an environment, say; another password does not make other settings."""
    config = load("ppo_cartpole", ("source.env_options={url: 'http://u:hush@h', all: ['http://u:hush@h']}",))
    other = load("ppo_cartpole", ("source.env_options={url: 'http://u:rush@h', all: ['http://u:hush@h']}",))
    settings = learnt_from(config)
    assert settings["source.env_options.url"] == "http://u:***@h" and "hush" not in str(settings)
    assert learnt_from(other) == settings
    recorded = from_tree(redacted_tree(config.to_tree()))
    with pytest.raises(
        UserError, match=r"^source\.env_options\.\w+: .* without its password; give it as source\.env_opt"
    ):
        with_passwords(recorded)
    given = ("source.env_options.url=http://u:hush@h", "source.env_options.all=['http://u:hush@h']")
    assert with_passwords(recorded, given) == config
    nested = load("ppo_cartpole", ("source.env_options.deep=[{url: 'http://u:hush@h'}]",))
    recorded = from_tree(redacted_tree(nested.to_tree()))
    with pytest.raises(UserError, match=r"^source\.env_options\.deep: .* stands here without its password"):
        with_passwords(recorded)
    assert with_passwords(recorded, ("source.env_options.deep=[{url: 'http://u:hush@h'}]",)) == nested


@pytest.mark.parametrize("override", ["tracking.uri=http://u:hush@elsewhere", "learner.batch_size=1", "seed=3"])
def test_what_goes_on_keeps_everything_else(override: str) -> None:
    recorded = load(CONFIG, ("tracking.uri=http://u:***@h",))
    with pytest.raises(UserError, match=rf"^{override.partition('=')[0]}: what goes on keeps its settings"):
        with_passwords(recorded, (override,))


def test_json_stays_json() -> None:
    data = {"a": "sqlite:////a/b.db?password=hush", "b": "postgresql://h:5432/d", "c": "http://u:hush@h", "d": "a@b"}
    shown = {**data, "a": "sqlite:////a/b.db?password=***", "c": "http://u:***@h"}
    assert json.loads(redacted(json.dumps(data))) == shown
    assert redacted(json.dumps(shown)) == json.dumps(shown)


def test_resume_takes_overrides_in_their_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "f00d", "more"]) == 2
    assert "the override 'more' must have the form KEY=VALUE" in capsys.readouterr().err


def test_an_evaluation_is_given_passwords_and_other_overrides() -> None:
    config = load("ppo_cartpole", ("source.env_options={url: 'http://u:hush@h'}",))
    recorded = from_tree(redacted_tree(config.to_tree()))
    words = ("evaluate.episodes=3", "source.env_options.url=http://u:hush@h")
    assert given_passwords(recorded, words) == (config, ("evaluate.episodes=3",))
    elsewhere = ("source.env_options.url=http://u:hush@elsewhere",)
    assert given_passwords(recorded, elsewhere) == (recorded, elsewhere)


def test_evaluate_takes_them_from_its_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load("ppo_cartpole", (f"output={tmp_path}", "source.env_options={url: 'http://u:hush@h'}"))
    folder = make_run_folder(config)
    assert "hush" not in (folder / "config.yaml").read_text()
    seen = []

    def build(config: RunConfig, *unused: object) -> NoReturn:
        seen.append(config)
        raise UserError("built")

    monkeypatch.setattr(trained, "build_trained", build)
    with pytest.raises(UserError, match=r"^built$"):
        trained.evaluate(folder.name, "source.env_options.url=http://u:hush@h", output=str(tmp_path))
    assert seen == [config]
