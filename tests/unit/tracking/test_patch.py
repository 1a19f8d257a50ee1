"""The patch of a run: tracked files, no secrets, and the same whatever a user's git is set to."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from rayloom.tracking import patch as patches
from rayloom.tracking.provenance import git_state

HOSTILE = """
[diff]
    external = echo external
    noprefix = true
    mnemonicPrefix = true
    renames = copies
    context = 0
    interHunkContext = 9
    algorithm = patience
    relative = true
    colorMoved = zebra
    orderFile = {folder}/order
    wordRegex = .
    submodule = log
[diff "upper"]
    textconv = tr a-z A-Z <
    command = echo command
[color]
    ui = always
[core]
    pager = echo pager
    fsmonitor = touch {folder}/monitored; false
    quotePath = false
[pager]
    diff = echo pager
[alias]
    diff = !echo alias
"""


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a git tree with one commit."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    git(tree, "init", "-q", "-b", "trunk")
    (tree / "old.py").write_text("".join(f"a{n} = 1\n" for n in range(30)))
    (tree / "sub/moved.py").write_text("b = 1\n" * 20)
    (tree / ".env").write_text("A=1\n")
    (tree / "id_rsa").write_text("1\n")
    (tree / ".gitattributes").write_text("*.py diff=upper\n")
    git(tree, "add", "-f", ".")
    git(tree, "commit", "-q", "-m", "first")
    return tree


def diff_of(folder: Path) -> str:
    state = git_state(folder)
    assert state is not None
    return state.diff


def change(tree: Path) -> None:
    (tree / "old.py").write_text("".join(f"a{n} = {1 + n // 25}\n" for n in range(30)))
    (tree / "sub/moved.py").rename(tree / "sub/été.py")
    (tree / "new file.py").write_text("c = 3\n")
    git(tree, "add", "-N", "sub/été.py", "new file.py")


def test_the_patch_brings_a_clean_checkout_to_the_same_sources(tree: Path, tmp_path: Path) -> None:
    clean = git_state(tree)
    assert clean is not None and clean.diff == "" and clean.branch == "trunk"
    assert clean.commit == git(tree, "rev-parse", "HEAD").strip() and clean.tags()["rayloom.dirty"] == "false"
    change(tree)
    before = git(tree, "status", "--porcelain")
    dirty = git_state(tree / "sub")
    assert dirty is not None and dirty.commit == clean.commit and dirty.tags()["rayloom.dirty"] == "true"
    assert git(tree, "status", "--porcelain") == before
    git(tmp_path, "clone", "-q", str(tree), "clone")
    (tmp_path / "patch").write_text(dirty.diff)
    git(tmp_path / "clone", "apply", str(tmp_path / "patch"))
    for name in ("old.py", "sub/été.py", "new file.py"):
        assert (tmp_path / "clone" / name).read_bytes() == (tree / name).read_bytes(), name
    assert not (tmp_path / "clone/sub/moved.py").exists()


def test_no_setting_of_a_user_changes_the_patch(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(tree)
    plain = diff_of(tree)
    assert "\n-a25 = 1\n" in plain and "rename" not in plain
    (tmp_path / "order").write_text("sub/*\n")
    (tmp_path / "hostile").write_text(HOSTILE.format(folder=tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "hostile"))
    assert git(tree, "diff", "HEAD") != plain, "the settings count for others"
    (tmp_path / "monitored").unlink(missing_ok=True)
    for name, value in {
        "GIT_EXTERNAL_DIFF": "echo",
        "GIT_DIFF_OPTS": "--unified=0",
        "GIT_PAGER": "echo",
        "GIT_INDEX_FILE": str(tmp_path / "nowhere"),
        "GIT_DIR": str(tmp_path / "nowhere"),
        "GIT_WORK_TREE": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    assert diff_of(tree) == plain
    assert diff_of(tree / "sub") == plain
    assert not (tmp_path / "monitored").exists(), "a program of the settings was started"


def test_untracked_files_are_named_and_left_out(tree: Path) -> None:
    (tree / "new.py").write_text("hush = 1\n")
    (tree / ".env.local").write_text("hush=1\n")
    (tree / "data.bin").write_bytes(b"\0" * 10)
    state = git_state(tree)
    assert state is not None and state.diff == "# left out: new.py (git does not track it)\n"
    assert state.tags()["rayloom.dirty"] == "true"


@pytest.mark.parametrize(
    "name",
    [
        *(".env", "id_rsa", ".env.production", "deploy/server.pem", "a.KEY", "credentials.json", "b.p12", ".netrc"),
        *(".aws/config", "service_account.json", "é/.pypirc", "secrets.toml"),
    ],
)
def test_files_with_names_of_secrets_are_left_out(tree: Path, name: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("hush\n")
    (tree / "old.py").write_text("a = 2\n")
    git(tree, "add", "-f", ".")
    diff = diff_of(tree)
    assert "hush" not in diff and "+a = 2\n" in diff
    shown = name if name.isascii() else r"\303\251/.pypirc"
    assert diff.splitlines()[0] == f"# left out: {shown} (its name is one of files with secrets)"


@pytest.mark.parametrize(
    "parts",
    [
        ("-----BEGIN OPENSSH ", "PRIVATE KEY-----"),
        ("-----BEGIN ", "PRIVATE KEY-----"),
        ("AK", "IA" + "A1" * 8),
        ("gh", "p_" + "a1" * 18),
        ("github", "_pat_" + "a1" * 12),
        ("sk", "-proj-" + "a1" * 12),
        ("h", "f_" + "a1" * 17),
        ("xo", "xb-" + "1" * 12),
        ("ey", "J" + "a" * 12 + ".ey" + "J" + "b" * 12 + "." + "c" * 12),
    ],
)
def test_files_that_hold_a_secret_are_left_out(tree: Path, parts: tuple[str, str]) -> None:
    (tree / "old.py").write_text(f'key = "{parts[0]}{parts[1]}"\n')
    (tree / "sub/moved.py").write_text("b = 2\n")
    diff = diff_of(tree)
    assert "".join(parts) not in diff and "+b = 2\n" in diff
    assert diff.startswith("# left out: old.py (it holds what looks like a key or a token)\n")


def test_what_only_resembles_a_secret_stays(tree: Path) -> None:
    text = "task-somewhat-longer-than-twenty-letters PRIVATE KEY sk-learn hf_hub keys.py environment\n"
    (tree / "keys.py").write_text(text)
    (tree / "environment.py").write_text(text)
    git(tree, "add", ".")
    diff = diff_of(tree)
    assert diff.count(f"+{text}") == 2 and "left out" not in diff


def test_passwords_in_urls_are_replaced(tree: Path) -> None:
    (tree / "old.py").write_text("uri = 'http://me:hush@host'\n")
    diff = diff_of(tree)
    assert "+uri = 'http://me:***@host'\n" in diff and diff.startswith("# *** stands for passwords in URLs\n")


def test_a_git_that_hangs_is_given_up(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter of the user's is a program that may hang; it ends with git."""
    pid = tmp_path / "pid"
    git(tree, "config", "filter.slow.clean", f"echo $$ > {pid}; exec sleep 60")
    (tree / ".gitattributes").write_text("*.py filter=slow\n")
    (tree / "old.py").write_text("a = 2\n")
    monkeypatch.setattr(patches, "DEADLINE_S", 0.5)
    began = time.monotonic()
    state = git_state(tree)
    assert time.monotonic() - began < 5
    assert state is not None and state.diff.startswith("# the patch is not known: git diff")
    assert state.tags()["rayloom.dirty"] == "unknown"
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid.read_text().strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None
