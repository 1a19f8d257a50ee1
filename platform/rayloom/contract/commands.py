"""Commands that a family adds to the command line: what it plays, shows or writes beyond training.

A family's command is a class that the command line finds by import path (`rayloom.cli.family_commands`), as everything
of a family. It imports the contract alone: runs, and where findings are recorded, reach it through a `CommandHost`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TextIO

from rayloom.contract.algorithm import Algorithm
from rayloom.contract.figures import Figure


@dataclass(frozen=True)
class Learnt:
    """What a run has learnt, as a command gets it."""

    name: str
    """Name of the run's folder, or of the parcel's."""
    algorithm: Algorithm
    """In evaluation mode."""
    source: Any
    """Settings of the run's source."""
    weights: str
    """Which of its weights these are, in words."""
    run_dir: Path | None
    """The run's folder; None for a parcel."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What was written into a parcel about how it was made."""


class CommandHost(ABC):
    """What the command line does for a command."""

    people: TextIO
    """Where people are told things: standard error where standard output belongs to a program."""

    @abstractmethod
    def load(self, run: str, weights: str | None = None) -> Learnt:
        """Return what a run has learnt: its best weights where it kept some, else its last, or those asked for.

        UserError when there is no such run or no such checkpoint.
        """

    @abstractmethod
    def load_parcel(self, folder: Path) -> Learnt:
        """Return what `save_parcel` wrote; UserError where the folder is none, or damaged."""

    @abstractmethod
    def save_parcel(self, run: str, weights: str | None, folder: Path, about: Mapping[str, Any]) -> Learnt:
        """Write a run's weights and those settings that make its algorithm into a folder that needs nothing else.

        `about` is plain data that goes with it. UserError where the folder holds something already.
        """

    @abstractmethod
    def record(
        self, learnt: Learnt, name: str, files: Mapping[str, str | bytes], figures: Mapping[str, Figure]
    ) -> str | None:
        """Add files (under the folder `name`) and figures to a run, in its folder and in MLflow.

        Returns why that could not be done, in words: the run is in training, or it is a parcel; None where it was.
        """


class Command(ABC):
    """One command."""

    writes_json: ClassVar[bool] = True
    """Whether it takes --json; what `run` returns is then the last line of standard output."""

    @abstractmethod
    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare arguments and options; --output and --json are there already."""

    @abstractmethod
    def run(self, options: Namespace, host: CommandHost) -> Mapping[str, Any]:
        """Carry it out; UserError for a mistake of the user."""
