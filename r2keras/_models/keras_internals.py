"""Private attributes of Keras that r2keras depends on, one function per attribute."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import keras


def parts_of(layer: Any) -> list[Any]:
    """Returns a layer and all layers inside it, outermost first; layers of tf_keras too."""
    return list(layer._flatten_layers())


def children_of(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the layers directly inside a layer, in the order in which it got them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def call_arguments(operation: keras.Operation) -> list[Any]:
    """Returns the arguments of all symbolic calls of a layer or operation, flattened."""
    return [value for node in operation._inbound_nodes for value in node.arguments._flat_arguments]


def clear_losses(layer: keras.Layer) -> None:
    """Deletes the losses that a layer and the layers inside it added in their last call."""
    layer._clear_losses()


def compile_settings(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments of a compiled model's `compile` as the caller passed them, not serialized."""
    return dict(model._compile_config.config)


def is_default(method: Callable) -> bool:
    """Whether a method is that of `keras.Layer`, which a class of layers has not replaced."""
    return getattr(method, "_is_default", False)


def has_mask(tensor: Any) -> bool:
    """Whether a tensor, of the backend or symbolic, carries a mask, which layers that get the tensor read."""
    reader = _MaskReader()
    reader(tensor)
    return reader.has_mask


class _MaskReader(keras.layers.Layer):
    """Notes whether Keras passes a mask with the tensor that it is called on."""

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self.has_mask = False

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Returns the inputs."""
        self.has_mask = mask is not None
        return inputs


def lambda_output_shape(layer: keras.layers.Lambda) -> Any:
    """Returns the `output_shape` argument of a Lambda layer."""
    return layer._output_shape


def run_through_graph(model: keras.Model, inputs: list, call: Callable) -> Any:
    """Runs the layers of a Functional model on other tensors than its own.

    Each tensor is released after its last use; Keras' own run keeps all of them until the end.

    Args:
        model: a Functional model.
        inputs: one tensor per input.
        call: called with `(layer, *args, **kwargs)` in place of each layer.

    Returns:
        The outputs in the structure of `model.output`.
    """
    by_depth = model._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    left = collections.Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    left.update(id(tensor) for tensor in model.outputs)
    values = {id(tensor): value for tensor, value in zip(model.inputs, inputs, strict=True)}
    del inputs
    for node in nodes:
        if any(id(tensor) not in values for tensor in node.input_tensors):
            continue  # It does not follow from the inputs.
        args, kwargs = node.arguments.fill_in(values)
        outputs = call(node.operation, *args, **kwargs)
        values |= {id(tensor): value for tensor, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True)}
        del args, kwargs, outputs
        for tensor in node.input_tensors:
            left[id(tensor)] -= 1
            if not left[id(tensor)]:
                values.pop(id(tensor), None)
    return keras.tree.pack_sequence_as(model._outputs_struct, [values[id(tensor)] for tensor in model.outputs])


def own_nodes(model: keras.Model) -> list[tuple[keras.Operation, Any]]:
    """Returns the calls inside a Functional model, in the order of its operations.

    Returns:
        Pairs of the layer or operation and its node: `arguments` has the `args` and `kwargs` of the call, `is_input`
        says whether it is an input of the model. Calls of the same layer by other models are left out.
    """
    own = {id(node) for nodes in model._nodes_by_depth.values() for node in nodes}
    nodes = [(operation, node) for operation in model.operations for node in operation._inbound_nodes]
    return [(operation, node) for operation, node in nodes if id(node) in own]


def history(tensor: keras.KerasTensor) -> tuple[keras.Operation, Any, int]:
    """Returns the operation that produced a tensor, the node of the call, and the tensor's index among its outputs."""
    operation, node_index, tensor_index = tensor._keras_history
    return operation, operation._inbound_nodes[node_index], tensor_index


def variable_index(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """Returns the position of a variable in the list that an optimizer was built with."""
    return optimizer._get_variable_index(variable)


def regularizer_table() -> dict[str, type]:
    """Returns the table in which `keras.regularizers.get` looks strings up; changing it changes the lookup.

    An empty dictionary if Keras has no such table: strings then find no regularizer of r2keras, and everything else
    works.
    """
    return keras.regularizers.get.__globals__.get("ALL_OBJECTS_DICT", {})
