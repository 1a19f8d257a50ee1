"""An observer that keeps what a run remarks."""

from __future__ import annotations

from rayloom.runs.observer import Observer


class Notes(Observer):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)
