"""Range regularizers for tf_keras layers, with learned scalars that tf_keras tracks."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
import tf_keras

from r2keras import regularizers
from r2keras._util.errors import invalid
from r2keras.regularizers.base import OneWeight
from r2keras.regularizers.margin import MarginForm
from r2keras.regularizers.soft_min_max import SoftMinMaxForm


def _register(cls: type) -> type:
    """Registers a class with tf_keras under `r2keras>Name` and, for whole-model `.h5` files, under `Name`."""
    tf_keras.utils.get_custom_objects()[cls.__name__] = cls
    return tf_keras.utils.register_keras_serializable(package="r2keras")(cls)


@_register
class R2Linf(regularizers.R2Linf, tf_keras.regularizers.Regularizer):
    """Penalizes the largest magnitude of a weight of a tf_keras layer: `factor * max|w|`.

    The tf_keras form of `r2keras.regularizers.R2Linf`. Formulas, gradients, errors and the arguments `factor`, `dim`,
    `scale_free`, `granularity` and `channel_axis` are the same. Nothing is learned, so one instance may serve several
    weights.

    Example:

    >>> layer = tf_keras.layers.Dense(3, kernel_regularizer=R2Linf(0.01))
    >>> float(R2Linf(2.0)([[0.5, -2.0], [1.0, 0.0]]))
    4.0

    Source: R2 Loss: Range Restriction Loss, arXiv 2303.08253, section 3.
    """


@_register
class Kurtosis(regularizers.Kurtosis, tf_keras.regularizers.Regularizer):
    """Pulls the kurtosis of a weight of a tf_keras layer to a target, 1.8 for a uniform distribution (KURE).

    The tf_keras form of `r2keras.regularizers.Kurtosis`. Formulas, gradients, errors and the arguments `factor` and
    `target` are the same. Nothing is learned, so one instance may serve several weights.

    Example:

    >>> layer = tf_keras.layers.Dense(3, kernel_regularizer=Kurtosis())
    >>> round(float(Kurtosis(target=1.5)([-1.0, 0.0, 1.0])), 6)
    0.0

    Source: Robust Quantization: One Model to Rule Them All, arXiv 2002.07686, section 4.
    """


class LearnedRegularizer(OneWeight, tf_keras.layers.Layer, tf_keras.regularizers.Regularizer):
    """A regularizer with a trained scalar, which tf_keras tracks because the regularizer is also a layer.

    The scalar belongs to the layer that has the weight: it is trained, saved and cloned with that layer, also inside
    TFMOT's wrappers. Freezing the layer with `layer.trainable = False` freezes the scalar.
    """

    _attach = "r2keras.tfmot.regularize"

    def _add_scalar(self, name: str, start: float) -> tf.Variable:
        """Adds the learned variable under a unique name, because `.h5` files identify a layer's weights by name."""
        initializer = tf_keras.initializers.Constant(start)
        shape = self._scalar_shape()
        return self.add_weight(name=f"{self.name}/{name}", shape=shape, initializer=initializer, dtype="float32")

    def _name_of(self, w: Any) -> str | None:
        """Returns the name of a tf_keras weight, None for arrays and tensors; raises for a weight of Keras 3."""
        if isinstance(w, keras.Variable):
            fix = f"Use r2keras.{type(self).__name__} for layers of Keras 3"
            raise ValueError(invalid("w", "a weight of a tf_keras layer, or a tensor", w.path, fix))
        return w.name if isinstance(w, tf.Variable) else None


@_register
class R2Margin(MarginForm, LearnedRegularizer):
    """Learns a margin for a weight of a tf_keras layer and penalizes the parts of the weight outside the margin.

    The tf_keras form of `r2keras.regularizers.R2Margin`. Formulas, gradients and the arguments `factor`, `dim`,
    `scale_free`, `granularity`, `channel_axis` and `margin` are the same. The learned margin is a `tf.Variable`, the
    attribute `margin`, which trains with the layer. One instance serves one weight: using it for a second weight, or
    for a weight of a Keras 3 layer, raises a ValueError when the losses are first computed.

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
    """Penalizes a smooth range of a weight of a tf_keras layer: its soft maximum minus its soft minimum.

    The tf_keras form of `r2keras.regularizers.R2SoftMinMax`. Formulas, gradients and the arguments `factor`, `dim`,
    `scale_free`, `granularity`, `channel_axis`, `sharpness` and `learn_sharpness` are the same. A learned sharpness is
    a `tf.Variable`, the attribute `sharpness`, which trains with the layer; a fixed one is a float. One instance with a
    learned sharpness serves one weight: using it for a second weight, or for a weight of a Keras 3 layer, raises a
    ValueError when the losses are first computed.

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
