"""Memory is compared with what there is before it is taken, and small amounts cost no question."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
import torch

from rayloom import memory
from rayloom.errors import UserError
from rayloom.memory import bounded, check_fits, checked_tensors, lacks_memory


def test_more_than_there_is_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    check_fits(2**30, "source.capacity", "steps")
    with pytest.raises(UserError, match=r"^source\.capacity: steps need 2\.0 GiB and 1\.0 GiB are free here; lower it"):
        check_fits(2**31, "source.capacity", "steps")


def test_little_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> int:
        raise AssertionError("every rollout comes here")

    monkeypatch.setattr(memory, "available_memory", asked)
    check_fits(64 * 2**20, "source.rollout_steps", "steps")
    with checked_tensors("algorithm", "its tensors"):
        torch.empty(1000, 1000)


def test_tensors_are_added_up_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**28)
    with pytest.raises(UserError, match=r"^algorithm: its tensors need"), checked_tensors("algorithm", "its tensors"):
        for _ in range(5):
            torch.empty(2**24, dtype=torch.float32)
    torch.empty(2**27, dtype=torch.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2**13, 2**13, 2),
        lambda: torch.ones((2**13, 2**14)),
        lambda: torch.rand(size=(2**27,)),
        lambda: torch.full((2**27,), 3.0),
        lambda: torch.randn([2**27], dtype=torch.float64),
        lambda: torch.nn.Linear(2**13, 2**14),
        lambda: torch.nn.Embedding(2**17, 2**10),
        lambda: torch.nn.LSTM(2**12, 2**12),
        lambda: torch.nn.Conv2d(2**12, 2**12, 3),
    ],
)
def test_every_way_to_make_a_tensor_is_seen(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**28)
    with pytest.raises(UserError, match=r"^algorithm: its tensors need"), checked_tensors("algorithm", "its tensors"):
        make()


def test_what_lies_elsewhere_or_is_small_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    with checked_tensors("algorithm", "its tensors"):
        assert torch.empty(2**20, 2**20, device="meta").shape == (2**20, 2**20)
        assert torch.zeros(()).shape == () and torch.full((2, 3), 1.0).sum() == 6


def test_arrays_get_no_more_than_is_free_while_a_part_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    for make in (lambda: np.ones(2**26), lambda: torch.ones(2**26), lambda: bytearray(2**29)):
        with pytest.raises(UserError, match=r"^source: its data need more memory than there is"):  # noqa: SIM117
            with bounded("source", "its data"):
                make()
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with bounded("source", "its data"):
        np.ones(2**16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros(2**62),
        lambda: np.zeros((2**40, 2**40)),
        lambda: torch.empty(2**40, 2**40),
        lambda: np.zeros(3, np.int32).__setitem__(0, 2**40),
        lambda: [0] * 2**62,
        lambda: [0] * 2**70,
    ],
)
def test_sizes_that_no_memory_has_are_one_sentence(make: object) -> None:
    assert callable(make)
    with (
        pytest.raises(UserError, match=r"^algorithm: its tensors need more memory"),
        bounded("algorithm", "its tensors"),
    ):
        make()


@pytest.mark.parametrize(
    "error", [OverflowError("math range error"), ValueError("x"), RuntimeError("x"), KeyError("x")]
)
def test_other_mistakes_keep_their_traceback(error: Exception) -> None:
    assert not lacks_memory(error)
    with pytest.raises(type(error)), bounded("algorithm", "its tensors"):
        raise error
