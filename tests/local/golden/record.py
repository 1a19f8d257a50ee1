"""Record the golden curves anew: `python tests/local/golden/record.py [NAME ...]`.

When that is allowed: only in a commit that means to change numbers (another order of random draws, a corrected
equation, another default), that says in its message which runs change and why, and in which every other test passes
first. Never to make a failing test pass: a curve that moves without a reason is a bug that the test has found. Record
only the runs that are meant to change, by name, and read the difference of the files before you commit them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "fakes"))

import torch

from golden_curves import NAMES, record

if __name__ == "__main__":
    torch.set_num_threads(1)
    unknown = sorted(set(sys.argv[1:]) - set(NAMES))
    if unknown:
        sys.exit(f"record.py: there is no golden run {unknown[0]}; choose from {', '.join(NAMES)}")
    for name in sys.argv[1:] or NAMES:
        print(record(name))
