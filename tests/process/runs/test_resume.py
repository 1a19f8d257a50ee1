"""kill -9 at a random moment, resume, and the end equals the uninterrupted run's: weights and metric history."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from cases import case
from processes import finish, history, journal_lines, kill_after, run_folder, start, write_config
from rayloom import resume, run
from rayloom.config.schema import RunConfig

# Long enough that a kill in the first 60 % of the journal meets a living process.
_LONGER: dict[str, dict[str, Any]] = {
    "ppo": {"stop": {"env_steps": 16_000}, "evaluate": {"every": "2_000 env_steps"}},
    "ppo_continuous": {"stop": {"env_steps": 8_000}, "evaluate": {"every": "2_000 env_steps"}},
    "dqn": {"stop": {"env_steps": 8_000}, "evaluate": {"every": "1_000 env_steps"}},
    "dqn_prioritized_n_step": {"stop": {"env_steps": 6_000}, "evaluate": {"every": "1_000 env_steps"}},
    "dqn_ahead": {"stop": {"env_steps": 6_000}, "evaluate": {"every": "1_000 env_steps"}},
    "impala": {"stop": {"env_steps": 80_000}, "evaluate": {"every": "8_000 env_steps"}},
    "softmax_regression": {"stop": {"epochs": 120}, "evaluate": {"every": "10 epochs"}},
    "lenet5": {"stop": {"epochs": 15}},
    "mlp_dropout": {"stop": {"epochs": 40}, "evaluate": {"every": "5 epochs"}},
    "vae": {"stop": {"epochs": 60}, "evaluate": {"every": "5 epochs"}},
    "wgan_gp": {"stop": {"updates": 400}, "evaluate": {"every": "50 updates"}},
}


def _config(name: str, output: Path, **sections: dict[str, Any]) -> RunConfig:
    return case(name, str(output), **{**_LONGER[name], **sections})


def _killed(config: RunConfig, folder: Path, total: int, moment: float, *options: str) -> Path:
    """Start the run in a process and kill it at about `moment` of its journal; return its output folder."""
    for attempt in range(3):
        output = folder / f"killed-{attempt}"
        tree_file = write_config(config, folder)
        process = start("run", str(tree_file), f"output={output}", *options, cwd=folder)
        if kill_after(process, output, max(1, int(total * moment))):
            return output
        moment /= 2
    raise AssertionError("the run always ended before it could be killed: make it longer")


@pytest.mark.parametrize("name", sorted(_LONGER))
def test_a_killed_run_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    config = _config(name, tmp_path / "whole")
    whole = run(config, local=True)
    moment = random.Random(name).uniform(0.1, 0.6)
    output = _killed(config, tmp_path, journal_lines(tmp_path / "whole"), moment, "--local")
    folder = run_folder(output)
    resumed = finish(start("resume", folder.name, f"--output={output}", cwd=tmp_path))
    assert resumed["weights_sha256"] == whole.weights_sha256
    assert history(folder) == history(whole.run_dir)


def test_a_run_killed_twice_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = _config("ppo", tmp_path / "whole")
    whole = run(config, local=True)
    total = journal_lines(tmp_path / "whole")
    output = _killed(config, tmp_path, total, 0.25, "--local")
    folder = run_folder(output)
    again = start("resume", folder.name, f"--output={output}", cwd=tmp_path)
    assert kill_after(again, output, int(total * 0.6))
    resumed = finish(start("resume", folder.name, f"--output={output}", cwd=tmp_path))
    assert resumed["weights_sha256"] == whole.weights_sha256
    assert history(folder) == history(whole.run_dir)


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    config = _config("softmax_regression", tmp_path / "whole", checkpoint={"every": "10 epochs", "keep": 3})
    whole = run(config, local=True)
    output = _killed(config, tmp_path, journal_lines(tmp_path / "whole"), 0.6, "--local")
    folder = run_folder(output)
    newest = sorted((folder / "checkpoints").glob("step_*"))[-1]
    tensors = newest / "tensors.safetensors"
    damaged = bytearray(tensors.read_bytes())
    damaged[-1] ^= 1
    tensors.write_bytes(damaged)
    process = start("resume", folder.name, f"--output={output}", cwd=tmp_path)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert newest.name in err and whole.weights_sha256 in out
    assert history(folder) == history(whole.run_dir)


@pytest.mark.full
@pytest.mark.xdist_group("ray")
def test_a_killed_run_with_a_rollout_actor_resumes_to_the_bits_of_one_process(tmp_path: Path) -> None:
    config = _config("ppo", tmp_path / "whole")
    whole = run(config, local=True)
    on_ray = _config("ppo", tmp_path / "ray", source={"rollout_workers": 1})
    output = _killed(on_ray, tmp_path, journal_lines(tmp_path / "whole"), 0.3)
    folder = run_folder(output)
    resumed = finish(start("resume", folder.name, f"--output={output}", cwd=tmp_path))
    assert resumed["weights_sha256"] == whole.weights_sha256
    assert history(folder) == history(whole.run_dir)


@pytest.mark.parametrize("stop", [{"epochs": 3}, {"epochs": 50, "evaluate/accuracy": 0.7}])
def test_a_run_killed_after_its_last_checkpoint_does_nothing_more(stop: dict[str, Any], tmp_path: Path) -> None:
    whole = run(case("softmax_regression", str(tmp_path), stop=stop))
    before = history(whole.run_dir)
    (whole.run_dir / "result.json").unlink()  # what a kill while the tracker finishes leaves behind
    process = json.loads((whole.run_dir / "internal/process.json").read_text())
    (whole.run_dir / "internal/process.json").write_text(json.dumps({**process, "pid": 2**22 + 1}))
    resumed = resume(whole.run_dir.name, output=str(tmp_path))
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.counters == whole.counters and resumed.stopped_by == whole.stopped_by
    assert history(whole.run_dir) == before
