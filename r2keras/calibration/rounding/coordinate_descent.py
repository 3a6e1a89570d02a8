"""Alternating refinement of one kernel: the least-squares scales, then each weight's best code, in NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from r2keras.calibration.rounding.moments import Moments

# The share of the mean diagonal that is added to the diagonal of the second moments. It keeps codes of inputs with
# little data near their start.
DAMPING = 0.01
# Passes over all codes per round.
SWEEPS = 2
# Inputs per block: changes reach the inputs outside a block in one matrix product at its end.
BLOCK = 64


@dataclasses.dataclass(frozen=True)
class KernelGrid:
    """The uniform grid of a kernel matrix: `W_q = scale * (code - zero_point)`.

    Args:
        scale: the scale of every weight, (groups, fan_in, outputs).
        zero_point: the zero point of every weight, likewise.
        quant_min: the lowest code.
        quant_max: the highest code.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    quant_min: int
    quant_max: int

    def values(self, codes: np.ndarray) -> np.ndarray:
        """Returns the weights of codes, float64."""
        return self.scale.astype(np.float64) * (codes - self.zero_point)


def refine(
    weights: np.ndarray,
    codes: np.ndarray,
    grid: KernelGrid,
    moments: Moments,
    sum_per_scale: Callable[[np.ndarray], np.ndarray] | None,
    rounds: int,
) -> tuple[np.ndarray, KernelGrid]:
    """Lowers the error of a layer's outputs beyond what rounding each weight up or down can reach.

    With the inner moments `A` (plus `DAMPING` of their mean diagonal), the cross moments `B` and `E = W_q - W`, a round

    - fits the scales to the codes: `s = q'(A w - B) / q'A q` with `q = code - zero_point`, summed over all weights that
      share the scale;
    - goes over the weights one by one, `SWEEPS` times, and takes the code nearest to `w_i + E_i - (A E + B)_i / A_ii`,
      which is the best code while all others stay.

    No step increases `E'A E + 2 E'B`.

    Args:
        weights: the float matrix, (groups, fan_in, outputs).
        codes: the start codes, likewise.
        grid: the grid of the codes.
        moments: the second moments of the layer's inputs.
        sum_per_scale: returns a matrix in which each entry is replaced by the sum over all entries that share its
            scale; None keeps the scales.
        rounds: the number of rounds.

    Returns:
        `(codes, grid)`: integer codes as float64, and the grid with its new scales.

    Example:

    >>> moments = Moments(np.ones((1, 2, 2)), np.zeros((1, 2, 1)), np.zeros((1, 1, 1)), 1)
    >>> weights, ones = np.array([[[0.4], [0.4]]]), np.ones((1, 2, 1))
    >>> codes, _ = refine(weights, 0 * ones, KernelGrid(ones, 0 * ones, -8, 7), moments, None, rounds=1)
    >>> codes.ravel().astype(int).tolist()
    [1, 0]

    Source: the updates of the codes are those of Behdin et al., arXiv 2309.01885; the moments and the updates of the
    scales are ours.
    """
    inner, cross = (moment / max(moments.rows, 1) for moment in (moments.inner, moments.cross))
    mean_diagonal = np.diagonal(inner, axis1=1, axis2=2).mean(axis=1)
    inner = inner + DAMPING * mean_diagonal[:, None, None] * np.eye(inner.shape[1])
    target = inner @ weights - cross
    codes = codes.astype(np.float64)
    for _ in range(rounds):
        if sum_per_scale is not None:
            grid = _with_fitted_scales(grid, codes, inner, target, sum_per_scale)
        previous = codes
        codes = _swept(weights, codes, grid, inner, cross)
        if sum_per_scale is None and (previous == codes).all():
            break
    return codes, grid


def _with_fitted_scales(
    grid: KernelGrid,
    codes: np.ndarray,
    inner: np.ndarray,
    target: np.ndarray,
    sum_per_scale: Callable[[np.ndarray], np.ndarray],
) -> KernelGrid:
    """Returns the grid with the scales of least error; a scale whose best value is not positive stays."""
    steps = codes - grid.zero_point
    numerator = sum_per_scale(steps * target)
    denominator = sum_per_scale(steps * (inner @ steps))
    scale = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return dataclasses.replace(grid, scale=np.where(scale > 0, scale, grid.scale).astype(np.float32))


def _swept(
    weights: np.ndarray, codes: np.ndarray, grid: KernelGrid, inner: np.ndarray, cross: np.ndarray
) -> np.ndarray:
    """Returns the codes after `SWEEPS` passes, which visit the inputs with the largest second moment first.

    The inputs are visited in blocks. A change reaches the other inputs of its block at once, and all inputs outside the
    block in one matrix product at the block's end.
    """
    codes = codes.copy()
    errors = grid.values(codes) - weights
    slope = inner @ errors + cross
    curvature = np.diagonal(inner, axis1=1, axis2=2)[:, :, None]
    steps = np.divide(1.0, curvature, out=np.zeros_like(curvature), where=curvature > 0)
    order = np.argsort(-curvature.mean(axis=(0, 2)), kind="stable")
    for start in [*range(0, len(order), BLOCK)] * SWEEPS:
        block = order[start : start + BLOCK]
        block_slope = slope[:, block]
        block_inner = inner[:, block][:, :, block]
        changes = np.zeros_like(errors[:, block])
        for k, i in enumerate(block):
            value = weights[:, i] + errors[:, i] - block_slope[:, k] * steps[:, i]
            code = np.clip(np.rint(value / grid.scale[:, i] + grid.zero_point[:, i]), grid.quant_min, grid.quant_max)
            code = np.where(steps[:, i] > 0, code, codes[:, i])
            changes[:, k] = grid.scale[:, i].astype(np.float64) * (code - codes[:, i])
            block_slope += block_inner[:, :, k, None] * changes[:, None, k]
            codes[:, i] = code
        errors[:, block] += changes
        slope += inner[:, :, block] @ changes
    return codes
