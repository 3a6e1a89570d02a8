"""Runs of a Keras model layer by layer, in which a caller watches or replaces layers without a copy of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from r2keras._models.keras_internals import run_through_graph

# Takes the path of a layer or operation, the layer and the arguments of its call; returns its outputs.
Call = Callable[..., Any]


def run(model: keras.Model, batch: list[np.ndarray], call: Call | None = None) -> tuple[Any, keras.StatelessScope]:
    """Runs a batch through a model in inference mode, eagerly; the model and its states do not change.

    Args:
        model: a built Functional or Sequential model, nested ones included.
        batch: one array per input.
        call: called with `(path, layer, *args, **kwargs)` in place of each layer or operation that is not itself a
            model. None calls the layers.

    Returns:
        The outputs in the structure of the model's, and the scope that holds the values which the layers assigned to
        variables (`get_current_value`).

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.ReLU(name="relu")])
    >>> outputs, _ = run(model, [np.array([[-1.0, 0.0, 2.0]])])
    >>> ops.convert_to_numpy(outputs).tolist()
    [[0.0, 0.0, 2.0]]
    """
    runner = _Runner(lambda tensors: _outputs(model, tensors, call or _plain_call, ""))
    with keras.StatelessScope() as scope:
        return runner([ops.convert_to_tensor(array) for array in batch], training=False), scope


class _Runner(keras.layers.Layer):
    """The layer around a model, from which the layers learn that this is inference, as they do inside of a model."""

    def __init__(self, function: Callable[[list], Any]):
        super().__init__(autocast=False)
        self.function = function
        self.built = True

    def call(self, inputs: list, training: bool | None = None) -> Any:
        """Returns the outputs of the function."""
        return self.function(inputs)


def _plain_call(path: str, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer."""
    return layer(*args, **kwargs)


def _outputs(model: keras.Model, tensors: list, call: Call, prefix: str) -> Any:
    """Returns the outputs of a model for a list of tensors."""

    def step(layer: Any, *args: Any, **kwargs: Any) -> Any:
        path = prefix + layer.name
        if not isinstance(layer, keras.Model):
            return call(path, layer, *args, **kwargs)
        outputs = _outputs(layer, tree.flatten(args[0] if args else kwargs["inputs"]), call, path + "/")
        # A model returns the tensor of a list of one.
        return outputs[0] if isinstance(outputs, (list, tuple)) and len(outputs) == 1 else outputs

    tensors = _converted(model, tensors)
    if not isinstance(model, keras.Sequential):
        return run_through_graph(model, tensors, step)
    (outputs,) = tensors
    for layer in model.layers:
        outputs = step(layer, outputs)
    return outputs


def _converted(model: keras.Model, tensors: list) -> list:
    """Returns tensors of the types of a model's inputs."""
    try:
        dtypes = [tensor.dtype for tensor in model.inputs]
    except AttributeError:
        # A Sequential model whose shapes Keras could not infer has no inputs, and takes any type.
        return tensors
    return [ops.convert_to_tensor(tensor, dtype=dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]
