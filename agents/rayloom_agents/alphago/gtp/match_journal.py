"""The games of a match that have ended, kept as they end, so that a match which was interrupted goes on.

`games.jsonl` in the match's folder begins with what is played, and has a line for every game after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rayloom.contract import UserError
from rayloom_agents.alphago.gtp.board import Move
from rayloom_agents.alphago.gtp.referee import PlayedGame

JOURNAL = "games.jsonl"


class MatchJournal:
    """The journal of one match."""

    def __init__(self, folder: Path, match: Mapping[str, Any]) -> None:
        """Open the folder's journal, or begin one; UserError where that of another match is, or cannot be read.

        `match` is what the games have in common, as plain data.
        """
        self._path = folder / JOURNAL
        self.games: list[PlayedGame] = []
        """Those that ended before."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
            whole = text[: text.rfind("\n") + 1]  # whoever wrote the last line may have been killed while doing so
            if whole:
                self._read(whole, match)
            self._path.write_text(whole or f"{json.dumps(match)}\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}); name another with --destination") from None

    def _read(self, text: str, match: Mapping[str, Any]) -> None:
        try:
            begun, *lines = [json.loads(line) for line in text.splitlines()]
            if not isinstance(begun, dict):
                raise TypeError("no match")
            games = [PlayedGame(**{**line, "moves": [Move(*move) for move in line["moves"]]}) for line in lines]
        except (ValueError, TypeError, KeyError, UnicodeError) as error:
            raise UserError(f"{self._path} is damaged ({error}); name another folder with --destination") from None
        for key, value in match.items():
            if begun.get(key) != value:
                raise UserError(
                    f"{self._path} is of a match with another {key}, {begun.get(key)} and not {value}: name another "
                    "folder with --destination"
                )
        self.games = games

    def add(self, played: PlayedGame) -> None:
        """Keep a game that has ended."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(asdict(played))}\n")
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error.strerror}); the games before stay") from None
