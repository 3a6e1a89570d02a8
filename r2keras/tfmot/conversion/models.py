"""Conversion of models from Keras 3 to tf_keras and back."""

from __future__ import annotations

import keras
import tf_keras

from r2keras._models.walk import leaf_layers
from r2keras._util.errors import invalid_part
from r2keras.tfmot.checks import check_tf_keras
from r2keras.tfmot.conversion.rebuild import Rebuild


def from_keras3(model: keras.Model) -> tf_keras.Model:
    """Returns a tf_keras copy of a Keras 3 model, with its weights, for TFMOT.

    Every layer is rebuilt from its config and called as in the original. Layer names, shared layers, nested models,
    multiple inputs and outputs, `trainable` and dtype policies are kept. R2 regularizers become those of
    `r2keras.tfmot` and keep their learned scalars. `x + y`, `x - y` and `x * y` of two tensors of the same rank become
    layers. The copy is not compiled.

    An option that tf_keras does not have is dropped if it has its default value (`quantization_config=None`) and is an
    error otherwise. The activation `hard_sigmoid` is an error too, because the two versions compute it differently, and
    so is a function or class of your own, even if it has the name of one of Keras'.

    Args:
        model: a built Functional or Sequential model of Keras 3, possibly nested; left untouched.

    Returns:
        A model of the same kind, whose outputs are equal up to rounding.

    Raises:
        TypeError: `model` is not a Keras 3 model, or is a subclassed model.
        ValueError: the model is not built, or has layers, options or operations that tf_keras does not have; the
            message names all of them.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="net")
    >>> copy = from_keras3(model)
    >>> isinstance(copy, tf_keras.Sequential), (copy.get_weights()[0] == model.get_weights()[0]).all()
    (True, np.True_)
    """
    if isinstance(model, tf_keras.layers.Layer):
        fix = "TFMOT accepts it without conversion; r2keras.tfmot.to_keras3 converts it to Keras 3"
        raise TypeError(invalid_part("model", "a Keras 3 model", f"the tf_keras model {model.name!r}", fix))
    # Raises for a model that is not a built graph of Keras 3.
    leaf_layers(model)
    return Rebuild(keras, tf_keras).run(model)


def to_keras3(model: tf_keras.Model) -> keras.Model:
    """Returns a Keras 3 copy of a tf_keras model, with its weights, for the rest of r2keras.

    This is the inverse of `from_keras3` and follows the same rules. Models that tf_keras loaded from `.h5` files work
    too. Strip or finalize a model in TFMOT's wrappers first. The copy is not compiled.

    Args:
        model: a built Functional or Sequential model of tf_keras, possibly nested; left untouched.

    Returns:
        A model of the same kind, whose outputs are equal up to rounding.

    Raises:
        TypeError: `model` is not a tf_keras model, or is a subclassed model.
        ValueError: the model is not built, or has layers, options or operations that Keras 3 does not have; the
            message names all of them.

    Example:

    >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2, name="head")], name="net")
    >>> [layer.name for layer in to_keras3(model).layers]
    ['head']
    """
    check_tf_keras(model, "It is a Keras 3 model already; convert it to tf_keras with r2keras.tfmot.from_keras3")
    return Rebuild(tf_keras, keras).run(model)
