"""Checks of the callbacks' arguments."""

from __future__ import annotations

from r2keras._util.errors import invalid


def check_positive(name: str, value: object) -> float:
    """Returns a finite number above 0, or raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(invalid(name, "a finite number above 0", value))
    return float(value)


def check_integer(name: str, value: object, least: int) -> int:
    """Returns an integer of at least `least`, or raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(invalid(name, f"an integer of at least {least}", value))
    return value
