"""Models from Keras 3 to tf_keras and back."""

from __future__ import annotations

import keras
import tf_keras

from r2keras._model import leaf_layers
from r2keras.tfmot._rebuild import Rebuild
from r2keras.tfmot._walk import check_tf_keras


def from_keras3(model: keras.Model) -> tf_keras.Model:
    """Returns a tf_keras copy of a Keras 3 model, with its weights, for TFMOT.

    Every layer is made again from its config and called as it was. Layer names, shared layers, nested models, several
    inputs and outputs, `trainable` and dtype policies stay; R2 regularizers become those of `r2keras.tfmot` with the
    scalars they learned. `x + y`, `x - y` and `x * y` of two tensors of the same rank become layers. The copy is not
    compiled.

    An option that tf_keras does not have is left out if it does nothing (`quantization_config=None`), and otherwise
    an error that names it; so is the activation `hard_sigmoid`, which the two compute differently.

    Args:
        model: a built Functional or Sequential model of Keras 3, nested ones included; left untouched.

    Returns:
        A model of the same kind, whose outputs are equal up to rounding.

    Raises:
        TypeError: not a Keras 3 model, or a subclassed one.
        ValueError: a model that is not built; layers, options or operations that tf_keras does not have, all named.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="net")
    >>> copy = from_keras3(model)
    >>> isinstance(copy, tf_keras.Sequential), (copy.get_weights()[0] == model.get_weights()[0]).all()
    (True, np.True_)
    """
    if isinstance(model, tf_keras.layers.Layer):
        raise TypeError(
            "Invalid value for argument `model`. Expected a Keras 3 model. "
            f"Received: the tf_keras model {model.name!r}. TFMOT takes it as it is; the way to Keras 3 is "
            "r2keras.tfmot.to_keras3."
        )
    leaf_layers(model)
    return Rebuild(keras, tf_keras).run(model)


def to_keras3(model: tf_keras.Model) -> keras.Model:
    """Returns a Keras 3 copy of a tf_keras model, with its weights, for the rest of r2keras.

    The way back from `from_keras3`, by the same rules; it takes what tf_keras loads from `.h5` files, too. Models in
    TFMOT's wrappers are stripped or finalized first. The copy is not compiled.

    Args:
        model: a built Functional or Sequential model of tf_keras, nested ones included; left untouched.

    Returns:
        A model of the same kind, whose outputs are equal up to rounding.

    Raises:
        TypeError: not a tf_keras model, or a subclassed one.
        ValueError: a model that is not built; layers, options or operations that Keras 3 does not have, all named.

    Example:

    >>> model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2, name="head")], name="net")
    >>> [layer.name for layer in to_keras3(model).layers]
    ['head']
    """
    check_tf_keras(model, "It is a Keras 3 model already; the way to tf_keras is r2keras.tfmot.from_keras3")
    return Rebuild(tf_keras, keras).run(model)
