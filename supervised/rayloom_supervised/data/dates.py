"""Dates as people write them, and the same dates as machines do: a small translation task."""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass

import torch

from rayloom.contract import component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset
from rayloom_supervised.data.symbols import END, SYMBOLS

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FIRST, _LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
FORMATS = 6


@dataclass(frozen=True, kw_only=True)
class DatesConfig(SizeConfig):
    """Dates from 1950 to 2049 in six human formats and as YYYY-MM-DD, character by character."""

    def __post_init__(self) -> None:
        """Refuse more dates than there are."""
        days = (_LAST - _FIRST).days + 1
        if self.total > days:
            raise ValueError(f"train_size: there are {days} days in these years; ask for fewer in all splits")


def written_by_people(day: datetime.date, form: int) -> str:
    """Return a date in one of `FORMATS` formats; two digits of a year stand for 1950 to 2049."""
    month, weekday = _MONTHS[day.month - 1], _WEEKDAYS[day.weekday()]
    return (
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{weekday}, {day.day} {month} {day.year}",
        f"{day.day:02}.{day.month:02}.{day.year}",
        f"{month[:3]} {day.day} '{day.year % 100:02}",
        f"{day.month}/{day.day}/{day.year % 100:02}",
    )[form].lower()


@component("data set", DatesConfig)
def dates(config: DatesConfig, seed: int) -> Dataset:
    """Return `source` [S] and `target` [11] (which ends with END), int64 and ragged; no day is in two splits."""
    chance = random.Random(seed)
    days = chance.sample(range((_LAST - _FIRST).days + 1), config.total)
    pairs = []
    for number in days:
        day = _FIRST + datetime.timedelta(days=number)
        pairs.append((written_by_people(day, chance.randrange(FORMATS)), day.isoformat()))
    alphabet = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789 ,.'/-"})
    numbers = {character: len(SYMBOLS) + place for place, character in enumerate(alphabet)}
    rows = {
        "source": [torch.tensor([numbers[character] for character in source]) for source, _ in pairs],
        "target": [torch.tensor([*(numbers[character] for character in target), END]) for _, target in pairs],
    }
    names = (*SYMBOLS, *alphabet)
    return ragged_dataset("dates", config, rows, {"source": names, "target": names})
