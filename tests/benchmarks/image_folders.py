"""A folder of images against torch's DataLoader over the same files, with the best number of workers of this machine.

Both sides train the same network. rayloom decodes in a thread that reads ahead where the images do not fit
`memory_mib` (0 here), and once at the start where they do, as by default.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import Comparison
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rayloom.config.load import from_tree
from rayloom.runs.learner_role import LearnerRole

BATCH, SIDE, THREADS = 64, 96, 1
IMAGES, UPDATES = 2_000, 40
WORKERS = (0, 1, 2, 3)
_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def folder() -> Path:
    """Return a folder with two classes of JPEG photographs of smooth noise."""
    _kept.append(tempfile.TemporaryDirectory())
    root, random = Path(_kept[-1].name), np.random.default_rng(0)
    for name in ("even", "odd"):
        (root / name).mkdir()
    for number in range(IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(root / ("even", "odd")[number % 2] / f"{number}.jpg")
    return root


def _tree(memory_mib: float) -> dict[str, Any]:
    return {
        "name": "benchmark",
        "algorithm": {
            "import": "rayloom_supervised.tasks.classification:Classifier",
            "network": {"kind": "mlp", "hidden_sizes": [64]},
        },
        "source": {
            "kind": "dataset",
            "dataset": {"kind": "image_folder", "path": str(folder()), "memory_mib": memory_mib},
            "resident_mib": 1024.0 if memory_mib else 0.0,
        },
        "learner": {"batch_size": BATCH, "threads": THREADS},
        "stop": {"epochs": 100},
    }


def _per_second(update: Callable[[], object]) -> float:
    for _ in range(4):
        update()
    start = time.perf_counter()
    for _ in range(UPDATES):
        update()
    return UPDATES * BATCH / (time.perf_counter() - start)


def _ours(memory_mib: float) -> float:
    role = LearnerRole(from_tree(_tree(memory_mib)))
    try:
        return _per_second(lambda: role.learner.update(role.source.next, role.source.feedback))
    finally:
        role.close()


class _Folder(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """What torchvision's ImageFolder with the transform PILToTensor does for each example."""

    def __init__(self, root: Path) -> None:
        self._paths = sorted(root.glob("*/*.jpg"))
        self._classes = sorted({path.parent.name for path in self._paths})

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image uint8 [3, H, W] and its class."""
        path = self._paths[index]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        pixels = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1)
        return pixels, self._classes.index(path.parent.name)


def _loader(workers: int) -> float:
    torch.set_num_threads(THREADS)
    role = LearnerRole(from_tree(_tree(1024)))
    network: Any = role.algorithm.network
    role.close()
    for parameter in network.parameters():  # give it memory of its own again
        parameter.data, parameter.grad = parameter.data.clone(), None
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    loader = DataLoader(
        _Folder(folder()), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    order = batches()

    def update() -> None:
        images, labels = next(order)
        loss = nn.functional.cross_entropy(network(images.float() / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return _per_second(update)


def _best_loader() -> float:
    return max(_loader(workers) for workers in WORKERS)


def image_folder() -> list[Comparison]:
    """JPEG files of 96x96 pixels, batch 64, an MLP of 64 units, which leaves most of the time to the reading."""
    return [
        Comparison(
            f"image folder, {name}",
            ours=partial(_ours, memory_mib),
            peer=_best_loader,
            peer_name="best DataLoader",
            unit="samples/s",
            threads=THREADS,
            target="1.0",
        )
        for name, memory_mib in (("read from files each time", 0.0), ("kept in memory", 1024.0))
    ]


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {"image_folder": image_folder}
