"""An observer that keeps what a run remarks."""

from __future__ import annotations

from rayloom.runs.observer import Observer


class Remarks(Observer):
    """Keeps remarks."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)
