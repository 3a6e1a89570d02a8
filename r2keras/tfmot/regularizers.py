"""The range regularizers for layers of tf_keras: the same losses, with a scalar that tf_keras tracks."""

from __future__ import annotations

import keras
import tensorflow as tf
import tf_keras

from r2keras import regularizers
from r2keras._errors import invalid
from r2keras.regularizers.base import OneWeight
from r2keras.regularizers.margin import MarginForm
from r2keras.regularizers.soft_min_max import SoftMinMaxForm


def _register(cls: type) -> type:
    """Registers a class with tf_keras under `r2keras>Name` and, for whole-model `.h5` files, under `Name`."""
    tf_keras.utils.get_custom_objects()[cls.__name__] = cls
    return tf_keras.utils.register_keras_serializable(package="r2keras")(cls)


@_register
class R2Linf(regularizers.R2Linf, tf_keras.regularizers.Regularizer):
    """Penalises the largest magnitude of a weight of a tf_keras layer: `factor * max|w|`.

    Forward: `factor * max|w|`. Gradient: `factor * sign(w_i)` at the largest `|w_i|`, shared evenly between equals.
    Arguments, other forms, numbers and gradients are those of `r2keras.regularizers.R2Linf`. Nothing is learned, so
    one instance may serve several weights.

    Args:
        factor: strength, at least 0. Defaults to the paper's 0.01.
        dim: length of the palette vectors, at least 1.
        scale_free: whether to judge the weight in units of its standard deviation.
        granularity: `"per_tensor"`, or `"per_channel"`, which goes with `dim=1` only.
        channel_axis: the axis that tells channels apart, or several, with `"per_channel"` only; None is the last.

    Raises:
        ValueError: an argument out of its range; on the first call, `dim` above the weight's last axis.

    Example:

    >>> layer = tf_keras.layers.Dense(3, kernel_regularizer=R2Linf(0.01))
    >>> float(R2Linf(2.0)([[0.5, -2.0], [1.0, 0.0]]))
    4.0

    Source: R2 Loss: Range Restriction Loss, arXiv 2303.08253, section 3.
    """


@_register
class Kurtosis(regularizers.Kurtosis, tf_keras.regularizers.Regularizer):
    """Draws the kurtosis of a weight of a tf_keras layer to a target, 1.8 for a uniform distribution (KURE).

    Forward: `factor * (K - target)^2` with the kurtosis `K`. Gradient: `2 factor (K - target) dK/dw`. The numbers are
    those of `r2keras.regularizers.Kurtosis`. Nothing is learned, so one instance may serve several weights.

    Args:
        factor: strength, at least 0. Defaults to the paper's 1.0.
        target: the kurtosis to reach, at least 0. Defaults to the paper's 1.8.

    Raises:
        ValueError: an argument out of its range.

    Example:

    >>> layer = tf_keras.layers.Dense(3, kernel_regularizer=Kurtosis())
    >>> round(float(Kurtosis(target=1.5)([-1.0, 0.0, 1.0])), 6)
    0.0

    Source: Robust Quantization: One Model to Rule Them All, arXiv 2002.07686, section 4.
    """


class LearnedRegularizer(OneWeight, tf_keras.layers.Layer, tf_keras.regularizers.Regularizer):
    """A regularizer with a trained scalar, which tf_keras tracks because the regularizer is a layer too.

    The layer that owns the weight owns the scalar: it is trained, saved and cloned with it, inside the wrappers of
    TFMOT as well. A layer frozen by `layer.trainable = False` freezes the scalar.
    """

    _attach = "r2keras.tfmot.regularize"

    def __init__(
        self,
        factor: float,
        dim: int,
        scale_free: bool,
        granularity: str,
        channel_axis: int | tuple[int, ...] | None,
    ) -> None:
        # A mixed policy would make the scalar half precision, too coarse for its small steps.
        super().__init__(dtype="float32")
        self._set_options(factor, dim, scale_free, granularity, channel_axis)
        self.built = True

    def _add_scalar(self, name: str, start: float) -> tf.Variable:
        """Makes the learned variable, under a name of its own: `.h5` files tell a layer's weights apart by name."""
        fill = tf_keras.initializers.Constant(start)
        shape = self._scalar_shape()
        return self.add_weight(name=f"{self.name}/{name}", shape=shape, initializer=fill, dtype="float32")

    def _name_of(self, w) -> str | None:
        """Returns the name of a tf_keras weight, None for arrays and tensors; refuses a weight of Keras 3."""
        if isinstance(w, keras.Variable):
            fix = f"Layers of Keras 3 take r2keras.{type(self).__name__}"
            raise ValueError(invalid("w", "a weight of a tf_keras layer, or a tensor", w.path, fix))
        return w.name if isinstance(w, tf.Variable) else None


