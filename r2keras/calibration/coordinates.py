"""Codes and scales of one kernel by turns: each weight's best code, then the scales' least squares, in NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from r2keras.calibration.moments import Moments

# Of the mean second moment, on the diagonal: inputs that few samples have shown move no code far.
DAMPING = 0.01
SWEEPS = 2
BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the codes of a kernel matrix lie: `W_q = scale * (code - zero_point)`.

    Args:
        scale: the kernel matrix' shape, (groups, fan_in, outputs).
        zero_point: likewise.
        least: the lowest code.
        most: the highest code.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    least: int
    most: int

    def values(self, codes: np.ndarray) -> np.ndarray:
        """Returns the weights of codes, float64."""
        return self.scale.astype(np.float64) * (codes - self.zero_point)


def refine(
    weights: np.ndarray, codes: np.ndarray, grid: Grid, moments: Moments, shared: Callable | None, rounds: int
) -> tuple[np.ndarray, Grid]:
    """Lowers the error of a layer's outputs further than codes next to the weights can.

    A round fits the scales to the codes, `s = q'(A w - B) / q'A q` with `q = code - zero_point`, summed over all that
    share a scale; then, `SWEEPS` times and weight by weight, takes the code nearest to
    `w_i + E_i - (A E + B)_i / A_ii`, with `E = W_q - W`: the best one while the others stay. `A` and `B` are the inner
    and cross moments, `A` damped by `DAMPING` of its mean diagonal. No turn raises `E'A E + 2 E'B`.

    Args:
        weights: the float matrix, (groups, fan_in, outputs).
        codes: to start from, likewise.
        grid: of the codes.
        moments: of the layer's inputs.
        shared: sums a matrix over all entries that share a scale and spreads the sums over them again; None leaves the
            scales as they are.
        rounds: how often.

    Returns:
        `(codes, grid)`: integers as float64, and the grid with its new scales.

    Example:

    >>> moments = Moments(np.ones((1, 2, 2)), np.zeros((1, 2, 1)), np.zeros((1, 1, 1)), 1)
    >>> weights, ones = np.array([[[0.4], [0.4]]]), np.ones((1, 2, 1))
    >>> codes, _ = refine(weights, 0 * ones, Grid(ones, 0 * ones, -8, 7), moments, None, rounds=1)
    >>> codes.ravel().astype(int).tolist()
    [1, 0]

    Source: the turns over codes are Behdin et al., arXiv 2309.01885; the moments and the turns over scales are ours.
    """
    inner, cross = (part / max(moments.rows, 1) for part in (moments.inner, moments.cross))
    inner = inner + DAMPING * np.diagonal(inner, axis1=1, axis2=2).mean(axis=1)[:, None, None] * np.eye(inner.shape[1])
    wanted, codes = inner @ weights - cross, codes.astype(np.float64)
    for _ in range(rounds):
        if shared is not None:
            grid = _fitted(grid, codes, inner, wanted, shared)
        before, codes = codes, _swept(weights, codes, grid, inner, cross)
        if shared is None and (before == codes).all():
            break
    return codes, grid


def _fitted(grid: Grid, codes: np.ndarray, inner: np.ndarray, wanted: np.ndarray, shared: Callable) -> Grid:
    """Returns the grid with the scales of least error; those of kernels without any weight but zero stay."""
    steps = codes - grid.zero_point
    found, size = shared(steps * wanted), shared(steps * (inner @ steps))
    scale = np.divide(found, size, out=np.zeros_like(found), where=size > 0)
    return dataclasses.replace(grid, scale=np.where(scale > 0, scale, grid.scale).astype(np.float32))


def _swept(weights: np.ndarray, codes: np.ndarray, grid: Grid, inner: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Returns the codes after `SWEEPS` turns, the inputs with the largest second moment first.

    A block of inputs at a time: within it each change is felt at once, by all others in one matrix product at its end.
    """
    codes = codes.copy()
    errors = grid.values(codes) - weights
    slope, curve = inner @ errors + cross, np.diagonal(inner, axis1=1, axis2=2)[:, :, None]
    steps = np.divide(1.0, curve, out=np.zeros_like(curve), where=curve > 0)
    order = np.argsort(-curve.mean(axis=(0, 2)), kind="stable")
    for start in [*range(0, len(order), BLOCK)] * SWEEPS:
        block = order[start : start + BLOCK]
        near, own, changes = slope[:, block], inner[:, block][:, :, block], np.zeros_like(errors[:, block])
        for k, i in enumerate(block):
            value = weights[:, i] + errors[:, i] - near[:, k] * steps[:, i]
            code = np.clip(np.rint(value / grid.scale[:, i] + grid.zero_point[:, i]), grid.least, grid.most)
            code = np.where(steps[:, i] > 0, code, codes[:, i])
            changes[:, k] = grid.scale[:, i].astype(np.float64) * (code - codes[:, i])
            near += own[:, :, k, None] * changes[:, None, k]
            codes[:, i] = code
        errors[:, block] += changes
        slope += inner[:, :, block] @ changes
    return codes
