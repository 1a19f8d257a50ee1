"""The patch from a commit to the working tree, as it is recorded with a run: what was trained, and no secrets.

Only tracked files are in it. Files whose name or content is that of a secret are left out; lines at the head of the
patch, which `git apply` passes over, name them. Nothing in a user's git configuration changes the patch.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from rayloom.redaction import redacted

DEADLINE_S = 10.0
"""Longest wait for one call of git (seconds)."""
UNKNOWN = "# the patch is not known: "
"""Beginning of what stands for a patch that git did not give."""
_LARGEST = 5_000_000
_SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml", "*.sh")
_MOST_NAMED = 100

_SECRET_NAMES = (
    *(".env*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.tfstate"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "credentials*", "*credentials.json", "*service?account*.json"),
    *(".netrc*", "_netrc", ".pgpass", ".npmrc", ".pypirc", ".htpasswd", ".git-credentials", ".dockercfg"),
    *("secrets.yaml", "secrets.yml", "secrets.json", "secrets.toml"),
)
_SECRET_FOLDERS = {".ssh", ".aws", ".gnupg", ".kube", ".docker"}
_SECRET_CONTENT = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"
    r"|(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # Amazon
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{20,}|glpat-[\w-]{20,}"  # GitHub, GitLab
    r"|sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}|AIza[\w-]{35}|ya29\.[\w-]{20,}"  # models, Google
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}|dckr_pat_[\w-]{20,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"  # a signed web token
    r")"
)

# A user's settings that would change a patch, or start a program of theirs.
_SETTINGS = (
    *(
        "core.fsmonitor=false",
        "core.quotePath=true",
        "core.pager=cat",
        "color.ui=false",
        "diff.suppressBlankEmpty=false",
    ),
    *("diff.noprefix=false", "diff.mnemonicPrefix=false", "diff.relative=false", "diff.ignoreSubmodules=none"),
    *("diff.renames=false", "diff.interHunkContext=0", "diff.wsErrorHighlight=none", "diff.colorMoved=no"),
)
_DIFF = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/"),
    *("--unified=3", "--inter-hunk-context=0", "--diff-algorithm=myers", "--indent-heuristic", "--submodule=short"),
    *("--no-relative", "--output-indicator-new=+", "--output-indicator-old=-", "--output-indicator-context= "),
    *("-O/dev/null", "HEAD", "--"),
)
_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS")
"""Of a git hook, say, that started the training: they would speak of another tree."""


def patch(top: Path) -> str:
    """Return the patch of the git tree at `top`; empty when nothing that counts differs from HEAD.

    A patch above 5 MB is cut, with a last line that says so. Where git gives none, the text begins with `UNKNOWN`.
    """
    whole = git(top, *_DIFF)
    if whole is None:
        return f"{UNKNOWN}git diff failed, or took longer than {DEADLINE_S:g} s\n"
    new = git(top, "ls-files", "-z", "--others", "--exclude-standard", "--", *_SOURCES) or b""
    kept, notes = [], []
    for name, section in _sections(whole.decode(errors="replace")):
        reason = _reason_against(name, section)
        if reason is None:
            kept.append(section)
        else:
            notes.append(f"# left out: {name} ({reason})\n")
    notes += [f"# left out: {_printable(name)} (git does not track it)\n" for name in new.split(b"\0") if name]
    if len(notes) > _MOST_NAMED:
        notes[_MOST_NAMED:] = [f"# left out: {len(notes) - _MOST_NAMED} more files\n"]
    return "".join(notes) + _body("".join(kept))


def _body(text: str) -> str:
    told = redacted(text)
    if told != text:
        told = f"# *** stands for passwords in URLs\n{told}"
    if len(told) > _LARGEST:
        told = told[:_LARGEST] + f"\n# cut here: the patch has {len(told)} characters\n"
    return told


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, lines) of each file of a patch without renames; a name that git quotes stays quoted."""
    for section in re.split(r"^(?=diff --git )", text, flags=re.MULTILINE):
        if section:
            twice = section.partition("\n")[0].removeprefix("diff --git ")
            yield twice[: len(twice) // 2].strip('"').removeprefix("a/"), section


def _reason_against(name: str, section: str) -> str | None:
    path = PurePosixPath(name.lower())
    if any(fnmatchcase(path.name, pattern) for pattern in _SECRET_NAMES) or _SECRET_FOLDERS.intersection(path.parts):
        return "its name is one of files with secrets"
    if _SECRET_CONTENT.search(section):
        return "it holds what looks like a key or a token"
    return None


def _printable(name: bytes) -> str:
    return name.decode(errors="replace").replace("\n", "\\n")


def git(folder: Path, *arguments: str) -> bytes | None:
    """Return what git prints about the tree that holds `folder`; None where it fails, is late or is not there.

    It takes no locks, and neither the user's settings of patches nor variables of a running git count.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    try:
        process = subprocess.Popen(
            ["git", "--no-pager", "-C", str(folder), *settings, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            start_new_session=True,  # filters of a file are programs: they go with git
        )
    except FileNotFoundError:
        return None
    with process:
        try:
            told, _ = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return None
    return told if process.returncode == 0 else None
