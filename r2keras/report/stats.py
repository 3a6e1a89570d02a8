"""Mean and spread of a figure over seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from r2keras._util.text import DASH, number


@dataclasses.dataclass(frozen=True)
class Stat:
    """Mean and spread of a figure over seeds.

    Args:
        mean: arithmetic mean.
        std: sample standard deviation (divisor `n - 1`); None for one seed.
        n: number of seeds that have the figure.
    """

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Stat:
        """Returns the statistics of at least one value.

        >>> Stat.of([0.5, 0.7]).mean
        0.6
        """
        values = list(values)
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None, 1)
        return cls(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)), len(values))


def percent_stat(stat: Stat | None) -> str:
    """Returns mean and spread of fractions in percent, `98.77 ±0.12`; without the spread for one seed."""
    if stat is None:
        return DASH
    spread = "" if stat.std is None else f" \u00b1{100 * stat.std:.2f}"
    return f"{100 * stat.mean:.2f}{spread}"


def number_stat(stat: Stat | None) -> str:
    """Returns the mean of a figure with three significant digits."""
    return DASH if stat is None else number(stat.mean)
