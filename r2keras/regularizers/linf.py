"""The R2 L-infinity regularizer."""

from __future__ import annotations

from r2keras.ops.range_loss import linf
from r2keras.regularizers.base import RangeRegularizer, register


@register
class R2Linf(RangeRegularizer):
    """Penalizes the largest magnitude of a weight: `factor * max|w|`.

    Forward: `factor * sum_j max_i |w_ij|` over the coordinates `j` of the palette vectors; `factor * max|w|` for
    `dim=1`. With `scale_free=True`, the same of `w / std(w)`. With `granularity="per_channel"`,
    `factor / C * sum_c max_i |w_ci|` over the `C` channels, each divided by its own standard deviation if scale-free.
    The mean over channels makes equal channels cost the same as one tensor, so that a factor does not depend on the
    number of channels.
    Gradient: `g_i = factor * sign(w_i)` at the largest `|w_i|` of each coordinate, shared evenly between equal
    magnitudes, 0 elsewhere. Scale-free: `(g_i - (w_i - mean w) sum_k g_k w_k / (n std(w)^2)) / std(w)`, which pulls the
    largest weight in, pushes all others out, and does not change the scale. Per channel, `1 / C` of these for every
    channel. The standard deviation of a constant tensor counts as 1, that of a channel as at least 1/100 of the
    tensor's (`r2keras.ops.range_loss.channel_std`), both without gradient.

    Nothing is learned, so one instance may serve several weights.

    Args:
        factor: strength, at least 0. Defaults to the paper's 0.01.
        dim: length of the palette vectors the weight will be split into, at least 1; 1 for scalar quantization.
        scale_free: whether to measure the weight in units of its standard deviation.
        granularity: `"per_tensor"`, or `"per_channel"` for weights that will be quantized with one scale per channel,
            which requires `dim=1`.
        channel_axis: the channel axis, or several, with `"per_channel"` only; negative counts from the end. None means
            the last axis, where Dense, convolutions and recurrent layers have their outputs. Depthwise kernels need
            `(-2, -1)`, transposed convolutions -2, embeddings 0; `regularize` sets these.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument is out of range; on the first call, `dim` is larger than the weight's last axis.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(3, kernel_regularizer=R2Linf(0.01))
    >>> float(R2Linf(0.1)([[0.5, -2.0], [1.0, 0.0]])) == float(keras.ops.multiply(0.1, 2.0))
    True

    Source: R2 Loss: Range Restriction Loss, arXiv 2303.08253, section 3.
    """

    def __init__(
        self,
        factor: float = 0.01,
        *,
        dim: int = 1,
        scale_free: bool = False,
        granularity: str = "per_tensor",
        channel_axis: int | tuple[int, ...] | None = None,
    ) -> None:
        self._set_options(factor, dim, scale_free, granularity, channel_axis)

    def __call__(self, w):
        """Returns the loss of a weight as a scalar tensor."""
        return self.factor * linf(self._scaled(w), **self._layout)
