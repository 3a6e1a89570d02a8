"""Integers and real numbers of any library as plain Python numbers; booleans are not numbers."""

from __future__ import annotations

import math
import numbers


def as_int(value: object) -> int | None:
    """Returns an integer, also one of NumPy, as a Python int; None for anything else, booleans included.

    >>> import numpy as np
    >>> as_int(np.int8(4)), as_int(True), as_int(4.0)
    (4, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)


def as_number(value: object) -> float | None:
    """Returns a real number, also one of NumPy, as a Python int or float; None for anything else, booleans included.

    >>> import numpy as np
    >>> as_number(np.float32(0.5)), as_number(3), as_number("3")
    (0.5, 3, None)
    """
    whole = as_int(value)
    if whole is not None:
        return whole
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else None


def is_finite(value: float) -> bool:
    """Whether a number is finite and fits a float; `math.isfinite` raises for larger integers.

    >>> is_finite(2), is_finite(float("nan")), is_finite(10**400)
    (True, False, False)
    """
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
