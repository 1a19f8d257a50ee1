"""Data sets: contents, hashes, splits that never change, options, and files that are missing or damaged."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import struct
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from rayloom import datasets
from rayloom.contract import TensorSpec
from rayloom.datasets import cifar, digits, gaussian, idx
from rayloom.datasets.dataset import Dataset, hold_out
from rayloom.errors import UserError


def rows(*splits: datasets.TensorTable) -> np.ndarray:
    """Return image and label of every example as one row of bytes."""
    images = torch.cat([split["image"].flatten(1) for split in splits]).numpy()
    labels = torch.cat([split["label"] for split in splits]).numpy()
    return np.concatenate([images, labels[:, None].astype(np.uint8)], axis=1)


def ordered(table: np.ndarray) -> np.ndarray:
    return table[np.lexsort(table.T[::-1])]


# --- digits --------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    images, labels = digits.read_digits()
    expected = sklearn_digits()
    assert np.array_equal(images, expected.images)
    assert np.array_equal(labels, expected.target)


def test_digits_splits_are_a_stratified_partition_of_the_scaled_images() -> None:
    data = datasets.load("digits", 0)
    for split, length in ((data.train, 1197), (data.validation, 300), (data.test, 300)):
        assert split["image"].shape == (length, 1, 8, 8)
        assert split["image"].dtype == torch.uint8
        assert split["label"].dtype == torch.int64
    assert data.validation["label"].bincount().tolist() == [30] * 10
    assert data.test["label"].bincount().tolist() == [30] * 10
    expected = sklearn_digits()
    scaled = np.rint(expected.data * 255 / 16 + 1e-9)
    everything = np.concatenate([scaled, expected.target[:, None]], axis=1).astype(np.uint8)
    assert np.array_equal(ordered(rows(data.train, data.validation, data.test)), ordered(everything))
    assert data.spec["label"].labels == tuple("0123456789")


def test_the_split_of_digits_never_changes() -> None:
    found = [hashlib.sha256(rows(datasets.load("digits", seed).test).tobytes()).hexdigest() for seed in (0, 5)]
    assert found == ["4ba88a9493591b5ad52e6a13fdda1f44f2be90760699d811a9703fd2b1fcde54"] * 2


# --- Fashion-MNIST -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fashion() -> Dataset:
    if not Path("/usr/share/datasets/fashion-mnist").is_dir() and os.environ.get("CI") != "true":
        pytest.skip("Fashion-MNIST is not on this machine (apt install dataset-fashion-mnist)")
    return datasets.load("fashion-mnist", 0)


def test_fashion_mnist_sizes_and_spec(fashion: Dataset) -> None:
    sizes = [len(split["label"]) for split in (fashion.train, fashion.validation, fashion.test)]
    assert sizes == [55_000, 5_000, 10_000]
    assert fashion.train["image"].shape == (55_000, 1, 28, 28)
    assert fashion.test["label"].bincount().tolist() == [1_000] * 10
    assert fashion.spec["label"] == TensorSpec(
        shape=(), dtype=torch.int64, num_values=10, labels=idx.FASHION_MNIST.class_names
    )
    image = fashion.spec["image"]
    assert image.shape == (1, 28, 28)
    assert image.low == (0.0,) * 784
    assert image.high == (255.0,) * 784
    # The first test image is an ankle boot; the mean pixel of the 60,000 training images is 0.2860.
    assert fashion.spec["label"].labels[int(fashion.test["label"][0])] == "ankle boot"
    both = torch.cat([fashion.train["image"], fashion.validation["image"]])
    assert float(both.sum(dtype=torch.int64)) / both.numel() / 255 == pytest.approx(0.2860, abs=5e-5)


def test_fashion_mnist_splits_do_not_overlap(fashion: Dataset) -> None:
    # No image occurs twice in the data set, so that equal images would be one example in two splits.
    parts = [{row.tobytes() for row in rows(split)} for split in (fashion.train, fashion.validation, fashion.test)]
    assert [len(part) for part in parts] == [55_000, 5_000, 10_000]
    assert len(set().union(*parts)) == 70_000


def test_the_split_of_fashion_mnist_never_changes(fashion: Dataset) -> None:
    assert (
        hashlib.sha256(rows(fashion.validation).tobytes()).hexdigest()
        == "55ceb719205fd4b73fa9e8254bb57d14323ac6b2e39da701b5ba5386598391d8"
    )
    assert fashion.validation["label"].bincount().sum() == 5_000


# --- IDX files: tiny fakes -----------------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


FAKE_TRAIN = np.arange(24 * 28 * 28, dtype=np.int64).reshape(24, 28, 28) % 251
FAKE_TEST = FAKE_TRAIN[:3] + 1
FAKE_FILES = {
    "train-images-idx3-ubyte": idx_bytes(FAKE_TRAIN),
    "train-labels-idx1-ubyte": idx_bytes(np.arange(24) % 10),
    "t10k-images-idx3-ubyte": idx_bytes(FAKE_TEST),
    "t10k-labels-idx1-ubyte": idx_bytes(np.array([7, 8, 9])),
}
FAKE = idx.IdxArchive(
    name="fake",
    base_url="http://127.0.0.1:9",  # nothing listens on the discard port
    sha256={name: hashlib.sha256(payload).hexdigest() for name, payload in FAKE_FILES.items()},
    class_names=tuple("abcdefghij"),
    package="dataset-fake",
)


def write_files(folder: Path, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload in FAKE_FILES.items():
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(payload) if zipped else payload)
    return folder


def check_fake(data: Dataset) -> None:
    assert [len(split["label"]) for split in (data.train, data.validation, data.test)] == [22, 2, 3]
    assert torch.equal(data.test["image"], torch.from_numpy(FAKE_TEST).to(torch.uint8)[:, None])
    assert data.test["label"].tolist() == [7, 8, 9]
    whole = torch.cat([data.train["image"], data.validation["image"]]).numpy()[:, 0]
    labels = torch.cat([data.train["label"], data.validation["label"]]).numpy()
    # The first pixel tells which image it is: 784 * k modulo 251 differs for k < 24.
    number = {int(image[0, 0]): position for position, image in enumerate(FAKE_TRAIN)}
    positions = [number[int(image[0, 0])] for image in whole]
    assert sorted(positions) == list(range(24))
    assert np.array_equal(whole, FAKE_TRAIN[positions])
    assert labels.tolist() == [position % 10 for position in positions]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder on the loopback interface."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join(timeout=10)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RAYLOOM_DATA", raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_of_a_folder(tmp_path: Path, zipped: bool) -> None:
    folder = write_files(tmp_path / "files", zipped)
    check_fake(idx.read_idx(FAKE, idx.IdxConfig(folder=str(folder))))


@pytest.mark.parametrize("below", ["", "fake"])
def test_idx_files_of_rayloom_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    write_files(tmp_path / "data" / below)
    monkeypatch.setenv("RAYLOOM_DATA", str(tmp_path / "data"))
    check_fake(idx.read_idx(FAKE, idx.IdxConfig()))


def test_idx_files_are_downloaded_once(server: tuple[str, Path], own_cache: Path) -> None:
    address, served = server
    write_files(served)
    check_fake(idx.read_idx(FAKE, idx.IdxConfig(base_url=address)))
    assert sorted(path.name for path in (own_cache / "rayloom" / "fake").iterdir()) == sorted(
        f"{name}.gz" for name in FAKE_FILES
    )
    for path in served.iterdir():
        path.unlink()
    check_fake(idx.read_idx(FAKE, idx.IdxConfig(base_url=address)))


def test_other_contents_are_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files")
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.array([7, 8, 8]))))
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz has other contents than expected"):
        idx.read_idx(FAKE, idx.IdxConfig(folder=str(folder)))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files")
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="is damaged or unreadable"):
        idx.read_idx(FAKE, idx.IdxConfig(folder=str(folder)))


def test_a_damaged_download_says_to_delete_it(server: tuple[str, Path]) -> None:
    address, served = server
    write_files(served)
    (served / "train-images-idx3-ubyte.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"damaged.*delete the file to download it again"):
        idx.read_idx(FAKE, idx.IdxConfig(base_url=address))


def test_missing_files_without_a_network_say_what_to_do() -> None:
    with pytest.raises(UserError) as caught:
        idx.read_idx(FAKE, idx.IdxConfig())
    for part in ("apt install dataset-fake", "connect to the internet", "RAYLOOM_DATA", "four IDX files"):
        assert part in str(caught.value)


def test_missing_file_on_the_server(server: tuple[str, Path]) -> None:
    with pytest.raises(UserError, match="cannot be downloaded"):
        idx.read_idx(FAKE, idx.IdxConfig(base_url=server[0]))


# --- CIFAR-10: a tiny fake -----------------------------------------------------------------------------------------


def test_cifar10_records_are_label_then_channels(tmp_path: Path, server: tuple[str, Path]) -> None:
    address, served = server
    images = np.random.RandomState(3).randint(0, 256, (24, 3, 32, 32)).astype(np.uint8)
    labels = (np.arange(24) % 10).astype(np.uint8)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for part in range(6):
            chosen = slice(4 * part, 4 * part + 4)
            name = f"data_batch_{part + 1}.bin" if part < 5 else "test_batch.bin"
            payload = b"".join(
                bytes([label]) + image.tobytes() for label, image in zip(labels[chosen], images[chosen], strict=True)
            )
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    (served / "cifar-10-binary.tar.gz").write_bytes(buffer.getvalue())
    fake = cifar.CifarArchive(sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    data = cifar.read_cifar10(fake, cifar.CifarConfig(base_url=address))
    assert [len(split["label"]) for split in (data.train, data.validation, data.test)] == [18, 2, 4]
    assert torch.equal(data.test["image"], torch.from_numpy(images[20:]))
    assert data.test["label"].tolist() == labels[20:].tolist()
    everything = np.concatenate([images.reshape(24, -1), labels[:, None]], axis=1)[:20]
    assert np.array_equal(ordered(rows(data.train, data.validation)), ordered(everything))
    with pytest.raises(UserError, match="has other contents than expected"):
        cifar.read_cifar10(cifar.CIFAR10, cifar.CifarConfig(base_url=address))


# --- generated points ----------------------------------------------------------------------------------------------


def test_gaussian_grid_has_25_scaled_modes() -> None:
    data = datasets.load({"kind": "gaussian-grid", "train_size": 25_000, "validation_size": 10, "test_size": 20}, 1)
    points = data.train["point"]
    assert points.shape == (25_000, 2)
    assert points.dtype == torch.float32
    # Back on the grid of the paper: modes at -4, -2, 0, 2, 4, standard deviation 0.05 of each coordinate.
    grid = points * 2 * 2**0.5
    nearest = (grid / 2).round() * 2
    modes, counts = torch.unique(nearest, dim=0, return_counts=True)
    assert sorted(map(tuple, modes.tolist())) == [(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)]
    assert counts.min() > 850  # 1,000 expected, standard deviation 31
    assert counts.max() < 1_150
    assert (grid - nearest).std(dim=0).tolist() == pytest.approx([0.05, 0.05], rel=0.02)
    assert points.var(dim=0).tolist() == pytest.approx([1.0, 1.0], rel=0.03)
    assert len(data.validation["point"]) == 10
    assert len(data.test["point"]) == 20


def test_grid_and_ring_centers_by_hand() -> None:
    grid = gaussian.grid_centers(gaussian.GridConfig(scale=0.5, spacing=1.0))
    assert grid[0].tolist() == [-1.0, -1.0]
    assert grid[1].tolist() == [-1.0, -0.5]
    assert grid[24].tolist() == [1.0, 1.0]
    ring = gaussian.ring_centers(gaussian.RingConfig(modes=4, radius=2.0, scale=1.0))
    assert torch.allclose(ring, torch.tensor([[2.0, 0], [0, 2], [-2, 0], [0, -2]]), atol=1e-6)


def test_gaussian_ring_has_8_modes() -> None:
    points = datasets.load({"kind": "gaussian-ring", "train_size": 8_000}, 1).train["point"] * 2**0.5
    centers = torch.tensor([[2 * np.cos(k * np.pi / 4), 2 * np.sin(k * np.pi / 4)] for k in range(8)]).float()
    distance, mode = torch.cdist(points, centers).min(dim=1)
    assert mode.bincount().min() > 850
    # The mean square distance of a 2-dimensional normal is twice the variance.
    assert float(distance.square().mean()) == pytest.approx(2 * 0.02**2, rel=0.05)


def test_gaussian_moments() -> None:
    covariance = [[2.0, 0.6], [0.6, 1.0]]
    options = {"dimension": 2, "mean": [1.0, -2.0], "covariance": covariance, "train_size": 200_000}
    points = datasets.load({"kind": "gaussian", **options}, 4).train["point"].double()
    assert points.mean(dim=0).tolist() == pytest.approx([1.0, -2.0], abs=0.02)
    assert torch.allclose(torch.cov(points.T), torch.tensor(covariance).double(), atol=0.03)


@pytest.mark.parametrize(
    ("value", "expected"), [(4.0, [[4.0, 0.0], [0.0, 4.0]]), ([1.0, 9.0], [[1.0, 0.0], [0.0, 9.0]])]
)
def test_short_forms_of_a_covariance(value: object, expected: list[list[float]]) -> None:
    options = gaussian.GaussianConfig(dimension=2, mean=3.0, covariance=value)  # type: ignore[arg-type]
    mean, covariance = gaussian.moments(options)
    assert mean.tolist() == [3.0, 3.0]
    assert covariance.tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 3, "mean": [1.0, 2.0]}, r"source\.dataset\.mean: give one number or 3"),
        ({"covariance": [1.0, 2.0, 3.0]}, r"source\.dataset\.covariance: give one number, 2, or 2 rows of 2"),
        ({"covariance": [[1.0, 2.0], [2.0, 1.0]]}, "symmetric and positive definite"),
        ({"covariance": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric and positive definite"),
        ({"covariance": [[1.0, 0.5], [0.0]]}, "equally long"),
    ],
)
def test_impossible_moments(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        datasets.load({"kind": "gaussian", **options}, 0)


def test_points_depend_on_the_seed_and_the_split() -> None:
    sizes = {"train_size": 50, "validation_size": 50, "test_size": 50}
    one, again, other = (datasets.load({"kind": "gaussian-ring", **sizes}, seed) for seed in (1, 1, 2))
    assert torch.equal(one.train["point"], again.train["point"])
    assert not torch.equal(one.train["point"], other.train["point"])
    assert not torch.equal(one.train["point"], one.validation["point"])
    assert not torch.equal(one.validation["point"], one.test["point"])


# --- names and options ---------------------------------------------------------------------------------------------


def test_names_and_descriptions() -> None:
    expected = {"digits", "fashion-mnist", "mnist", "cifar10", "gaussian-grid", "gaussian-ring", "gaussian"}
    expected |= {"image_folder", "csv", "parquet", "text", "documents", "python-source", "arrays"}
    expected |= {"sprinkler", "asia", "tagged-grammar", "diabetes", "breast-cancer"}
    assert set(datasets.names()) == expected == set(datasets.descriptions())
    assert all(line and "\n" not in line for line in datasets.descriptions().values())


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("fashion_mnist", "'fashion_mnist' is no data set; did you mean 'fashion-mnist'"),
        ({"kind": "digits", "size": 3}, r"source\.dataset\.size"),
        ({"kind": "gaussian-grid", "train_sise": 3}, "did you mean 'train_size'"),
        ({"kind": "gaussian-grid", "train_size": 0}, r"source\.dataset\.train_size"),
        ("no_such_module_at_all:load", "no module 'no_such_module_at_all'"),
        ("json:lods", "no 'lods'; did you mean"),
        ({"import": "os:system", "command": "false"}, "os:system is no data set; name a function make"),
        ("sys:maxsize", "is no data set"),
        ({"kind": "digits", "import": "a:b"}, "kind names a shipped data set and import one of your own"),
        ("own_data:texts", r"own_data:texts must return a rayloom.datasets.Dataset, not str"),
        ({"import": "own_data:points", "counts": 3}, r"source\.dataset\.counts: .*did you mean 'count'"),
    ],
)
def test_mistakes_are_user_errors(named: str | dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        datasets.load(named, 0)


def test_an_own_data_set_by_import() -> None:
    data = datasets.load({"import": "own_data:points", "count": 5}, 3)
    assert data.train["point"].shape == (5, 2)
    assert torch.equal(data.train["point"], datasets.load({"kind": "gaussian", "train_size": 5}, 3).train["point"])


def test_dataset_refuses_splits_that_do_not_fit() -> None:
    spec = {"point": TensorSpec(shape=(2,), dtype=torch.float32)}
    good = {"point": torch.zeros(3, 2)}
    Dataset(good, good, good, spec)
    with pytest.raises(UserError, match="validation split has the fields"):
        Dataset(good, {"dot": torch.zeros(3, 2)}, good, spec)
    with pytest.raises(UserError, match="'point' of the test split is"):
        Dataset(good, good, {"point": torch.zeros(3, 2).double()}, spec)
    two = {**spec, "label": TensorSpec(shape=(), dtype=torch.int64, num_values=2)}
    labelled = {**good, "label": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(UserError, match=r"different lengths \[3, 4\]"):
        Dataset(labelled, labelled, labelled, two)


def test_hold_out_is_a_fixed_partition() -> None:
    split = {"label": torch.arange(10), "other": torch.arange(10) * 10}
    kept, held = hold_out(split, 3)
    order = np.random.RandomState(0).permutation(10).tolist()
    assert kept["label"].tolist() == order[:7]
    assert held["label"].tolist() == order[7:]
    assert torch.equal(held["other"], held["label"] * 10)
