"""What an export reads of a model, be it of Keras 3 or of tf_keras: its layers, their weights, their kernels."""

from __future__ import annotations

from typing import Any

from r2keras import _model, _tf_keras


def layers_of(model: Any) -> list[tuple[str, Any]]:
    """Returns every layer that is not itself a model, with its path.

    Args:
        model: a built Functional or Sequential model.

    Raises:
        TypeError: no model, or a subclassed one.
        ValueError: the model is not built.
    """
    if not _tf_keras.is_a(model, "Model") or not _tf_keras.is_tf_keras(model):
        return _model.leaf_layers(model)
    if not (_tf_keras.is_a(model, "Sequential") or model._is_graph_network):
        raise TypeError(
            f"r2keras reads models by their graph. Expected a Functional or Sequential model. Received: the subclassed "
            f"{type(model).__name__} {model.name!r}. Call it on tf_keras.Input tensors and make "
            "tf_keras.Model(inputs, outputs) of its layers."
        )
    if not model.built or not model.inputs:
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights. Expected a built model. "
            "Give it a tf_keras.Input as its first layer."
        )
    return _tf_keras.leaf_layers(model)


def weights_of(layer: Any) -> list[tuple[str, Any]]:
    """Returns all weights of a layer with their names relative to it."""
    return (_tf_keras.named_weights if _tf_keras.is_tf_keras(layer) else _model.relative_weights)(layer)


def kernels_of(layer: Any) -> list[tuple[str, Any]]:
    """Returns the kernels of a layer with their names relative to it."""
    return (_tf_keras.kernels if _tf_keras.is_tf_keras(layer) else _model.kernels)(layer)
