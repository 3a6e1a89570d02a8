"""Barriers in front of products: TensorFlow's converter would move the addition of a number behind a product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from r2keras._models import rebuild
from r2keras._models.call_kinds import ACTIVATIONS, FOLDING, activation_name
from r2keras._models.either_keras import SourceModel, read_model
from r2keras._models.graph import Call
from r2keras._models.row_products import SEPARABLE
from r2keras._models.row_products import products as row_products
from r2keras._models.sparse_marks import IgnoresSparseMarks
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of, subgraphs

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT

# No output of a layer is below it, and no other layer compares with it.
LOWEST = np.float32(-3.0e38)
# Kinds of calls that end with no addition that the converter could move, unless their function is linear.
SAFE = ("InputLayer", *ACTIVATIONS)


class Barrier(IgnoresSparseMarks):
    """Returns its input, by an operator that the converter keeps and `remove_barriers` deletes."""

    holds_constants = True

    def __init__(self, *, name: str):
        super().__init__(name=name, autocast=False)
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        """Returns the tensor."""
        is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype))
        return ops.maximum(inputs, LOWEST) if is_float else inputs


def with_barriers(source: SourceModel, kernels: Sequence[str] = ()) -> SourceModel:
    """Returns a model with a barrier behind each layer whose output is multiplied, where an addition may end the layer.

    The runtime rounds the rows that a product reads. Behind `x + 0.5`, the converter computes `x W + 0.5 sum(W)`, and
    the rows of another tensor would be rounded.

    Args:
        source: the model; returned as it is if it is of tf_keras or needs no barrier.
        kernels: the kernels whose rows are rounded; empty for all that are multiplied.
    """
    if source.is_tf_keras:
        return source
    graph = source.view.graph
    products = [call for call in graph.calls if call.layer is not None and _is_product(call.layer)]
    if kernels:
        products = [call for call in products if any(name.startswith(f"{call.path}/") for name in kernels)]
    sources = [graph.producer(tensor) for call in products for tensor in call.inputs]
    paths = {call.path for call in sources if not _is_safe(call)}
    if not paths:
        return source

    def append(path: str, name: str) -> keras.Layer | None:
        return Barrier(name=f"{name}_barrier") if path in paths else None

    return read_model(rebuild.rebuild(source.view, append=append))


def remove_barriers(file: ModelT) -> None:
    """Deletes the operators of the barriers; what stands before one computes its output."""
    for graph in subgraphs(file):
        for op in [op for op in graph.operators if _is_barrier(graph, op)]:
            (tensor,) = (index for index in inputs_of(op) if not graph.is_constant(index))
            (output,) = outputs_of(op)
            producer = graph.producer(tensor)
            if not graph.is_output(output):
                _redirect(graph, output, tensor)
            elif producer is not None and not graph.is_output(tensor):
                graph.set_outputs(producer, [output if index == tensor else index for index in outputs_of(producer)])
                _redirect(graph, tensor, output)
            else:
                # Two outputs of the file stay two tensors, of the same values.
                continue
            graph.replace(op, [])


def _redirect(graph: Subgraph, old: int, new: int) -> None:
    """Makes all operators that read one tensor read another."""
    for consumer in list(graph.consumers(old)):
        graph.replace_input(consumer, old, new)


def _is_product(layer: keras.Layer) -> bool:
    """Whether a layer multiplies the rows of its input; a separable convolution, those of its depthwise half."""
    parts = [product.layer for product in row_products(layer).values()]
    is_recurrent = isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional))
    return is_recurrent or any(not isinstance(part, SEPARABLE) for part in parts)


def _is_safe(call: Call) -> bool:
    """Whether a call ends with no addition that the converter could move; the bias of a linear layer is one."""
    name = activation_name(call)
    return name not in (None, "linear") if call.kind.startswith(FOLDING) else call.kind in SAFE and name != "linear"


def _is_barrier(graph: Subgraph, op: OperatorT) -> bool:
    """Whether an operator compares with the number of the barriers."""
    if graph.kind(op) != "MAXIMUM":
        return False
    constants = [index for index in inputs_of(op) if graph.is_constant(index)]
    return len(constants) == 1 and bool(np.all(graph.data(constants[0]).view(np.float32) == LOWEST))
