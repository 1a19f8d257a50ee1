"""Checkpoints: exact round trips, damage, full disks and kills at any moment."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import struct
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from examples import examples
from rayloom.checkpoint import store as checkpoint
from rayloom.checkpoint.random_state import (
    capture_random_state,
    generator_state,
    restore_generator,
    restore_random_state,
)
from rayloom.checkpoint.store import CheckpointStore, tensors_sha256
from rayloom.errors import UserError


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        equal_kind = a.dtype == b.dtype and a.shape == b.shape
        return equal_kind and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(type(k) is type(m) and same(a[k], b[m]) for k, m in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2, mode="max")


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


# --- round trips ---------------------------------------------------------------------------------------------------

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.uint8, torch.int64]
DTYPES += [torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.uint16, torch.uint32]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
    raw = torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
    return (raw % 2).bool().reshape(shape) if dtype == torch.bool else raw.view(dtype).reshape(shape)


arrays = npst.arrays(
    st.sampled_from([np.dtype(c) for c in ("?", "u1", "<u4", "<u8", ">u4", "f4", "f8", "c16", "M8[s]", "U3", "S2")]),
    npst.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
)
numbers = st.integers(-(2**200), 2**200) | st.floats(allow_nan=True, allow_infinity=True)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=5) | tensors() | arrays
trees = st.recursive(
    leaves,
    lambda child: (
        st.lists(child, max_size=3)
        | st.lists(child, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-5, 2**70), child, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=examples(60, 20), deadline=None, derandomize=True)
@given(state=st.dictionaries(st.text(max_size=4), trees, max_size=4), metadata=st.dictionaries(st.text(), numbers))
def test_every_tree_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any], metadata: dict[str, Any]
) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("store"), keep=1, mode="max")
    path = store.save(3, state, metadata=metadata)
    for loaded in (store.load_latest(), store.load(path)):
        assert loaded is not None
        assert same(loaded.state, state)
        assert same(loaded.metadata, metadata)
        assert (loaded.step, loaded.path, loaded.notes) == (3, path, [])


def test_awkward_names_do_not_collide(store: CheckpointStore) -> None:
    state = {
        "a/b": torch.tensor(1),
        "a": {"b": torch.tensor(2), 1: torch.tensor(3), "1": torch.tensor(4), "b#2": torch.tensor(5)},
        "a/b#2": torch.tensor(6),
        "__metadata__": torch.tensor(7),
        "\ud800": np.arange(2),
        "": {"": np.float32(1.5)},
    }
    store.save(1, state)
    assert same(store.load_latest().state, state)


def test_views_of_one_storage_come_back_apart(store: CheckpointStore) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    parameter = torch.nn.Parameter(base)
    state = {"whole": base, "alias": base, "part": base[0, 1:], "turned": base.T, "parameter": parameter}
    store.save(1, state)
    loaded = store.load_latest().state
    assert same(loaded["part"], torch.tensor([1.0, 2.0]))
    assert same(loaded["turned"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert same(loaded["parameter"], base)
    loaded["whole"].zero_()
    assert same(loaded["alias"], torch.arange(6.0).reshape(2, 3))
    assert loaded["turned"].is_contiguous()


def test_lazily_conjugated_and_fortran_ordered_data(store: CheckpointStore) -> None:
    z = torch.tensor([1 + 2j, 3 - 4j])
    fortran = np.asfortranarray(np.arange(6).reshape(2, 3))
    store.save(1, {"conj": z.conj(), "imag": z.conj().imag, "fortran": fortran, "stride": np.arange(6)[::2]})
    loaded = store.load_latest().state
    assert loaded["conj"].tolist() == [1 - 2j, 3 + 4j]
    assert loaded["imag"].tolist() == [-2.0, 4.0]
    assert loaded["fortran"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded["stride"].tolist() == [0, 2, 4]


def test_structured_arrays_and_scalars(store: CheckpointStore) -> None:
    dtype = np.dtype([("word", "<u4"), ("pair", "<u8", (2,))], align=True)
    array = np.zeros(2, dtype)
    array["word"] = [2**32 - 1, 7]
    array["pair"][1] = [2**64 - 1, 3]
    state = {"words": array, "half": np.float16(0.1), "flag": np.bool_(True), "long": np.uint64(2**64 - 1)}
    store.save(1, state)
    loaded = store.load_latest().state
    assert loaded["words"].dtype == dtype
    assert loaded["words"]["pair"].tolist() == [[0, 0], [2**64 - 1, 3]]
    assert loaded["words"]["word"].tolist() == [2**32 - 1, 7]
    assert same({k: v for k, v in loaded.items() if k != "words"}, {k: v for k, v in state.items() if k != "words"})


def test_loaded_arrays_can_be_written_without_touching_the_checkpoint(store: CheckpointStore) -> None:
    path = store.save(1, {"a": np.arange(4), "t": torch.arange(4)})
    first = store.load(path).state
    first["a"][:] = -1
    first["t"][:] = -1
    assert store.load(path).state["a"].tolist() == [0, 1, 2, 3]
    assert store.load(path).state["t"].tolist() == [0, 1, 2, 3]


def test_adam_continues_exactly(store: CheckpointStore) -> None:
    def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()

    nets = [torch.nn.Linear(3, 2) for _ in range(2)]
    optimizers = [torch.optim.Adam(net.parameters()) for net in nets]
    step(nets[0], optimizers[0], 1)
    store.save(1, {"net": nets[0].state_dict(), "optimizer": optimizers[0].state_dict()})
    loaded = store.load_latest().state
    assert list(loaded["optimizer"]["state"]) == [0, 1]
    nets[1].load_state_dict(loaded["net"])
    optimizers[1].load_state_dict(loaded["optimizer"])
    for net, optimizer in zip(nets, optimizers, strict=True):
        step(net, optimizer, 2)
    assert same(dict(nets[0].state_dict()), dict(nets[1].state_dict()))


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [1, {"b": deque([1])}]}, "a/1/b"),
        ({"a": {"f": len}}, "a/f"),
        ({"raw": b"bytes"}, "raw"),
        ({"a": {1.5: 2}}, "at state/a"),
        ({"a": {True: 2}}, "at state/a"),
        ({"a": {(1,): 2}}, "at state/a"),
        ({"o": np.array([object()])}, "o"),
        ({"s": torch.eye(2).to_sparse()}, "sparse, quantised or meta tensor at state/s"),
        ({"m": torch.empty(2, device="meta")}, "meta tensor at state/m"),
        ({"shape": torch.Size([1])}, "Size at state/shape"),
        ({"set": {1}}, "set at state/set"),
        ({"matrix": np.ma.masked_array([1])}, "MaskedArray at state/matrix"),
    ],
)
def test_other_leaves_are_refused_by_place(store: CheckpointStore, state: dict[str, Any], place: str) -> None:
    with pytest.raises(TypeError, match=place):
        store.save(1, state)
    assert store.load_latest() is None


def test_files_are_safetensors_and_json(store: CheckpointStore) -> None:
    path = store.save(7, {"net": {"w": torch.ones(2)}, "buffer": np.arange(3)}, metric=1.5)
    assert path.name == "step_000000000007"
    assert sorted(p.name for p in path.iterdir()) == ["arrays.safetensors", "manifest.json", "tensors.safetensors"]
    assert safetensors.torch.load_file(path / "tensors.safetensors")["state/net/w"].tolist() == [1.0, 1.0]
    assert safetensors.numpy.load_file(path / "arrays.safetensors")["state/buffer"].tolist() == [0, 1, 2]
    content = json.loads((path / "manifest.json").read_text())["content"]
    assert (content["format"], content["step"], content["metric"]) == (1, 7, 1.5)
    raw = (path / "tensors.safetensors").read_bytes()
    assert content["files"]["tensors.safetensors"] == hashlib.sha256(raw).hexdigest()


# --- what is kept --------------------------------------------------------------------------------------------------


def test_empty_store(store: CheckpointStore) -> None:
    assert store.load_latest() is None
    assert store.load_best() is None
    with pytest.raises(UserError, match="there is no checkpoint"):
        store.load(store.folder / "step_000000000001")


@pytest.mark.parametrize(("mode", "best"), [("max", 20), ("min", 10)])
def test_keeps_the_newest_and_the_best(tmp_path: Path, mode: Any, best: int) -> None:
    store = CheckpointStore(tmp_path, keep=2, mode=mode)
    for step, metric in [(10, 1.0), (20, 9.0), (30, 3.0), (40, float("nan")), (50, None), (60, 9.0), (70, 1.0)]:
        store.save(step, {"step": step}, metric=metric)
    assert names(store) == sorted(f"step_{step:012d}" for step in (best, 60, 70))
    assert store.load_latest().state == {"step": 70}
    assert store.load_best().step == best
    assert store.load_best().state == {"step": best}


def test_infinite_metrics_are_ranked(store: CheckpointStore) -> None:
    for step, metric in [(1, -np.inf), (2, 5.0), (3, np.inf), (4, 7.0)]:
        store.save(step, {}, metric=float(metric))
    assert store.load_best().step == 3


def test_nan_is_no_metric(store: CheckpointStore) -> None:
    store.save(1, {}, metric=float("nan"))
    assert store.load_best() is None
    store.save(2, {}, metric=-5.0)
    assert store.load_best().step == 2


def test_no_metric_no_best(store: CheckpointStore) -> None:
    store.save(1, {})
    assert store.load_best() is None
    assert store.load_latest().step == 1


def test_saving_an_earlier_step_again_supersedes_what_came_after(store: CheckpointStore) -> None:
    for step in (10, 20, 30):
        store.save(step, {"run": 1}, metric=float(step))
    store.save(20, {"run": 2}, metric=2.0)
    assert store.load_latest().state == {"run": 2}
    assert store.load_best().state == {"run": 2}
    store.save(30, {"run": 2})
    assert [store.load(path).state for path in store.folder.iterdir()] == [{"run": 2}] * 2
    assert store.load_latest().step == 30


def test_leftovers_of_a_kill_are_removed(store: CheckpointStore) -> None:
    (store.folder / ".tmp-000000000001-77").mkdir(parents=True)
    (store.folder / ".tmp-000000000001-77" / "tensors.safetensors").write_bytes(b"half")
    assert store.load_latest() is None
    store.save(1, {})
    assert names(store) == ["step_000000000001"]


# --- damage --------------------------------------------------------------------------------------------------------


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


FILES = ["manifest.json", "tensors.safetensors", "arrays.safetensors"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "first", "middle", "last", "truncated", "empty"])
def test_a_damaged_newest_falls_back_and_says_so(store: CheckpointStore, file: str, damage: str) -> None:
    state = {"t": torch.arange(50.0), "a": np.arange(50)}
    store.save(1, {**state, "step": 1}, metric=1.0)
    newest = store.save(2, {**state, "step": 2}, metric=2.0)
    size = (newest / file).stat().st_size
    if damage == "missing":
        (newest / file).unlink()
    elif damage in ("truncated", "empty"):
        os.truncate(newest / file, size // 2 if damage == "truncated" else 0)
    else:
        # The manifest's very last bytes close the JSON object and carry nothing: damage what is hashed.
        flip(newest / file, {"first": 0, "middle": size // 2, "last": size - (4 if file == FILES[0] else 1)}[damage])
    loaded = store.load_latest()
    assert loaded.state["step"] == 1
    assert len(loaded.notes) == 1
    assert "step_000000000002" in loaded.notes[0]
    assert file in loaded.notes[0]
    assert store.load_best().state["step"] == 1
    with pytest.raises(UserError, match=f"damaged.*{file}"):
        store.load(newest)
    store.save(3, state)
    assert store.load_latest().step == 3


def test_all_damaged(store: CheckpointStore) -> None:
    for step in (1, 2):
        (store.save(step, {}) / "arrays.safetensors").unlink()
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        store.load_latest()


def test_a_newer_format_is_not_damage(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        store.save(1, {})
    with pytest.raises(UserError, match="has format 2 and this rayloom reads 1"):
        store.load_latest()


# --- disks ---------------------------------------------------------------------------------------------------------


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_in_rust(*_: Any, **__: Any) -> Any:
    raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")


POINTS = {
    "mkdir": (Path, "mkdir", full_disk),
    "tensors": (safetensors.torch, "save_file", full_disk_in_rust),
    "arrays": (safetensors.numpy, "save_file", full_disk_in_rust),
    "fsync": (os, "fsync", full_disk),
    "manifest": (json, "dumps", None),
    "rename": (Path, "rename", full_disk),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_leaves_the_last_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    store.save(1, {"t": torch.ones(3)}, metric=1.0)
    with monkeypatch.context() as patch:
        owner, name, fault = POINTS[point]
        if point == "manifest":  # let the two files through and refuse the third
            patch.setattr(
                "builtins.open",
                lambda file, mode="r", *a, _open=open, **k: full_disk() if "w" in mode else _open(file, mode, *a, **k),
            )
        else:
            patch.setattr(owner, name, fault)
        with pytest.raises(UserError, match=r"step 2 in .*No space left on device.*free space") as caught:
            store.save(2, {"t": torch.zeros(3)}, metric=2.0)
    assert str(store.folder) in str(caught.value)
    assert names(store) == ["step_000000000001"]
    assert store.load_latest().state["t"].tolist() == [1.0, 1.0, 1.0]
    store.save(2, {})
    assert store.load_latest().step == 2


def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"Not a directory.*set `output` to a writable folder"):
        CheckpointStore(tmp_path / "file" / "sub", keep=1, mode="max").save(1, {})


def test_old_ones_that_cannot_be_deleted(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        store.save(step, {})
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", full_disk)
        with pytest.raises(UserError, match=r"step_000000000003 is saved, but old checkpoints cannot be deleted"):
            store.save(3, {})
    assert store.load_latest().step == 3
    store.save(4, {})
    assert names(store) == ["step_000000000003", "step_000000000004"]


def test_old_ones_go_only_after_the_new_one_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=1, mode="max")
    store.save(1, {})
    seen: list[list[str]] = []
    original = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: (seen.append(names(store)), original(self, to))[1])
    store.save(2, {})
    assert seen[0][-1] == "step_000000000001"
    assert seen[1] == ["step_000000000001", "step_000000000002"]
    assert names(store) == ["step_000000000002"]


def test_everything_is_on_the_disk_before_the_rename(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    original = Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append("rename"), original(self, to))[1])
    store.save(1, {})
    at = events.index("rename")
    assert {"tensors.safetensors", "arrays.safetensors", "manifest.json"} < set(events[:at])
    assert events[at - 1].startswith(".tmp-")
    assert events[at + 1 :] == [store.folder.name]


# --- kills ---------------------------------------------------------------------------------------------------------


# --- random states and hashes --------------------------------------------------------------------------------------


def test_global_generators_continue(store: CheckpointStore) -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), np.random.rand(), torch.randn(3).sum().item()]

    draw()  # leaves half a Gaussian pair in Python's and NumPy's generators
    store.save(1, {"random": capture_random_state()})
    expected = draw()
    restore_random_state(store.load_latest().state["random"])
    assert draw() == expected


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_numpy_generators_continue(store: CheckpointStore, kind: Any) -> None:
    generator = np.random.Generator(kind(5))
    generator.integers(0, 10, dtype=np.uint32)  # leaves half a word
    store.save(1, {"g": generator_state(generator)})
    expected = generator.integers(0, 2**32, 5, dtype=np.uint32).tolist()
    other = np.random.Generator(kind(6))
    restore_generator(other, store.load_latest().state["g"])
    assert other.integers(0, 2**32, 5, dtype=np.uint32).tolist() == expected


def test_sha256_of_tensors_by_hand() -> None:
    named = {"b": torch.tensor([[1.0], [2.0]]), "a": torch.tensor(True)}
    text = b'["a", "torch.bool", []]\x01["b", "torch.float32", [2, 1]]' + struct.pack("<ff", 1.0, 2.0)
    assert tensors_sha256(named) == hashlib.sha256(text).hexdigest()
    assert tensors_sha256(dict(reversed(named.items()))) == tensors_sha256(named)
    assert tensors_sha256({"x": torch.ones(2, 3)[:, 1]}) == tensors_sha256({"x": torch.ones(2)})
    different = [
        {"x": torch.zeros(2)},
        {"y": torch.zeros(2)},
        {"x": torch.zeros(2, 1)},
        {"x": torch.zeros(2, dtype=torch.int32)},
        {"x": torch.tensor([0.0, -0.0])},
        {"x": torch.zeros(2, dtype=torch.bfloat16)},
        {},
    ]
    assert len({tensors_sha256(named) for named in different}) == len(different)
