"""The R2 margin regularizer."""

from __future__ import annotations

from typing import Any

from keras import ops

from r2keras.ops import range_loss
from r2keras.regularizers.base import LearnedRegularizer, OneWeight, check_number, register


class MarginForm(OneWeight):
    """The loss of `R2Margin`, a mixin; the class it is combined with creates the learned variable."""

    def _start_at(self, margin: float) -> None:
        """Checks the start of the margin and creates the variable."""
        self._start = check_number("margin", margin, positive=True)
        self.margin = self._add_scalar("margin", self._start)

    def initialize(self, weights) -> None:
        """Sets the margin to its start, or to the largest weight of each coordinate if that is smaller.

        Per channel, it is the mean of the channels' largest weights, in units of their standard deviations.

        Args:
            weights: the weight (array, tensor or variable) that will be regularized.
        """
        w = self._arranged(weights)
        w = ops.abs(w / self._unit(w))
        if self.granularity == "per_channel":
            largest = ops.mean(ops.max(w, axis=1))
        else:
            largest = ops.max(range_loss.subvectors(w, self.dim), axis=0)
        self.margin.assign(ops.reshape(ops.minimum(largest, self._start), self._scalar_shape()))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self._start}

    def _loss(self, w):
        """Returns the loss without the factor."""
        w = self._arranged(w)
        unit = self._unit(w)
        limit = ops.cast(ops.convert_to_tensor(self.margin), unit.dtype)
        if self.scale_free:
            w = w / unit
        else:
            limit = ops.stop_gradient(unit) * limit
        return range_loss.margin(w, limit, **self._layout)


@register
class R2Margin(MarginForm, LearnedRegularizer):
    """Learns a margin for the weights and penalizes their excess beyond it.

    Forward: `factor * (|M| + sum_i max(|w_i| - |M|, 0))`, summed over the coordinates of the palette vectors, with the
    margin `M = m * std(w)`, where the standard deviation is a constant. The learned `m` starts at 2, so that `M` starts
    at the paper's `2 std(W)` for any weights. Minimized over `M`, the loss is `factor * max|w|`. With
    `scale_free=True`, the same formula is applied to `w / std(w)` with the margin `m`.

    With `granularity="per_channel"`, the loss is the mean of the same over the channels, each with its own standard
    deviation, `M_c = m * std(w_c)`. The shared `m` settles at the value beyond which one weight per channel lies on
    average. In total, the loss then pulls as hard as one margin for the tensor. Channels within their margin are still
    restricted, by `factor / C * max|w_c|`.

    Gradient: `factor * sign(w_i) 1[|w_i| > |M|]` for the weights and
    `factor * std(w) * sign(m) (1 - count(|w_i| > |M|))` for `m`. Scale-free, with `g_i` the gradient for the weights:
    `(g_i - (w_i - mean w) sum_k g_k w_k / (n std(w)^2)) / std(w)`, and the gradient for `m` divided by `std(w)`. Per
    channel, `1 / C` of these for the weights of a channel, and the mean over the channels for `m`. Beyond `max|w|`, the
    loss is `factor * max|w|` and `m` is pulled back (see `r2keras.ops.range_loss.margin`).

    Learning `m` instead of `M` makes the steps smaller. Under plain gradient descent, `M` moves `std(w)^2` times as far
    as if it were trained itself, so that the hundreds of weights outside at the start do not push it far beyond the
    range. An optimizer that normalizes gradients moves `M` by its step times `std(w)`.

    One instance serves one weight.

    Args:
        factor: strength, at least 0. Defaults to the paper's 0.01.
        dim: length of the palette vectors, at least 1; each coordinate learns its own margin.
        scale_free: whether to measure the weight in units of its standard deviation.
        granularity: `"per_tensor"`, or `"per_channel"` for weights that will be quantized with one scale per channel,
            which requires `dim=1`.
        channel_axis: the channel axis, or several, with `"per_channel"` only; negative counts from the end. None means
            the last axis, where Dense, convolutions and recurrent layers have their outputs. Depthwise kernels need
            `(-2, -1)`, transposed convolutions -2, embeddings 0; `regularize` sets these.
        margin: start of `m`, in standard deviations, above 0. Defaults to the paper's 2.

    Attributes:
        margin: the learned variable `m`, in standard deviations, shape `()`, or `(dim,)` for `dim > 1`.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument is out of range; on a call, a second weight, or `dim` larger than the weight's last
            axis.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(3, kernel_regularizer=R2Margin(factor=0.01))
    >>> layer.build((None, 4))
    >>> [weight.name for weight in layer.trainable_weights]
    ['kernel', 'bias', 'margin']

    Source: R2 Loss: Range Restriction Loss, arXiv 2303.08253, section 3; `m` and the bound on `M` are ours.
    """

    def __init__(
        self,
        factor: float = 0.01,
        *,
        dim: int = 1,
        scale_free: bool = False,
        granularity: str = "per_tensor",
        channel_axis: int | tuple[int, ...] | None = None,
        margin: float = 2.0,
    ) -> None:
        super().__init__(factor, dim, scale_free, granularity, channel_axis)
        self._start_at(margin)
