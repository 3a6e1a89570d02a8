"""The caller's own functions and classes in a layer, which its config does not tell from those of Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import keras
import numpy as np

from r2keras._models.keras_internals import parts_of

# Packages whose functions are compared by their values, because they have functions of equal names (`tf.nn.relu`).
_LIBRARIES = ("keras", "tf_keras", "tensorflow", "jax")
# Packages whose initializers, regularizers and constraints the translator knows by their names.
_KNOWN = ("keras", "tf_keras", "tensorflow", "r2keras")


def own_object(layer: Any, source: ModuleType, target: ModuleType) -> str | None:
    """Returns a description of an object in a layer that the target has under the same name only; None without one.

    A config holds the name of a function (`"relu"`) or of a class (`"GlorotUniform"`), so the caller's own would become
    that of Keras.

    Args:
        layer: a layer of `source`.
        source: the module of the layer, `keras` or `tf_keras`.
        target: the other of the two.
    """
    for key, name, value in _objects(layer):
        if hasattr(value, "get_config"):
            if _package(type(value)) not in _KNOWN:
                return (
                    f"the {key} {type(value).__name__} is a class of {type(value).__module__}, not of {source.__name__}"
                )
        elif not _is_equal(name, value, source, target):
            keras_module = f"{source.__name__}.activations" if key.endswith("activation") else source.__name__
            return f"the {key} {name} is a function of {getattr(value, '__module__', None)}, not of {keras_module}"
    return None


def _objects(layer: Any) -> Iterator[tuple[str, str, Any]]:
    """Yields the functions and the serializable objects in a layer and in the layers inside it.

    Yields:
        `(argument, name in the config, object)`.
    """
    for part in parts_of(layer):
        if part is not layer:
            yield "layer", part.name, part
        for key, name in part.get_config().items():
            value = vars(part).get(key, vars(part).get(f"_{key}"))
            if callable(value):
                yield key, name if isinstance(name, str) else getattr(value, "__name__", key), value


def _is_equal(name: str, function: Callable, source: ModuleType, target: ModuleType) -> bool:
    """Whether a function is the one of that name in the source, or a library's that computes the target's."""
    if function is getattr(source.activations, name, None):
        return True
    other = getattr(target.activations, name, None)
    if _package(function) not in _LIBRARIES:
        return False
    # Without a counterpart, the translator says so itself.
    return other is None or np.allclose(_values(function), _values(other), atol=1e-6)


def _values(function: Callable) -> np.ndarray:
    """Returns what an activation function computes on a grid of values."""
    return keras.ops.convert_to_numpy(function(keras.ops.reshape(keras.ops.linspace(-8.0, 8.0, 99), (9, 11))))


def _package(value: Any) -> str:
    """Returns the outermost package that defines a function or a class."""
    return str(getattr(value, "__module__", None)).partition(".")[0]
