"""MNIST and Fashion-MNIST, from IDX files."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rayloom.components import component
from rayloom.datasets.dataset import Dataset, hold_out, image_spec
from rayloom.datasets.digests import combined_digest
from rayloom.datasets.files import cache_folder, download, find_file, read_verified, search_folders, unzipped
from rayloom.datasets.tables import Columns

_VALIDATION_SHARE = 12  # one twelfth of the training file: 5,000 of 60,000


@dataclass(frozen=True, kw_only=True)
class IdxConfig:
    """70,000 handwritten digits 28x28 (download)."""

    folder: str | None = None
    """Folder that holds the files, with or without .gz; null: RAYLOOM_DATA, the system's folder, the cache."""
    base_url: str | None = None
    """Address of the folder to download from; null: the public one."""


@dataclass(frozen=True, kw_only=True)
class FashionConfig(IdxConfig):
    """70,000 pieces of clothing 28x28 in 10 classes (Debian package dataset-fashion-mnist, else a download)."""


@dataclass(frozen=True)
class IdxArchive:
    """A data set in four IDX files."""

    name: str
    base_url: str
    sha256: Mapping[str, str]
    """Hash of each file's decompressed contents."""
    class_names: tuple[str, ...]
    system_folders: tuple[str, ...] = ()
    package: str | None = None
    """Debian package that installs the files in a system folder."""

    def advice(self) -> str:
        """Return what the user can do to get the files."""
        package = f"run `apt install {self.package}`, or " if self.package else ""
        return f"{package}connect to the internet, or set RAYLOOM_DATA to a folder that holds the four IDX files"


FASHION_MNIST = IdxArchive(
    name="fashion-mnist",
    base_url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    class_names=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    system_folders=("/usr/share/datasets/fashion-mnist",),
    package="dataset-fashion-mnist",
)

MNIST = IdxArchive(
    name="mnist",
    base_url="https://storage.googleapis.com/cvdf-datasets/mnist",
    sha256={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    class_names=tuple(str(digit) for digit in range(10)),
)


def parse_idx(payload: bytes) -> npt.NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes: magic 0 0 8 rank, big-endian sizes, then the elements."""
    zero, kind, rank = struct.unpack_from(">HBB", payload)
    assert (zero, kind) == (0, 8), "an IDX file of unsigned bytes starts with 0 0 8"
    shape = struct.unpack_from(f">{rank}I", payload, 4)
    return np.frombuffer(payload, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


@component("data set", FashionConfig)
def load_fashion_mnist(config: FashionConfig, seed: int) -> Dataset:
    """Return Fashion-MNIST (Xiao et al. 2017), see `read_idx`."""
    return read_idx(FASHION_MNIST, config)


@component("data set", IdxConfig)
def load_mnist(config: IdxConfig, seed: int) -> Dataset:
    """Return MNIST (LeCun et al. 1998), see `read_idx`."""
    return read_idx(MNIST, config)


def read_idx(archive: IdxArchive, config: IdxConfig) -> Dataset:
    """Return a data set of IDX files: train 55,000, validation 5,000 and test 10,000 images uint8 [1, 28, 28].

    The validation images are the end of a permutation of the training file that never changes.
    """
    arrays = {name: parse_idx(_read(archive, name, config)) for name in archive.sha256}

    def labelled(prefix: str) -> Columns:
        # Copies: the arrays are views of read-only bytes.
        return {
            "image": torch.from_numpy(arrays[f"{prefix}-images-idx3-ubyte"][:, None].copy()),
            "label": torch.from_numpy(arrays[f"{prefix}-labels-idx1-ubyte"].astype(np.int64)),
        }

    both, test = labelled("train"), labelled("t10k")
    train, validation = hold_out(both, len(both["label"]) // _VALIDATION_SHARE)
    _, channels, height, width = test["image"].shape
    spec = image_spec((channels, height, width), archive.class_names)
    digest = combined_digest(archive.name, *archive.sha256.values())
    return Dataset(train, validation, test, spec, archive.name, digest)


def _read(archive: IdxArchive, name: str, config: IdxConfig) -> bytes:
    path = find_file((name, f"{name}.gz"), search_folders(archive.name, config.folder, archive.system_folders))
    if path is None:
        base_url = (config.base_url or archive.base_url).rstrip("/")
        path = download(f"{base_url}/{name}.gz", cache_folder(archive.name), archive.advice())
    return read_verified(path, archive.sha256[name], unzipped, _remedy(archive, path))


def _remedy(archive: IdxArchive, path: Path) -> str:
    if path.parent == cache_folder(archive.name):
        return f"delete the file to download it again, or {archive.advice()}"
    return f"put the files of {archive.name} there, or name another folder in source.dataset.folder"
