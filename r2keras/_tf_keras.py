"""Models of tf_keras (Keras 2) as export and `r2keras.tfmot` read them: layers, kernels, names. Imports no tf_keras."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

KERNELS = ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embeddings")


def is_tf_keras(thing: object) -> bool:
    """Whether an object's class is tf_keras' own, or derived from one that is."""
    return any(kind.__module__.partition(".")[0] == "tf_keras" for kind in type(thing).__mro__)


def is_a(thing: object, *names: str) -> bool:
    """Whether an object's class or a base of it has one of the names, which Keras 3 and tf_keras share."""
    return any(kind.__name__ in names for kind in type(thing).__mro__)


def leaf_layers(model: Any) -> list[tuple[str, Any]]:
    """Returns every layer that is not itself a model, with its path; a layer used several times once."""
    found: dict[int, tuple[str, Any]] = {}
    _collect(model, "", found)
    return list(found.values())


def kernels(layer: Any) -> list[tuple[str, Any]]:
    """Returns the kernels of a layer and of its parts by their names relative to it, as Keras 3 has them."""
    return [(name, getattr(part, attribute)) for name, part, attribute in kernel_places(layer)]


def kernel_places(layer: Any) -> list[tuple[str, Any, str]]:
    """Returns where the kernels are: `("lstm_cell/kernel", the cell, "kernel")`.

    Names come from attributes, not from variables: those of TensorFlow change with the scope they were made in.
    """
    found = []
    for prefix, part in _parts(layer):
        named = [name for name in KERNELS if hasattr(getattr(part, name, None), "shape")]
        found += [(f"{prefix}{name}", part, name) for name in named]
    return found


def named_weights(layer: Any) -> list[tuple[str, Any]]:
    """Returns all weights of a layer with their names relative to it."""
    names = {id(variable): name for name, variable in kernels(layer)}
    return [(names.get(id(v), v.name.partition(":")[0].rpartition("/")[2]), v) for v in layer.weights]


@contextlib.contextmanager
def without_fusion(model: Any) -> Iterator[None]:
    """Lets the recurrent layers of a tf_keras model run as loops while it lasts; Keras 3 models have no other way.

    Else the converter makes one operator of an LSTM, cuts its kernels up for it, and keeps its state between calls.
    """
    fused = [p for _, layer in leaf_layers(model) for _, p in _parts(layer)] if is_tf_keras(model) else []
    fused = [part for part in fused if getattr(part, "_could_use_gpu_kernel", False)]
    try:
        for part in fused:
            part._could_use_gpu_kernel = False
        yield
    finally:
        for part in fused:
            part._could_use_gpu_kernel = True


def _collect(model: Any, prefix: str, found: dict[int, tuple[str, Any]]) -> None:
    """Adds the leaf layers of a model to `found`."""
    for layer in model.layers:
        if is_a(layer, "Model"):
            _collect(layer, f"{prefix}{layer.name}/", found)
        elif not is_a(layer, "InputLayer"):
            found.setdefault(id(layer), (prefix + layer.name, layer))


def _parts(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields a layer and the layers in it, with what their weights' names begin with."""
    yield prefix, layer
    for part in layer._flatten_layers(recursive=False, include_self=False):
        yield from _parts(part, f"{prefix}{part.name}/")
