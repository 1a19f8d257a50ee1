"""Own sources survive kill -9: the resumed run ends with the bits of the uninterrupted one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import own_sources
from own_runs import games, line
from processes import finish, history, journal_lines, kill_after, run_folder, start, write_config
from rayloom import run
from rayloom.config.schema import RunConfig

FAKES = str(Path(own_sources.__file__).parent)


@pytest.mark.parametrize(("make", "stop"), [(games, {"updates": 1500}), (line, {"samples": 160_000})])
def test_a_killed_run_of_an_own_source_resumes_to_the_same_bits(
    make: Callable[..., RunConfig], stop: dict[str, float], tmp_path: Path
) -> None:
    whole_config = make(tmp_path / "whole")
    config = replace(whole_config, stop=stop, tracking=replace(whole_config.tracking, every="20 updates"))
    whole = run(config, local=True)
    total = journal_lines(tmp_path / "whole")
    environment = {"PYTHONPATH": os.pathsep.join([FAKES, os.environ.get("PYTHONPATH", "")])}
    output = tmp_path / "killed"
    process = start("run", str(write_config(config, tmp_path)), f"output={output}", cwd=tmp_path, **environment)
    assert kill_after(process, output, max(1, total // 4)), "the run ended before it could be killed: make it longer"
    folder = run_folder(output)
    resumed = finish(start("resume", folder.name, f"--output={output}", cwd=tmp_path, **environment))
    assert resumed["weights_sha256"] == whole.weights_sha256
    assert history(folder) == history(whole.run_dir)
