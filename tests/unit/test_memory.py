"""Memory is compared with what there is before it is taken, and small amounts cost no question."""

from __future__ import annotations

import pytest
import torch

from rayloom import memory
from rayloom.errors import UserError
from rayloom.memory import check_fits, checked_tensors


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
