"""Passwords in URLs: recognised, left out of whatever is written or shown, and found again.

    postgresql://rl:PASSWORD@db/studies?sslpassword=PASSWORD  ->  postgresql://rl:***@db/studies?sslpassword=***

A URL may hold a secret before its host (`user:password@`; for http also a user alone, which may be a token) and in
parameters whose names speak of one. What is recorded of a run has the mark in its place; whoever needs the whole URL
again compares what is known, as an environment variable, with what was recorded (`completed`).
"""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO, cast
from urllib.parse import unquote, unquote_plus

MARK = "***"
_SCHEME = r"(?<![A-Za-z0-9+.\-])(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):?//"
_SECRET_NAME = re.compile(
    r"passw|passphrase|pwd|token|secret|credential|signature|(api|access|account|private)[_-]?key|odbc_connect"
    r"|bearer|oauth|jwt|^(sig|auth|authorization|key|pass|pw|session(_?id)?)$",
    re.IGNORECASE,
)
_OF_A_TOKEN = ("", "x-oauth-basic")  # passwords beside a user that is a token


class _Patterns:
    """Where secrets stand in a URL that ends before a character of the class `gap`.

    `before` are the signs before a parameter: inside of a text, which may be a program, only those of every URL.
    """

    def __init__(self, gap: str, before: str) -> None:
        self.password = re.compile(
            rf"{_SCHEME}(?P<user>(?!\[)[^{gap}:/@?#]*):(?P<password>[^{gap}@]*(?:@[^{gap}@/?#]*(?=@))*)@"
        )
        self.user = re.compile(rf"(?P<scheme>https?)://(?P<user>[^{gap}:/@?#]+)@", re.IGNORECASE)
        self.parameter = re.compile(rf"(?P<head>[{before}](?P<name>[^=&?#;{gap}]+)=)(?P<value>[^&{gap}]*)")


_WITHIN, _ALONE = _Patterns(r"\s\"", "?&"), _Patterns(r"\n", "?&;#")  # a quote ends one in JSON


def redacted(text: str, *urls: str) -> str:
    """Return a text in which every URL has the mark for its secrets; those of `urls` go wherever they stand."""
    for secret in sorted({spelt for url in urls for spelt in _spellings(url)}, key=len, reverse=True):
        text = text.replace(secret, MARK)
    return _marked(text, _WITHIN)


def redacted_url(url: str) -> str:
    """Return a URL with the mark for its secrets, which may have spaces; another text as `redacted` does."""
    return _marked(url, _patterns(url))


def redacted_tree(value: Any) -> Any:
    """Return plain data in which every string is redacted; one that begins with a URL is taken for it."""
    if isinstance(value, str):
        return redacted_url(value)
    if isinstance(value, Mapping):
        return {key: redacted_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redacted_tree(item) for item in value)
    return value


def has_secret(text: str) -> bool:
    """Tell whether a URL in the text holds a password or token."""
    return redacted_url(text) != text


def lacks_secret(url: str) -> bool:
    """Tell whether a URL was recorded without its secrets."""
    return MARK in _secrets(url)


def completed(url: str, known: Iterable[str | None]) -> str | None:
    """Return a recorded URL with its secrets: the first known one that equals it but for them; None without any."""
    if not lacks_secret(url):
        return url
    return next((other for other in known if other and other != url and redacted_url(other) == url), None)


def _marked(text: str, patterns: _Patterns) -> str:
    text = patterns.password.sub(_password_marked, text)
    text = patterns.user.sub(rf"\g<scheme>://{MARK}@", text)
    return patterns.parameter.sub(_parameter_marked, text)


def _patterns(text: str) -> _Patterns:
    return _ALONE if re.fullmatch(rf"{_SCHEME}.*", text) else _WITHIN


def _secrets(url: str) -> list[str]:
    """Return the secrets of a URL as they are written there; an empty one is none."""
    patterns = _patterns(url)
    found = [part for match in patterns.password.finditer(url) for part in _secret_parts(match)]
    found += [match["user"] for match in patterns.user.finditer(url)]
    found += _secret_values(url, patterns.parameter)
    return [secret for secret in found if secret]


def _secret_values(text: str, parameter: re.Pattern[str]) -> list[str]:
    found: list[str] = []
    for match in parameter.finditer(text):
        found += [match["value"]] if _is_secret_name(match["name"]) else _secret_values(match["value"], parameter)
    return found


def _spellings(url: str) -> list[str]:
    return [
        spelt for secret in _secrets(url) if secret != MARK for spelt in (secret, unquote(secret), unquote_plus(secret))
    ]


def _secret_parts(match: re.Match[str]) -> list[str]:
    if _is_port(match):
        return []
    return [match["user"], match["password"]] if _is_token(match) else [match["password"]]


def _password_marked(match: re.Match[str]) -> str:
    if _is_port(match):
        return match[0]
    whole, start = match[0], match.start()
    if _is_token(match):
        return f"{whole[: match.start('user') - start]}{MARK}@"
    return f"{whole[: match.start('password') - start]}{MARK if match['password'] else ''}@"


def _parameter_marked(match: re.Match[str]) -> str:
    value = match["value"]
    if value and not _is_secret_name(match["name"]):  # another may follow: ?a=1;password=...
        return match["head"] + match.re.sub(_parameter_marked, value)
    if not value or value.startswith(f"{MARK} "):  # a sentence goes on there
        return match[0]
    return f"{match['head']}{MARK}"


def _is_port(match: re.Match[str]) -> bool:
    """Tell whether what looks like a password is a port and a path with an @, as in http://host:80/a@b."""
    return _is_http(match) and re.match(r"\d*[/?#\s]", match["password"]) is not None


def _is_token(match: re.Match[str]) -> bool:
    return _is_http(match) and match["password"] in _OF_A_TOKEN


def _is_http(match: re.Match[str]) -> bool:
    return match["scheme"].lower() in ("http", "https")


def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(unquote(name)) is not None


class RedactedStream:
    """A text stream that redacts what is written, each piece by itself."""

    def __init__(self, stream: TextIO, *urls: str) -> None:
        """Write to `stream`; the secrets of `urls` are replaced wherever they stand."""
        self._stream = stream
        self._urls = urls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text without secrets; return the length of what was given."""
        self._stream.write(redacted(text, *self._urls))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts without secrets."""
        for line in lines:
            self.write(line)


@contextlib.contextmanager
def redacted_output() -> Iterator[None]:
    """Redact what this process prints, tracebacks of exceptions that end it included."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, RedactedStream(stream)) for stream in before)
    try:
        yield
    except Exception:
        sys.excepthook = _print_redacted
        raise
    finally:
        sys.stdout, sys.stderr = before


def _print_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
