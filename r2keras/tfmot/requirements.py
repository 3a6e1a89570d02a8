"""Check of the packages that r2keras.tfmot needs, imported first so that a missing one is named."""

from __future__ import annotations

import importlib.util

import keras

from r2keras._util.errors import missing

_MODULES = ("tensorflow", "tf_keras", "tensorflow_model_optimization")


def check() -> None:
    """Raises ImportError unless Keras runs on TensorFlow, and tf_keras and TFMOT are installed."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ImportError(
            "r2keras.tfmot works on TensorFlow variables. Expected Keras on the TensorFlow backend. "
            f"Received: {backend!r}. Set KERAS_BACKEND=tensorflow before Keras is imported."
        )
    for module in _MODULES:
        if importlib.util.find_spec(module) is None:
            raise ImportError(missing(module.replace("_", "-"), "r2keras.tfmot"))


check()
