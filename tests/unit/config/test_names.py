"""Names become folders: what is none is refused in a sentence, wherever it comes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayloom.cli.main import main
from rayloom.config.load import apply_overrides, from_tree, load
from rayloom.config.names import LONGEST_NAME, check_name, derived_name, output_folder
from rayloom.errors import UserError
from rayloom.runs.catalogue import find_any, remove
from rayloom.runs.folders import make_run_folder
from rayloom.runs.jobs import job_folder

CONFIG = "softmax_regression_digits"
WRONG = ["", ".", "..", "a/b", "../../x", "/x", "a\\b", "a\nb", "a\n", "a\0b", "a\x7f", "a\ud800", "a\udce9"]
WRONG += ["-x", "--help", ".x", "x.", "x ", " x", "x...", "x" * 201, "é" * 101]


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_is_no_folders_is_refused(name: str) -> None:
    tree = {**load(CONFIG).to_tree(), "name": name}
    with pytest.raises(UserError, match=r"^name: .* cannot name a folder; write letters, digits, spaces") as caught:
        from_tree(tree)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300
    with pytest.raises(UserError, match=r"^inputs\..* cannot name a folder"):
        from_tree({**load(CONFIG).to_tree(), "inputs": {name: "run"}})


@pytest.mark.parametrize("name", ["a", "a b's", "été", "名前", "a.b-c_d", "(1) #2 [x]?*%20", "x" * 200, "é" * 100])
def test_other_names_are_folders(name: str, tmp_path: Path) -> None:
    check_name(name, "name")
    config = from_tree({**load(CONFIG).to_tree(), "name": name, "output": str(tmp_path)})
    folder = make_run_folder(config)
    assert folder.parent == tmp_path and folder.is_dir()
    assert find_any(tmp_path, folder.name) == folder
    for suffix in ("-0007", "-best"):
        longer = derived_name(name, suffix)
        check_name(longer, "name")
        assert longer.endswith(suffix) and len(os.fsencode(longer)) <= LONGEST_NAME
    assert derived_name("a", "-best") == "a-best"


@pytest.mark.parametrize("job", [*WRONG, "a b", "é", "a.", "_a", "a" * 101])
def test_a_job_id_that_is_no_folders_is_refused(job: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--job: .* is no id; write letters, digits, dots") as caught:
        job_folder(tmp_path, job)
    assert str(caught.value).isprintable()


def test_job_ids(tmp_path: Path) -> None:
    for job in ("a", "1", "nightly-3.2_b", "a" * 100):
        assert job_folder(tmp_path, job).parent == tmp_path


@pytest.mark.parametrize("output", ["", "a\0b", "a\nb", "a\udce9", "a\x1b[31m"])
def test_an_output_folder_that_no_disk_or_terminal_takes_is_refused(output: str) -> None:
    for refuse in (output_folder, lambda text: from_tree({**load(CONFIG).to_tree(), "output": text})):
        with pytest.raises(UserError, match=r"^output: .* is no folder; write a path of letters") as caught:
            refuse(output)
        assert str(caught.value).isprintable()
    assert output_folder("a b#c?d%20é") == Path.cwd() / "a b#c?d%20é"


@pytest.mark.parametrize("command", ["resume", "evaluate", "sample", "export", "rm"])
@pytest.mark.parametrize("name", ["../outside", "/", "..", ".", "", "a/../../outside", "a\0b", "a\nb", "{outside}"])
def test_commands_look_into_the_output_folder_only(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = make_run_folder(load(CONFIG, (f"output={tmp_path}", "name=x")))
    (tmp_path / "outside").symlink_to(outside)
    (tmp_path / "in").mkdir()
    name = name.format(outside=outside)
    assert main([command, name, f"--output={tmp_path / 'in'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"rayloom: {name!r} names no run: write the name of its folder, its MLflow id or")
    assert said.count("\n") == 1 and outside.is_dir()
    assert main(["search", "--resume", name, f"--output={tmp_path / 'in'}"]) == 2
    assert capsys.readouterr().err.startswith(f"rayloom: {name!r} names no study: write the name of its folder")
    assert main([command, "x", "--output=a\0b"]) == 2
    assert capsys.readouterr().err.startswith("rayloom: output: 'a\\x00b' is no folder")


def test_rm_removes_no_more_than_a_link_to_elsewhere(tmp_path: Path) -> None:
    elsewhere = make_run_folder(load(CONFIG, (f"output={tmp_path / 'elsewhere'}",)))
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"^link is a link to .*elsewhere.*remove it yourself"):
        remove(link)
    assert elsewhere.is_dir() and link.is_symlink()


def test_an_override_is_checked_too() -> None:
    with pytest.raises(UserError, match=r"^name: 'a/b' cannot name a folder"):
        from_tree(apply_overrides(load(CONFIG).to_tree(), ("name=a/b",)))
