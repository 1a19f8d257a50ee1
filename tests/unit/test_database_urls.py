"""Paths of sqlite files and their URLs: what SQLAlchemy and MLflow make of them."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from rayloom.database_urls import is_sqlite, sqlite_path, sqlite_url
from rayloom.tracking.location import artifact_location, resolve_uri

NAMES = [
    "plain",
    "a b#c?d%20é",
    "100%",
    "?",
    "%3F",
    "a:b@c",
    "x?password=y",
    "[1]*",
    string.punctuation.replace("/", ""),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_comes_back_and_is_the_file_that_sqlalchemy_opens(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / "study.db"
    url = sqlite_url(path)
    assert sqlite_path(url) == path and is_sqlite(url)
    assert make_url(url).database == str(path)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        connection.exec_driver_sql("create table t (x)")
    assert path.is_file() and [entry.name for entry in tmp_path.iterdir()] == [name]
    # MLflow makes the folder of sqlite:///PATH without decoding PATH.
    assert not url.startswith("sqlite:///") or url.removeprefix("sqlite:///") == str(path)


def test_urls_of_people() -> None:
    assert sqlite_url(Path("/runs/mlflow.db")) == "sqlite:////runs/mlflow.db"
    assert sqlite_path("sqlite:///a/b.db?timeout=3") == Path("a/b.db")
    assert sqlite_path("sqlite+pysqlite:////a%20b.db") == Path("/a b.db")
    assert sqlite_url(Path("/x/b.db"), "sqlite:///b.db?timeout=3") == "sqlite:////x/b.db?timeout=3"
    for nothing in ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?uri=true", "postgresql:///a"):
        assert sqlite_path(nothing) is None
    assert not is_sqlite("sqlites:///a") and not is_sqlite("/sqlite:/a")


def test_the_store_of_an_output_folder_lies_in_it(tmp_path: Path) -> None:
    output = tmp_path / "a b#c?d%20é"
    uri = resolve_uri(None, output)
    assert sqlite_path(uri) == output / "mlflow.db" and resolve_uri(uri, Path("elsewhere")) == uri
    assert artifact_location(uri, Path("elsewhere/run")) == (output / "mlartifacts").as_uri()
    assert resolve_uri("sqlite:///x.db?timeout=3", output) == f"sqlite:///{Path.cwd()}/x.db?timeout=3"
