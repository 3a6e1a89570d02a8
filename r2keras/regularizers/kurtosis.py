"""The kurtosis regularizer (KURE)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from r2keras.ops.range_loss import kurtosis
from r2keras.regularizers.base import check_number, register


@register
class Kurtosis(keras.regularizers.Regularizer):
    """Pulls the kurtosis of a weight toward a target, by default 1.8, that of a uniform distribution (KURE).

    Forward: `factor * (K - target)^2` with the kurtosis `K = mean((w - mean w)^4) / var(w)^2`.
    Gradient: `2 factor (K - target) dK/dw`, see `r2keras.ops.range_loss.kurtosis`; 0 for a constant tensor.

    This is the baseline of the R2 losses. The paper leaves the first convolution out. Nothing is learned, so one
    instance may serve several weights.

    Args:
        factor: strength, at least 0. Defaults to the paper's 1.0.
        target: the target kurtosis, at least 0. Defaults to the paper's 1.8.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument is out of range.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(3, kernel_regularizer=Kurtosis())
    >>> round(float(Kurtosis(target=1.5)([-1.0, 0.0, 1.0])), 6)
    0.0

    Source: Robust Quantization: One Model to Rule Them All, arXiv 2002.07686, section 4.
    """

    def __init__(self, factor: float = 1.0, *, target: float = 1.8) -> None:
        self.factor = check_number("factor", factor)
        self.target = check_number("target", target)

    def __call__(self, w):
        """Returns the loss of a weight as a scalar tensor."""
        return self.factor * ops.square(kurtosis(w) - self.target)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"factor": self.factor, "target": self.target}
