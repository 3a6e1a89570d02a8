"""Statistics of all values of a tensor in bounded memory, which do not depend on how the values were batched."""

from __future__ import annotations

import math

import numpy as np

# Bins of the histogram on each side of zero.
HALF = 2**15
# Exponent of the bin width before any value other than zero, below that of the smallest float32.
SMALLEST = -200
# With more distinct values than this, only the histogram describes them.
MAX_DISTINCT = 4096
# Values that are counted at once, which bounds the size of temporary arrays.
CHUNK = 2**20


class Observed:
    """Minimum, maximum and histogram of values that come in parts.

    The bins are aligned to zero and have a power of two as width, the smallest with which the largest magnitude fits.
    When the range grows, neighboring bins merge, and `floor(floor(x / 2^k) / 2^j) = floor(x / 2^(k+j))`: the histogram
    is the same for every order and every partition of the values. Up to 4,096 distinct values are also kept
    themselves, with their counts.

    Args:
        bins: whether to keep the histogram; without it, only extremes and the distinct values.

    Example:

    >>> one, two = Observed(), Observed()
    >>> one.add(np.float32([1.0, -2.0, 1.0]))
    >>> for value in (-2.0, 1.0, 1.0):
    ...     two.add(np.float32([value]))
    >>> [part.tolist() for part in one.table()] == [part.tolist() for part in two.table()]
    True
    >>> [part.tolist() for part in one.table()]
    [[-2.0, 1.0], [1, 2]]
    """

    def __init__(self, *, bins: bool = True) -> None:
        self.count = 0
        self.low = math.inf
        self.high = -math.inf
        self.zeros = 0
        self._exponent = SMALLEST
        self._bins = np.zeros(2 * HALF, np.int64) if bins else None
        self._distinct: tuple[np.ndarray, np.ndarray] | None = (np.zeros(0, np.float32), np.zeros(0, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Adds the values of an array."""
        flat = np.ravel(values).astype(np.float32, copy=False)
        if not flat.size:
            return
        self.count += flat.size
        self.low = float(np.minimum(self.low, flat.min()))
        self.high = float(np.maximum(self.high, flat.max()))
        if not self.is_finite:
            self._bins = self._distinct = None
            return
        self._distinct = self._with_distinct(flat)
        if self._bins is not None:
            self._grow(max(abs(self.low), abs(self.high)))
            for start in range(0, flat.size, CHUNK):
                self._add_to_bins(flat[start : start + CHUNK])

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def distinct(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The distinct values in ascending order and their counts; None if there are more than 4,096."""
        return self._distinct

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns values in ascending order, float64, and their counts: the distinct ones, or the centers of the bins.

        Centers are limited to the extremes, and zero is never merged with its neighbors.
        """
        if self._distinct is not None:
            values, counts = self._distinct
            return values.astype(np.float64), counts
        assert self._bins is not None  # `bins` is set where the values matter.
        used = np.flatnonzero(self._bins)
        centers = np.clip(np.ldexp(used - HALF + 0.5, self._exponent), self.low, self.high)
        place = int(np.searchsorted(centers, 0.0))
        values, counts = np.insert(centers, place, 0.0), np.insert(self._bins[used], place, self.zeros)
        return values[counts > 0], counts[counts > 0]

    def percentile(self, percent: float) -> float:
        """Returns a percentile of all values, linearly interpolated between neighbors (`ops.percentile`)."""
        values, counts = self.table()
        rank = percent / 100 * (int(counts.sum()) - 1)
        ends = np.cumsum(counts)
        places = np.searchsorted(ends, [math.floor(rank), math.ceil(rank)], side="right")
        low, high = values[places]
        return float(low + (high - low) * (rank - math.floor(rank)))

    def moments(self) -> tuple[float, float]:
        """Returns the root mean square of all values and their standard deviation."""
        values, counts = self.table()
        shares = counts / counts.sum()
        mean = (shares * values).sum()
        return math.sqrt((shares * values * values).sum()), math.sqrt((shares * (values - mean) ** 2).sum())

    def _with_distinct(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the distinct values with those of a flat array added; None if there are too many."""
        if self._distinct is None:
            return None
        # Few values are enough to see that there are too many distinct ones; all of them take long to sort.
        if any(np.unique(flat[:size]).size > MAX_DISTINCT for size in (2 * MAX_DISTINCT, 16 * MAX_DISTINCT)):
            return None
        values, counts = np.unique(flat, return_counts=True)
        old_values, old_counts = self._distinct
        # The sum turns -0.0 into 0.0.
        merged, places = np.unique(np.concatenate([old_values, values + np.float32(0)]), return_inverse=True)
        if merged.size > MAX_DISTINCT:
            return None
        totals = np.zeros(merged.size, np.int64)
        np.add.at(totals, places.ravel(), np.concatenate([old_counts, counts]))
        return merged, totals

    def _grow(self, reach: float) -> None:
        """Merges bins until the largest magnitude fits."""
        assert self._bins is not None
        # `reach < 2^exponent`, and the histogram extends to `HALF` bin widths.
        exponent = math.frexp(reach)[1] - (HALF.bit_length() - 1) if reach > 0 else SMALLEST
        if exponent <= self._exponent:
            return
        used = np.flatnonzero(self._bins)
        # A shift by more bits than an index has gives the same as one by all of them.
        merged = (used - HALF) >> min(exponent - self._exponent, HALF.bit_length() + 1)
        bins = np.zeros_like(self._bins)
        np.add.at(bins, merged + HALF, self._bins[used])
        self._bins, self._exponent = bins, exponent

    def _add_to_bins(self, flat: np.ndarray) -> None:
        """Counts values in the histogram, or as zeros."""
        assert self._bins is not None
        values = flat[flat != 0]
        self.zeros += flat.size - values.size
        places = np.floor(values.astype(np.float64) * 2.0**-self._exponent).astype(np.int64)
        self._bins += np.bincount(places + HALF, minlength=2 * HALF)
