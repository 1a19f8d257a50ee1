"""The seed tree is the same in every process."""

from __future__ import annotations

import subprocess
import sys

from rayloom.seeding import derive_seed


def test_seeds_are_the_same_in_every_process() -> None:
    code = "from rayloom.seeding import derive_seed; print(derive_seed(7, 'a', 1))"
    values = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert values == {str(derive_seed(7, "a", 1))}
