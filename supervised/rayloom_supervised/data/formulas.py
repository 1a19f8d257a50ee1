"""Logical formulas as binary trees, and whether they are true: what matters is how the parts hang together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rayloom.contract import TensorSpec, component
from rayloom.datasets import Dataset
from rayloom_supervised.data.ragged import SizeConfig, ragged_dataset

CONSTANTS = {"false": False, "true": True}
OPERATORS: dict[str, Callable[[bool, bool], bool]] = {
    "and": lambda left, right: left and right,
    "or": lambda left, right: left or right,
    "implies": lambda left, right: not left or right,
    "xor": lambda left, right: left != right,
}
NOT = "not"
TOKENS = ("(padding)", *CONSTANTS, NOT, *OPERATORS)


@dataclass(frozen=True, kw_only=True)
class FormulasConfig(SizeConfig):
    """Generated logical formulas of constants with not, and, or, implies and xor; half of them are true."""

    fewest: Annotated[int, Ge(1)] = 3
    """Fewest constants of a formula."""
    most: Annotated[int, Ge(1), Le(1_000)] = 12
    """Most constants of a formula for training and development."""
    test_most: Annotated[int, Ge(1), Le(1_000)] = 12
    """Most constants of a formula of the test split; more than `most` asks for longer ones than were learnt from."""

    def __post_init__(self) -> None:
        """Refuse numbers in the wrong order."""
        if self.fewest > min(self.most, self.test_most):
            raise ValueError("most: make it and test_most at least fewest")


class Formula:
    """A formula as flat arrays; children come before their parents."""

    def __init__(self) -> None:
        """Begin without nodes."""
        self.tokens: list[str] = []
        self.children: list[tuple[int, int]] = []

    def node(self, token: str, left: int = -1, right: int = -1) -> int:
        """Add a node and return its number."""
        self.tokens.append(token)
        self.children.append((left, right))
        return len(self.tokens) - 1

    def values(self) -> list[bool]:
        """Return whether each node is true."""
        found: list[bool] = []
        for token, (left, right) in zip(self.tokens, self.children, strict=True):
            if token in CONSTANTS:
                found.append(CONSTANTS[token])
            elif token == NOT:
                found.append(not found[left])
            else:
                found.append(OPERATORS[token](found[left], found[right]))
        return found


def _grow(formula: Formula, chance: random.Random, constants: int) -> int:
    """Add a random subtree and return its root: constants are divided evenly at random, every fifth node is negated."""
    if constants == 1:
        root = formula.node(chance.choice(tuple(CONSTANTS)))
    else:
        first = chance.randint(1, constants - 1)
        left = _grow(formula, chance, first)
        right = _grow(formula, chance, constants - first)
        root = formula.node(chance.choice(tuple(OPERATORS)), left, right)
    return formula.node(NOT, root) if chance.random() < 0.2 else root


@component("data set", FormulasConfig)
def formulas(config: FormulasConfig, seed: int) -> Dataset:
    """Return `token` int64 [N] and `children` [N, 2] (-1: none), ragged, and `label`; -1 stands for no child."""
    chance = random.Random(seed)
    numbers = {token: number for number, token in enumerate(TOKENS)}
    tokens: list[Tensor] = []
    children: list[Tensor] = []
    labels: list[int] = []
    for row in range(config.total):
        most = config.test_most if row >= config.train_size + config.validation_size else config.most
        count = chance.randint(config.fewest, most)
        while True:
            formula = Formula()
            _grow(formula, chance, count)
            # Every other one is true, so that guessing the frequent answer is right half the time.
            if formula.values()[-1] == (row % 2 == 1):
                break
        tokens.append(torch.tensor([numbers[token] for token in formula.tokens]))
        children.append(torch.tensor(formula.children))
        labels.append(row % 2)
    spec = TensorSpec(shape=(), dtype=torch.int64, num_values=2, labels=("false", "true"))
    rows = {"token": tokens, "children": children}
    return ragged_dataset("formulas", config, rows, {"token": TOKENS}, {"label": (torch.tensor(labels), spec)})
