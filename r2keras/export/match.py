"""Which constant of a file is which recorded weight: by value, up to one folded factor per channel."""

from __future__ import annotations

import dataclasses

import numpy as np

from r2keras.export.layout import Layout, layouts, sample

TOLERANCE = 4e-7
SMALLEST = float(np.finfo(np.float32).tiny)
STRONG_EVIDENCE = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Match:
    """A constant that holds a weight: `constant = layout(weight) * factor`, up to rounding.

    Args:
        layout: where each value of the weight lies in the constant.
        factor: float64, broadcasts to the constant; varies along one axis at most.
        evidence: how many values agree beyond those that the factor was fitted to.
    """

    layout: Layout
    factor: np.ndarray
    evidence: int

    @property
    def is_exact(self) -> bool:
        """Whether nothing was folded into the constant."""
        return bool(np.all(self.factor == 1.0))

    @property
    def is_strong(self) -> bool:
        """Whether chance is ruled out."""
        return self.evidence >= STRONG_EVIDENCE


def match(weight: np.ndarray, constant: np.ndarray) -> Match | None:
    """Finds how `constant` holds `weight`.

    Tries every permutation of the weight's axes, reshaped to the constant's shape, times one factor, then times a
    factor along each axis of the constant in turn (a folded batch normalization). The factor of a channel with
    weights `k` and constants `w` is the least-squares one, `f = sum(k w) / sum(k^2)`, in float64; a match has
    `|k f - w| <= 4e-7 |w|` everywhere, which includes equal zeros. A few points are tried before a whole tensor.

    Args:
        weight: float32, any shape.
        constant: float32, as many values.

    Returns:
        The match, the one with the fewest factors first, or None.

    Example:

    >>> kernel = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    >>> found = match(kernel, kernel.T * np.array([[1.0], [2.0], [-3.0]], np.float32))
    >>> found.layout.order, found.factor.round(6).ravel().tolist()
    ((1, 0), [1.0, 2.0, -3.0])
    """
    if weight.size != constant.size:
        return None
    choices = layouts(weight.shape, constant.shape)
    flat_weight, flat_constant = weight.ravel(), constant.ravel()
    for axis in (None, *(a for a, size in enumerate(constant.shape) if size > 1)):
        for layout in choices:
            in_target, in_source = sample(layout, weight.shape, axis)
            if _fit(flat_weight[in_source], flat_constant[in_target]) is None:
                continue
            found = _match_whole(weight, constant, layout, axis)
            if found is not None:
                return found
    return None


def _match_whole(weight: np.ndarray, constant: np.ndarray, layout: Layout, axis: int | None) -> Match | None:
    """Returns the match with this layout and factor axis if every value agrees."""
    placed = layout.apply(weight)
    if axis is None and np.array_equal(placed, constant):
        return Match(layout, np.ones(()), int(np.count_nonzero(constant)))
    rows, targets = _by_channel(placed, axis), _by_channel(constant, axis)
    factor = _fit(rows, targets)
    if factor is None:
        return None
    fitted = np.count_nonzero(factor)
    evidence = np.count_nonzero(targets) - fitted
    shape = [1] * constant.ndim
    if axis is not None:
        shape[axis] = constant.shape[axis]
    return Match(layout, factor.reshape(shape), int(evidence))


def _by_channel(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Returns `[channels, values of a channel]`."""
    if axis is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _fit(weight: np.ndarray, constant: np.ndarray) -> np.ndarray | None:
    """Returns the factor of each row, or None if the rows are not proportional."""
    k, w = weight.astype(np.float64), constant.astype(np.float64)
    squares = np.einsum("ij,ij->i", k, k)
    factor = np.einsum("ij,ij->i", k, w) / np.where(squares > 0, squares, 1.0)
    off = np.abs(k * factor[:, None] - w) - TOLERANCE * np.abs(w)
    return factor if off.max(initial=0.0) <= SMALLEST else None
