"""What a study is made of, before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayloom.config.load import from_tree
from rayloom.config.schema import RunConfig
from rayloom.config.search import SearchConfig
from rayloom.redaction import redacted_tree
from rayloom.runs.compiling import settled
from rayloom.search.ledger import TrialEntry
from rayloom.search.space import apply


@dataclass(frozen=True)
class Study:
    """What a study searches and where."""

    config: RunConfig
    settings: SearchConfig
    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    total: int
    """Trials of the whole study."""
    folder: Path
    local: bool
    """Whether trials run in this process, without Ray."""

    def trial_folder(self, number: int) -> Path:
        """Return the run folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def trial_tree(self, entry: TrialEntry, name: str) -> dict[str, Any]:
        """Return a trial's whole config: its name, and no password of the store, to which the study's writer writes."""
        tree = apply(self.config, entry.assignment.values)
        if tree["learner"]["compile"] == "auto":  # one of the choices of the space
            tree["learner"]["compile"] = settled(from_tree(tree)).learner.compile
        return {**tree, "name": name, "tracking": redacted_tree(tree["tracking"])}
