"""Data that are larger than the memory: how much anonymous memory a run over a memory map takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from places import FAKES

_RUN = """
import json, sys
import rayloom
from rayloom.config.load import from_tree
from rayloom.runs.observer import Observer

def anonymous_mib():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

class Watch(Observer):
    most = 0.0
    def report(self, report):
        Watch.most = max(Watch.most, anonymous_mib())

def run(folder, updates, resident):
    return rayloom.run(from_tree({
        "name": "large", "algorithm": {"import": "tiny_learners:RowLabeller"},
        "source": {"kind": "dataset", "dataset": {"kind": "arrays", "path": folder, "memory_mib": resident},
                   "resident_mib": resident},
        "learner": {"batch_size": 1024}, "stop": {"updates": updates}, "output": sys.argv[1] + "/runs",
        "tracking": {"enabled": False, "system_metrics": False, "every": 20}}), local=True, observer=Watch())

run(sys.argv[1] + "/small", 20, 64.0)  # what a run takes without large data
before, Watch.most = max(Watch.most, anonymous_mib()), 0.0
result = run(sys.argv[1] + "/large", int(sys.argv[2]), 64.0)
print(json.dumps([before, max(Watch.most, anonymous_mib()), result.metrics["evaluate/accuracy"]]))
"""


def write(folder: Path, rows: int) -> None:
    """Write `rows` rows of 1,024 zeros, of which a sparse file stores none, and their classes."""
    folder.mkdir()
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, (rows, 1024))
    del features
    np.save(folder / "label.npy", np.arange(rows, dtype=np.int64) % 2)


def memory(tmp_path: Path, rows: int, updates: int) -> tuple[float, float]:
    """Return the anonymous memory (MiB) of a small run and the most that one over `rows` rows of 4 KiB took."""
    write(tmp_path / "small", 4096)
    write(tmp_path / "large", rows)
    command = [sys.executable, "-c", _RUN, str(tmp_path), str(updates)]
    done = subprocess.run(command, cwd=FAKES, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    before, most, accuracy = json.loads(done.stdout.splitlines()[-1])
    assert accuracy == pytest.approx(0.5, abs=0.02)  # zeros tell nothing
    return before, most


def test_200_mb_train_within_100_mb(tmp_path: Path) -> None:
    before, most = memory(tmp_path, 51_200, 60)
    assert most - before < 100, (before, most)


@pytest.mark.full
@pytest.mark.timeout(1000)
def test_3_gb_train_in_half_a_gigabyte(tmp_path: Path) -> None:
    before, most = memory(tmp_path, 786_432, 700)  # an epoch: 614 updates
    assert most < 512, (before, most)
