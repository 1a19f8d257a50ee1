"""One seed reaches everything: a tree of seeds addressed by role, worker, environment and restart."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive_seed(seed: int, *path: str | int) -> int:
    """Return the seed, 0 <= s < 2**63, of one leaf of the tree, for instance ("rollout", worker, "environment", 3).

    Leaves are independent of each other and stable across processes, machines and versions: the value is the start of
    the SHA-256 of the root and the path.
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def torch_generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a CPU generator seeded at one leaf of the tree."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """Return a NumPy PCG64 generator seeded at one leaf of the tree."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *path)))


def seed_process(seed: int, *path: str | int) -> None:
    """Seed the global generators of Python, NumPy and torch in this process."""
    seed_environments(seed, *path)
    torch.manual_seed(derive_seed(seed, *path, "torch"))


def seed_environments(seed: int, *path: str | int) -> None:
    """Seed the global generators of Python and NumPy, from which environments may draw; torch's is the learner's."""
    random.seed(derive_seed(seed, *path, "python"))
    np.random.seed(derive_seed(seed, *path, "numpy") % 2**32)
