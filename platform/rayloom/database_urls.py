"""Paths of sqlite files as database URLs, and back.

    /runs/a?b%20c/mlflow.db  <->  sqlite+pysqlite:////runs/a%3Fb%2520c/mlflow.db

SQLAlchemy decodes the path of a URL since 2.1, and cuts it at a question mark. Only what would be misread is encoded.
MLflow makes the folder of a `sqlite:///` database anew without decoding it, and so would leave a folder of another name
behind; it does not where the URL names the driver.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

_URL = re.compile(r"sqlite(?:\+[a-z0-9_]+)?:///(?P<path>[^?]*)(?P<rest>\?.*)?", re.DOTALL)


def is_sqlite(url: str) -> bool:
    """Tell whether a URL is one of sqlite, whatever driver it names."""
    return re.match(r"sqlite(\+[a-z0-9_]+)?:", url) is not None


def sqlite_path(url: str) -> Path | None:
    """Return the file of a sqlite URL, relative where that is; None for databases in memory and other URLs."""
    match = _URL.fullmatch(url)
    path = unquote(match["path"]) if match else ""
    return None if path in ("", ":memory:") or path.startswith("file:") else Path(path)


def sqlite_url(path: Path, like: str = "") -> str:
    """Return the URL of a sqlite file; with the parameters of the URL `like`, where one is given."""
    match = _URL.fullmatch(like)
    rest = match["rest"] or "" if match else ""
    plain = os.fspath(path)
    encoded = plain.replace("%", "%25").replace("?", "%3F")
    return f"{'sqlite' if encoded == plain else 'sqlite+pysqlite'}:///{encoded}{rest}"
