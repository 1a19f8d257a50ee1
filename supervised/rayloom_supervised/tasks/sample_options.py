"""Options of a model's `sample`, which a command line hands over as whatever it read them as."""

from __future__ import annotations

from rayloom.contract import UserError


def number_option(name: str, value: object, least: float, most: float) -> float:
    """Return the number of an option; UserError for anything but a number from `least` to `most`, nan among it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise UserError(f"sample: {name} must be a number from {least:g} to {most:g}, not {value!r}")
    return float(value)


def whole_option(name: str, value: object, least: int, most: int) -> int:
    """Return the whole number of an option; UserError for anything but one from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"sample: {name} must be a whole number from {least:,} to {most:,}, not {value!r}")
    return value
