"""Small stories about who carries what where, and questions that need two facts of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import TensorSpec, component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset

PEOPLE = ("john", "mary", "daniel", "sandra")
THINGS = ("apple", "football", "milk")
PLACES = ("kitchen", "garden", "office", "hallway", "bedroom", "bathroom")
VERBS = ("goes", "takes", "where")
WORDS = ("(padding)", *VERBS, *PEOPLE, *THINGS, *PLACES)
_NUMBERS = {word: number for number, word in enumerate(WORDS)}
Fact = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class TwoFactsConfig(SizeConfig):
    """Generated questions for the place of a thing: who took it, and where that person went last."""

    fewest: Annotated[int, Ge(2)] = 4
    """Fewest facts of a story."""
    most: Annotated[int, Ge(2), Le(10_000)] = 10
    """Most facts of a story."""

    def __post_init__(self) -> None:
        """Refuse numbers in the wrong order."""
        if self.fewest > self.most:
            raise ValueError("most: make it at least fewest")


def answer(facts: list[Fact], thing: str) -> str | None:
    """Return where a thing is: where the one who took it went last; None where the facts do not say."""
    owner = next((who for who, verb, what in facts if verb == "takes" and what == thing), None)
    return next((what for who, verb, what in reversed(facts) if verb == "goes" and who == owner), None)


def _story(chance: random.Random, count: int) -> tuple[list[Fact], str]:
    """Return facts and a thing of which they tell the place; nobody takes what another one has."""
    while True:
        free, facts = list(THINGS), []
        for _ in range(count):
            who = chance.choice(PEOPLE)
            if free and chance.random() < 0.3:
                facts.append((who, "takes", free.pop(chance.randrange(len(free)))))
            else:
                facts.append((who, "goes", chance.choice(PLACES)))
        known = [thing for thing in THINGS if answer(facts, thing)]
        if known:
            return facts, chance.choice(known)


@component("data set", TwoFactsConfig)
def two_facts(config: TwoFactsConfig, seed: int) -> Dataset:
    """Return `fact` int64 [L, 3], ragged, `question` [2] and `label`, a place (after task 2 of Weston et al. 2015)."""
    chance = random.Random(seed)
    facts: list[Tensor] = []
    questions, labels = [], []
    for _ in range(config.total):
        told, thing = _story(chance, chance.randint(config.fewest, config.most))
        facts.append(torch.tensor([[_NUMBERS[word] for word in fact] for fact in told]))
        questions.append([_NUMBERS["where"], _NUMBERS[thing]])
        labels.append(PLACES.index(str(answer(told, thing))))
    columns = {
        "question": (
            torch.tensor(questions),
            TensorSpec(shape=(2,), dtype=torch.int64, num_values=len(WORDS), labels=WORDS),
        ),
        "label": (
            torch.tensor(labels),
            TensorSpec(shape=(), dtype=torch.int64, num_values=len(PLACES), labels=PLACES),
        ),
    }
    return ragged_dataset("two-facts", config, {"fact": facts}, {"fact": WORDS}, columns)
