"""The R2 L-infinity regularizer."""

from __future__ import annotations

from r2keras.ops.range_loss import linf
from r2keras.regularizers.base import RangeRegularizer, register


@register
class R2Linf(RangeRegularizer):
    """Penalises the largest magnitude of a weight: `factor * max|w|`.

    Forward: `factor * sum_j max_i |w_ij|` over the coordinates `j` of the palette vectors; `factor * max|w|`
    for `dim=1`. With `scale_free=True`, of `w / std(w)`, the standard deviation taken as a constant.
    Gradient: `factor * sign(w_i)` at the largest `|w_i|` of each coordinate, shared evenly between equals, 0
    elsewhere; divided by `std(w)` if scale-free. A constant tensor counts as having the standard deviation 1.

    Nothing is learned, so one instance may serve several weights.

    Args:
        factor: strength, at least 0. Defaults to the paper's 0.01.
        dim: length of the palette vectors the weight will be split into, at least 1; 1 for scalar quantization.
        scale_free: whether to judge the weight in units of its standard deviation.

    Raises:
        ValueError: an argument out of its range; on the first call, `dim` above the weight's last axis.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(3, kernel_regularizer=R2Linf(0.01))
    >>> float(R2Linf(0.1)([[0.5, -2.0], [1.0, 0.0]])) == float(keras.ops.multiply(0.1, 2.0))
    True

    Source: R2 Loss: Range Restriction Loss, arXiv 2303.08253, section 3.
    """

    def __init__(self, factor: float = 0.01, *, dim: int = 1, scale_free: bool = False) -> None:
        self._set_options(factor, dim, scale_free)

    def __call__(self, w):
        """Returns the loss of a weight as a scalar tensor."""
        return self.factor * linf(self._scaled(w), dim=self.dim)
