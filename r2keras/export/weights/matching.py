"""Matching of a file's constants to recorded weights by value, up to one folded factor per channel."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras.export.weights.axis_layout import Layout, layouts, sample

# Relative: about seven roundings to float32, of 2^-24 each.
MATCH_TOLERANCE = 4e-7
# Absolute: denormals, below the smallest normal float32, are less precise.
SMALLEST = float(np.finfo(np.float32).tiny)
# So many values do not agree to `MATCH_TOLERANCE` by chance.
STRONG_EVIDENCE = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A constant that holds a weight: `constant = layout(weight) * factor`, up to rounding.

    Args:
        layout: maps the weight to the constant.
        factor: float64, broadcasts to the constant; varies along at most one axis.
        evidence: number of values that agree beyond those that the factor was fitted to.
    """

    layout: Layout
    factor: np.ndarray
    evidence: int

    @property
    def is_exact(self) -> bool:
        """Whether no factor was folded into the constant."""
        return bool(np.all(self.factor == 1.0))

    @property
    def is_strong(self) -> bool:
        """Whether too many values agree for the match to be chance."""
        return self.evidence >= STRONG_EVIDENCE


def match(weight: np.ndarray, constant: np.ndarray) -> Match | None:
    """Finds the layout and the factor with which `constant` holds `weight`.

    Tries every permutation of the axes of `weight`, reshaped to the shape of `constant`: first with one factor for the
    whole tensor, then with one factor per index along each axis of `constant` (a folded batch normalization). The
    factor of a channel with weights `k` and constants `w` is the least-squares fit `f = sum(k w) / sum(k^2)`, in
    float64. Every value of a match satisfies `|k f - w| <= 4e-7 |w|`, so zeros match only zeros. A few sample points
    are tested before the whole tensor.

    Args:
        weight: float32, any shape.
        constant: float32.

    Returns:
        The match with the fewest factors, or None: no layout fits, or the sizes differ.

    Example:

    >>> kernel = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    >>> result = match(kernel, kernel.T * np.array([[1.0], [2.0], [-3.0]], np.float32))
    >>> result.layout.order, result.factor.round(6).ravel().tolist()
    ((1, 0), [1.0, 2.0, -3.0])
    """
    if weight.size != constant.size:
        return None
    candidates = layouts(weight.shape, constant.shape)
    flat_weight, flat_constant = weight.ravel(), constant.ravel()
    for axis in (None, *(a for a, size in enumerate(constant.shape) if size > 1)):
        for layout in candidates:
            in_target, in_source = sample(layout, weight.shape, axis)
            if _fit_factors(flat_weight[in_source], flat_constant[in_target]) is None:
                continue
            result = _match_whole(weight, constant, layout, axis)
            if result is not None:
                return result
    return None


def _match_whole(weight: np.ndarray, constant: np.ndarray, layout: Layout, axis: int | None) -> Match | None:
    """Returns the match with this layout and factor axis, or None if a value disagrees."""
    laid_out = layout.apply(weight)
    if axis is None and np.array_equal(laid_out, constant):
        return Match(layout, np.ones(()), int(np.count_nonzero(constant)))
    rows, targets = _by_channel(laid_out, axis), _by_channel(constant, axis)
    factor = _fit_factors(rows, targets)
    if factor is None:
        return None
    evidence = np.count_nonzero(targets) - np.count_nonzero(factor)
    shape = [1] * constant.ndim
    if axis is not None:
        shape[axis] = constant.shape[axis]
    return Match(layout, factor.reshape(shape), int(evidence))


def _by_channel(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Returns the values as `[channels, values per channel]`; one channel if `axis` is None."""
    if axis is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _fit_factors(weight: np.ndarray, constant: np.ndarray) -> np.ndarray | None:
    """Returns the factor of each row, or None if the rows are not proportional."""
    k, w = weight.astype(np.float64), constant.astype(np.float64)
    squares = np.einsum("ij,ij->i", k, k)
    factor = np.einsum("ij,ij->i", k, w) / np.where(squares > 0, squares, 1.0)
    excess = np.abs(k * factor[:, None] - w) - MATCH_TOLERANCE * np.abs(w)
    return factor if excess.max(initial=0.0) <= SMALLEST else None
