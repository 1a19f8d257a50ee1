"""CIFAR-10, from the archive in its binary version (the Python version would need pickle)."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rayloom.components import component
from rayloom.datasets.dataset import Dataset, hold_out, image_spec
from rayloom.datasets.digests import combined_digest
from rayloom.datasets.files import cache_folder, download, find_file, read_verified, search_folders
from rayloom.datasets.tables import Columns

_FILE = "cifar-10-binary.tar.gz"
_RECORD = 1 + 3 * 32 * 32
_VALIDATION_SHARE = 10  # one tenth of the training files: 5,000 of 50,000
_ADVICE = f"connect to the internet, or set RAYLOOM_DATA to a folder that holds {_FILE}"


@dataclass(frozen=True, kw_only=True)
class CifarConfig:
    """60,000 colour photographs 32x32 in 10 classes (download)."""

    folder: str | None = None
    """Folder that holds the archive; null: RAYLOOM_DATA, the cache."""
    base_url: str | None = None
    """Address of the folder to download from; null: the public one."""


@dataclass(frozen=True)
class CifarArchive:
    """The archive in its binary version."""

    base_url: str = "https://www.cs.toronto.edu/~kriz"
    sha256: str = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    class_names: tuple[str, ...] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )


CIFAR10 = CifarArchive()


@component("data set", CifarConfig)
def load_cifar10(config: CifarConfig, seed: int) -> Dataset:
    """Return CIFAR-10, see `read_cifar10`."""
    return read_cifar10(CIFAR10, config)


def read_cifar10(archive: CifarArchive, config: CifarConfig) -> Dataset:
    """Return CIFAR-10: train 45,000, validation 5,000 and test 10,000 images uint8 [3, 32, 32].

    The validation images are the end of a permutation of the training files that never changes.
    """
    path = find_file((_FILE,), search_folders("cifar10", config.folder))
    if path is None:
        base_url = (config.base_url or archive.base_url).rstrip("/")
        path = download(f"{base_url}/{_FILE}", cache_folder("cifar10"), _ADVICE)
    remedy = f"delete the file to download it again, or {_ADVICE}"
    payload = read_verified(path, archive.sha256, Path.read_bytes, remedy)
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(payload), mode="r:gz") as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is not None and member.name.endswith(".bin"):
                members[Path(member.name).stem] = stream.read()
    both = _records(b"".join(members[f"data_batch_{part}"] for part in range(1, 6)))
    train, validation = hold_out(both, len(both["label"]) // _VALIDATION_SHARE)
    spec = image_spec((3, 32, 32), archive.class_names)
    digest = combined_digest("cifar10", archive.sha256)
    return Dataset(train, validation, _records(members["test_batch"]), spec, "cifar10", digest)


def _records(payload: bytes) -> Columns:
    """Split records of one label byte and 3 x 32 x 32 pixels, channel by channel and row by row."""
    table = np.frombuffer(payload, dtype=np.uint8).reshape(-1, _RECORD)
    return {
        "image": torch.from_numpy(table[:, 1:].reshape(-1, 3, 32, 32).copy()),
        "label": torch.from_numpy(table[:, 0].astype(np.int64)),
    }
