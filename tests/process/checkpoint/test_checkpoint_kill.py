"""A kill at any moment of a save leaves the last complete checkpoint."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from rayloom.checkpoint.store import CheckpointStore

SAVER = """
import sys
from pathlib import Path
import numpy as np, torch
from rayloom.checkpoint.store import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), keep=1, mode="max")
latest = store.load_latest()
step = latest.step if latest else 0
while True:
    step += 1
    tensors = {str(i): torch.full((20_000,), float(step)) for i in range(10)}
    store.save(step, {"t": tensors, "a": np.full(50_000, step), "step": step})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    generator = random.Random(0)
    store = CheckpointStore(tmp_path, keep=1, mode="max")
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            done = int(process.stdout.readline())
            time.sleep(generator.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            done = max([done, *map(int, process.stdout.read().split())])
        loaded = store.load_latest()
        assert loaded.notes == []
        assert loaded.step >= done
        assert loaded.state["step"] == loaded.step
        assert all(torch.equal(t, torch.full((20_000,), float(loaded.step))) for t in loaded.state["t"].values())
        assert (loaded.state["a"] == loaded.step).all()