@_register
class R2Margin(MarginForm, LearnedRegularizer):
    """Learns a margin for the weights of a tf_keras layer and penalises what sticks out of it.

    Forward: `factor * (|M| + sum_i max(|w_i| - |M|, 0))` with `M = m * std(w)` and the learned `m`.
    Gradient: `factor * sign(w_i) 1[|w_i| > |M|]` for the weights and
    `factor * std(w) * sign(m) (1 - count(|w_i| > |M|))` for `m`.
    Arguments, other forms, numbers and gradients are those of `r2keras.regularizers.R2Margin`, which is for Keras 3.

    One instance serves one weight. A second one is an error when the losses are first computed.

    Args:
        factor: strength, at least 0. Defaults to the paper's 0.01.
        dim: length of the palette vectors, at least 1; each coordinate learns its own margin.
        scale_free: whether to judge the weight in units of its standard deviation.
        granularity: `"per_tensor"`, or `"per_channel"`, which goes with `dim=1` only.
        channel_axis: the axis that tells channels apart, or several, with `"per_channel"` only; None is the last.
        margin: start of `m`, in standard deviations, above 0. Defaults to the paper's 2.

    Attributes:
        margin: the learned variable `m`, in standard deviations, shape `()`, or `(dim,)` for `dim > 1`.

    Raises:
        ValueError: an argument out of its range; on a call, a second weight, a weight of a Keras 3 layer, or `dim`
            above the weight's last axis.

    Example:

    >>> layer = tf_keras.layers.Dense(3, kernel_regularizer=R2Margin(0.01))
    >>> layer.build((None, 4))
    >>> [weight.shape.as_list() for weight in layer.trainable_weights]
    [[4, 3], [3], []]

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


@_register
class R2SoftMinMax(SoftMinMaxForm, LearnedRegularizer):
    """Penalises a smooth range of the weights of a tf_keras layer, soft maximum minus soft minimum.

    Forward: `factor * (s_max - s_min + exp(-a))` with the sharpness `a`, `s_max = sum_i p_i w_i`, `p = softmax(a w)`,
    `s_min = sum_i q_i w_i`, `q = softmax(-a w)`.
    Gradient: `factor * (p_i (1 + a (w_i - s_max)) - q_i (1 - a (w_i - s_min)))` for the weights,
    `factor * (Var_p(w) + Var_q(w) - exp(-a))` for the sharpness.
    Arguments, other forms, numbers and gradients are those of `r2keras.regularizers.R2SoftMinMax`, which is for Keras
    3.

    One instance serves one weight, unless the sharpness is fixed.

    Args:
        factor: strength, at least 0. Defaults to the paper's 0.01.
        dim: length of the palette vectors, at least 1; each coordinate learns its own sharpness.
        scale_free: whether to judge the weight in units of its standard deviation.
        granularity: `"per_tensor"`, or `"per_channel"`, which goes with `dim=1` only.
        channel_axis: the axis that tells channels apart, or several, with `"per_channel"` only; None is the last.
        sharpness: start of `a`, above 0, in units of 1 over those of the weights, that is `1 / std(w)` if
            scale-free; larger is harder. Defaults to the paper's 0.1, to 5 if scale-free.
        learn_sharpness: whether `a` is trained. Defaults to True, to False if scale-free.

    Attributes:
        sharpness: the learned variable, shape `()`, or `(dim,)` for `dim > 1`; a float if fixed.

    Raises:
        ValueError: an argument out of its range; on a call, a second weight, a weight of a Keras 3 layer, or `dim`
            above the weight's last axis.

    Example:

    >>> layer = tf_keras.layers.Dense(3, kernel_regularizer=R2SoftMinMax(sharpness=20.0))
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
