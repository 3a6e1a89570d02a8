"""Recurrent layers in a model that goes to a file: finding them, and what a file cannot have."""

from __future__ import annotations

import keras

from r2keras._model import leaf_layers
from r2keras._tf_keras import is_tf_keras
from r2keras.record import CompressionRecord

BATCH = 1
SPLIT = "recurrent_kernel"


def recurrent_layers(model: keras.Model) -> list[tuple[str, keras.layers.RNN]]:
    """Returns every recurrent layer of Keras 3 with the path of the layer that holds it, those in wrappers included."""
    if is_tf_keras(model):
        return []
    found = ((path, part) for path, layer in leaf_layers(model) for part in layer._flatten_layers())
    return [(path, part) for path, part in found if isinstance(part, keras.layers.RNN)]


def check_kernels(model: keras.Model, record: CompressionRecord | None) -> None:
    """Raises ValueError for a compressed kernel that the converter splits: that of a GRU that resets before it."""
    for path, layer in recurrent_layers(model):
        names = [n for n in (record.tensors if record else ()) if n.startswith(f"{path}/") and n.endswith(SPLIT)]
        if names and not getattr(layer, "reset_after", True):
            raise ValueError(
                f"The layer {path!r} has reset_after=False, and TensorFlow's converter splits its recurrent kernel. "
                "Expected reset_after=True, Keras' default, where that kernel is compressed. Train with that, or leave "
                f"{names[0]!r} out of the recipe."
            )


def check_recurrent(model: keras.Model, activations: str, record: CompressionRecord | None = None) -> None:
    """Raises ValueError if recurrent layers would have to keep their state between calls, or compute on integers."""
    check_kernels(model, record)
    layers = recurrent_layers(model)
    if layers and activations == "int8":
        raise ValueError(
            f"The layer {layers[0][0]!r} is recurrent, and LiteRT has no loop of integer operators. Expected "
            "activations='float' for models with recurrent layers: weights keep their few bits, states their grids."
        )
    stateful = [path for path, layer in layers if layer.stateful]
    if stateful:
        raise ValueError(
            f"The layer {stateful[0]!r} is stateful, and a file keeps no state between calls. Expected layers with "
            "stateful=False. Export r2keras.export.streaming(model), which takes states and returns them."
        )
