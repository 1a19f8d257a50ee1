"""How long a move may take, by GTP's time settings: main time, then periods of so many stones each (Canadian)."""

from __future__ import annotations

_FASTEST_S = 0.05
_LAG_S = 0.3
"""What the way to the clock may cost."""


class Clock:
    """The times of both players; without settings there is no limit."""

    def __init__(self, size: int) -> None:
        self._points = size * size
        self._settings: tuple[float, float, int] | None = None
        self._left: dict[int, tuple[float, int]] = {}

    def set(self, main_s: float, period_s: float, stones: int) -> None:
        """Take the settings of the game; a period of no stones is no limit (GTP 2, section 6.3.2)."""
        self._settings = None if period_s > 0 and stones == 0 else (main_s, period_s, stones)
        self.start()

    def start(self) -> None:
        """Begin a new game."""
        self._left = {}

    def set_left(self, colour: int, seconds: float, stones: int) -> None:
        """Take what is left: of the main time (`stones` 0), or of a period in which so many are to be played."""
        self._left[colour] = (seconds, stones)

    def seconds(self, colour: int, plies: int) -> float | None:
        """Return how long this colour may think about its next move, `plies` into the game; None: as long as it likes.

        Of the main time it takes the share of one move among those that are still to come; of a period that of one
        stone.
        """
        if self._settings is None and colour not in self._left:
            return None
        main_s, period_s, stones = self._settings or (0.0, 0.0, 0)
        left_s, left_stones = self._left.get(colour, (main_s, 0))
        if left_stones > 0 or (left_s <= 0 and stones > 0 and colour not in self._left):
            share = left_s / left_stones if left_stones > 0 else period_s / stones
            return max(_FASTEST_S, 0.9 * share - _LAG_S / 3)
        to_come = max(10.0, 0.45 * self._points - plies / 2)
        after = period_s / stones if stones > 0 else 0.0
        return max(_FASTEST_S, min((left_s - _LAG_S) / to_come + 0.8 * after, left_s + 0.8 * after - _LAG_S))
