"""Checks of the callbacks' arguments."""

from __future__ import annotations

from r2keras._util.errors import invalid
from r2keras._util.numeric import as_int, as_number, is_finite


def check_positive(name: str, value: object) -> float:
    """Returns a finite number above 0, or raises ValueError."""
    number = as_number(value)
    if number is None or not is_finite(number) or number <= 0:
        raise ValueError(invalid(name, "a finite number above 0", value))
    return float(number)


def check_integer(name: str, value: object, least: int) -> int:
    """Returns an integer of at least `least`, or raises ValueError."""
    whole = as_int(value)
    if whole is None or whole < least:
        raise ValueError(invalid(name, f"an integer of at least {least}", value))
    return whole
