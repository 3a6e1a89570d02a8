"""Figures of the range of a tensor: largest magnitude, standard deviation, kurtosis, histogram."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from r2keras._util.errors import invalid
from r2keras._util.json_text import member
from r2keras._util.numeric import as_int, is_finite

HISTOGRAM_BINS = 64


@dataclasses.dataclass(frozen=True)
class RangeFigures:
    """Figures of the range of one tensor; outliers make the largest magnitude, the ratio and the kurtosis large.

    Args:
        max_abs: `max|w|`.
        std: standard deviation, around the mean.
        kurtosis: `mean((w - mean)^4) / std^4`: 1.8 for a uniform distribution, 3 for a normal one; 0 if constant.
        low: the smallest value.
        high: the largest value.
        counts: how many values fall in each of 64 equal bins of `[low, high]`.

    Example:

    >>> figures = RangeFigures.of(np.array([-1.0, 0.0, 1.0, 2.0]))
    >>> figures.max_abs, round(figures.max_over_std, 3)
    (2.0, 1.789)
    """

    max_abs: float
    std: float
    kurtosis: float
    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def max_over_std(self) -> float:
        """`max|w| / std(w)`, which does not change when the tensor is rescaled; 0 if constant."""
        return self.max_abs / self.std if self.std > 0 else 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> RangeFigures:
        """Measures a tensor of any shape, in double precision.

        Raises:
            ValueError: no values, or values that are not finite.
        """
        flat = np.asarray(values, np.float64).ravel()
        if not flat.size or not np.isfinite(flat).all():
            raise ValueError(invalid("values", "at least one number, all of them finite", values))
        low, high = float(flat.min()), float(flat.max())
        if low == high:
            # The mean of equal numbers is rounded: the standard deviation would be tiny instead of 0, and ratios to it
            # huge.
            return cls(abs(low), 0.0, 0.0, low, high, _histogram(flat * 0))
        std = float(flat.std())
        kurtosis = float(np.mean(((flat - flat.mean()) / std) ** 4))
        return cls(max(-low, high), std, kurtosis, low, high, _histogram((flat - low) / (high - low)))

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> RangeFigures:
        """Returns the figures of a `dataclasses.asdict` result, which may have gone through JSON.

        Raises:
            ValueError: a figure is missing or is not a finite number.
        """
        *numbers, _ = (field.name for field in dataclasses.fields(cls))
        figures = {name: _finite(name, member(config, name, float, "the range")) for name in numbers}
        given = member(config, "counts", list, "the range")
        counts = tuple(count for count in map(as_int, given) if count is not None and count >= 0)
        if not len(counts) == len(given) == HISTOGRAM_BINS:
            raise ValueError(invalid("counts", f"{HISTOGRAM_BINS} integers of at least 0", given))
        return cls(**figures, counts=counts)


def _finite(name: str, value: float) -> float:
    """Returns a figure as a float."""
    if not is_finite(value):
        raise ValueError(invalid(name, "a finite number", value))
    return float(value)


def _histogram(fractions: np.ndarray) -> tuple[int, ...]:
    """Counts numbers in [0, 1] in equal bins; 1 falls in the last."""
    bins = np.minimum((fractions * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
    return tuple(map(int, np.bincount(bins, minlength=HISTOGRAM_BINS)))
