"""The R2 soft-min-max regularizer."""

from __future__ import annotations

from typing import Any

from keras import ops

from r2keras.ops import range_loss
from r2keras.regularizers.base import LearnedRegularizer, OneWeight, check_flag, check_number, register


class SoftMinMaxForm(OneWeight):
    """The loss of `R2SoftMinMax`, a mixin; the class it is combined with creates the learned variable."""

    sharpness: Any

    def _start_at(self, sharpness: float | None, learn_sharpness: bool | None) -> None:
        """Checks the start of the sharpness and creates the variable if it is trained."""
        if sharpness is not None:
            sharpness = check_number("sharpness", sharpness, positive=True)
        self._arguments = {"sharpness": sharpness, "learn_sharpness": learn_sharpness}
        default = 5.0 if self.scale_free else 0.1
        self._start = default if sharpness is None else sharpness
        if learn_sharpness is None:
            is_trained = not self.scale_free
        else:
            is_trained = check_flag("learn_sharpness", learn_sharpness)
        self.sharpness = self._add_scalar("sharpness", self._start) if is_trained else self._start

    def initialize(self, weights) -> None:
        """Resets the sharpness to its start, which does not depend on the weights.

        Args:
            weights: the weight (array, tensor or variable) that will be regularized.
        """
        if self.weights:
            self.sharpness.assign(ops.full(self._scalar_shape(), self._start))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **self._arguments}

    def _loss(self, w):
        """Returns the loss without the factor."""
        sharpness = range_loss.magnitude(ops.convert_to_tensor(self.sharpness))
        return range_loss.soft_min_max(self._scaled(w), sharpness, **self._layout)

    def _claim(self, w) -> None:
        """Refuses a second weight if there is a learned scalar."""
        if self.weights:
            super()._claim(w)


@register
class R2SoftMinMax(SoftMinMaxForm, LearnedRegularizer):
    """Penalizes a smooth range of the weights, soft maximum minus soft minimum.

    Forward: `factor * (s_max - s_min + exp(-a))`, summed over the coordinates of the palette vectors, with the
    sharpness `a`, `s_max = sum_i p_i w_i`, `p = softmax(a w)`, `s_min = sum_i q_i w_i`, `q = softmax(-a w)`. With
    `scale_free=True`, the same of `w / std(w)`. With `granularity="per_channel"`, the mean of the same over the
    channels, each divided by its own standard deviation if scale-free, with one `a` for all.
    Gradient: `factor * (p_i (1 + a (w_i - s_max)) - q_i (1 - a (w_i - s_min)))` for the weights,
    `factor * (Var_p(w) + Var_q(w) - exp(-a))` for the sharpness. Scale-free, with `g_i` the former for the weights
    `w / std(w)`: `(g_i - (w_i - mean w) sum_k g_k w_k / (n std(w)^2)) / std(w)`, which changes the shape of the
    distribution but not its scale. A learned sharpness enters as `|a|`. Per channel, `1 / C` of the former for the
    weights of a channel, the mean over channels of the latter.

    A learned sharpness settles near `-ln(2 Var w)`, about 5 for weights of standard deviation 0.05, where the loss is
    closer to a variance than to a range; it measures a range from about `5 / std(w)` on. In the scale-free form, it
    would fall to 0, because the variance is 1, so it is fixed at 5 by default.

    One instance serves one weight, unless the sharpness is fixed.

    Args:
        factor: strength, at least 0. Defaults to the paper's 0.01.
        dim: length of the palette vectors, at least 1; each coordinate learns its own sharpness.
        scale_free: whether to measure the weight in units of its standard deviation.
        granularity: `"per_tensor"`, or `"per_channel"` for weights that will be quantized with one scale per channel,
            which requires `dim=1`.
        channel_axis: the channel axis, or several, with `"per_channel"` only; negative counts from the end. None means
            the last axis, where Dense, convolutions and recurrent layers have their outputs. Depthwise kernels need
            `(-2, -1)`, transposed convolutions -2, embeddings 0; `regularize` sets these.
        sharpness: start of `a`, above 0, in the inverse units of the weights, or in `1 / std(w)` if scale-free; larger
            is harder. Defaults to the paper's 0.1, or to 5 if scale-free.
        learn_sharpness: whether `a` is trained. Defaults to True, or to False if scale-free.

    Attributes:
        sharpness: the learned variable, shape `()`, or `(dim,)` for `dim > 1`; a float if fixed.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument is out of range; on a call, a second weight, or `dim` larger than the weight's last
            axis.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(3, kernel_regularizer=R2SoftMinMax(sharpness=20.0))
    >>> R2SoftMinMax(scale_free=True).sharpness
    5.0

    Source: R2 Loss: Range Restriction Loss, arXiv 2303.08253, section 3; the scale-free form is ours.
    """

    def __init__(
        self,
        factor: float = 0.01,
        *,
        dim: int = 1,
        scale_free: bool = False,
        granularity: str = "per_tensor",
        channel_axis: int | tuple[int, ...] | None = None,
        sharpness: float | None = None,
        learn_sharpness: bool | None = None,
    ) -> None:
        super().__init__(factor, dim, scale_free, granularity, channel_axis)
        self._start_at(sharpness, learn_sharpness)
