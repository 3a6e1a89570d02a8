"""Functions of the caller as models of the operations that they consist of, each of which can have a grid."""

from __future__ import annotations

import collections
from collections.abc import Callable

import keras

from r2keras._models.call_kinds import FOLDING, activation_name
from r2keras._models.graph import Call
from r2keras._models.keras_internals import call_arguments, has_mask
from r2keras.compression.composed_functions import COMPOSED

# Operations that are affine where one argument is a number; files round once after several of them.
_AFFINE = ("Multiply", "Add", "Subtract", "TrueDivide", "Divide")
# How functions of a backend, or with branches, refuse symbolic tensors.
_REFUSALS = (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError)
# Arguments, beside tensors, that a copy of an operation gets unchanged.
_PLAIN = (type(None), bool, int, float, str)


def function_of(call: Call) -> Callable | None:
    """Returns the function of operations that a layer applies, alone or to its product; None if it has none.

    It is the caller's own function, or the composed form of one of Keras'.
    """
    layer = call.layer
    if call.kind == "Lambda" and layer is not None:
        return None if layer.arguments or layer.mask is not None else layer.function
    if layer is None or not call.kind.startswith(("Activation", "EinsumDense", *FOLDING)):
        return None
    name = composed_name(call)
    if name is not None:
        return COMPOSED[name]
    return layer.activation if activation_name(call) == "custom" else None


def composed_name(call: Call) -> str | None:
    """Returns the name of a layer's activation function of `COMPOSED`; None if it has another one."""
    name = activation_name(call)
    is_known = name in COMPOSED and getattr(keras.activations, name) is getattr(call.layer, "activation", None)
    return name if is_known else None


def traced(function: Callable, name: str, layer: keras.Layer) -> keras.Model | None:
    """Returns a model of the operations of a function.

    Args:
        function: the function, of one tensor.
        name: the name of the model; its operations are named by their kinds.
        layer: the layer whose output has the shape and type of the function's.

    Returns:
        The model; None if the function does not consist of Keras operations on its argument and plain numbers, is
        affine, or gets a mask.
    """
    source = layer.input if is_alone(layer) else layer.output
    # Operations, unlike layers, pass no mask on.
    if not isinstance(source, keras.KerasTensor) or has_mask(source):
        return None
    inputs = keras.Input(batch_shape=source.shape, dtype=source.dtype, name=f"{name}_input")
    try:
        outputs = function(inputs)
    except _REFUSALS:
        return None
    same = isinstance(outputs, keras.KerasTensor) and outputs is not inputs
    if not same or outputs.shape != layer.output.shape or outputs.dtype != layer.output.dtype:
        return None
    return _named(keras.Model(inputs, outputs), name)


def is_alone(layer: keras.Layer) -> bool:
    """Whether a layer is nothing but its function."""
    return isinstance(layer, (keras.layers.Activation, keras.layers.Lambda))


def _named(model: keras.Model, name: str) -> keras.Model | None:
    """Returns a model of the same operations with names of their own; None if one of them cannot be copied."""
    counts: collections.Counter[str] = collections.Counter()
    operations = [op for op in model.operations if not isinstance(op, keras.layers.InputLayer)]
    if all(map(_is_affine, operations)):
        return None
    for operation in operations:
        plain = all(isinstance(value, (keras.KerasTensor, *_PLAIN)) for value in call_arguments(operation))
        if isinstance(operation, keras.Layer) or not plain:
            return None
        kind = type(operation).__name__.lower()
        # Keras numbers operations through a session, so that the same model would get other names each time.
        operation.name = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
    return keras.Model(model.inputs[0], model.outputs[0], name=name)


def _is_affine(operation: keras.Operation) -> bool:
    """Whether an operation multiplies a tensor by a number, or adds one."""
    tensors = [value for value in call_arguments(operation) if isinstance(value, keras.KerasTensor)]
    return type(operation).__name__ in _AFFINE and len(tensors) == 1
