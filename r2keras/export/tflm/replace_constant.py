"""Replacement of a constant by its stored form: DECODE or DEQUANTIZE before its operators, MUL and ADD after them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.schema import FLOAT32, INT8, UINT8, operator, quantization
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of
from r2keras.export.weights.decode_operator import decode_operator, is_decode
from r2keras.export.weights.lookup_forms import Form, HuffmanIntegers, Integers
from r2keras.export.weights.lookup_read_back import INT16
from r2keras.export.weights.lookup_table import LookupTable

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT, QuantizationParametersT

# Operators that multiply channel by channel: position of the weights among the inputs, their axis of output channels.
LINEAR = {"CONV_2D": (1, 0), "FULLY_CONNECTED": (1, 0), "DEPTHWISE_CONV_2D": (1, 3), "TRANSPOSE_CONV": (1, 0)}
# Operators that read their weights when they run, not when the interpreter prepares them.
TAKES_COMPUTED = {*LINEAR, "BATCH_MATMUL", "GATHER"}
# Position of the bias among the inputs of a linear operator, where it is not 2.
BIAS = {"TRANSPOSE_CONV": 3}
# Values of the schema's ActivationFunctionType and TensorType.
NO_ACTIVATION = 0
BOOL = 6


def channel_axis(graph: Subgraph, tensor: int) -> int | None:
    """Returns the axis of output channels of a constant, if all its consumers can be followed by channel factors."""
    axes = set()
    for op in graph.consumers(tensor):
        position, axis = LINEAR.get(graph.kind(op), (-1, None))
        axes.add(axis if inputs_of(op).index(tensor) == position else None)
    return axes.pop() if len(axes) == 1 else None


def rewrite(graph: Subgraph, tensor: int, form: Form, name: str) -> list[int]:
    """Replaces a float constant by a stored form.

    Each operator that reads the constant gets its own DECODE (or DEQUANTIZE) directly before it, so that memory holds
    the floats for that operator only.

    Args:
        graph: the subgraph, edited in place.
        tensor: index of the float32 constant.
        form: what is stored.
        name: name of the new constants in the file.

    Returns:
        The indices of the tensors that have the name, with the stored values first and the factor last.
    """
    store = form.store
    if isinstance(store, LookupTable):
        named = _add_table(graph, store, name)
        if store.axis is not None:
            graph.tensor(tensor).quantization = _dummy_grid(len(store.tables), store.axis)
    elif isinstance(store, HuffmanIntegers):
        named = [graph.add_tensor(part.shape, UINT8, part, name) for part in store.stored]
    else:
        named = _add_integers(graph, store, name)
    graph.tensor(tensor).buffer = 0
    factor = None if form.factor is None else graph.add_tensor(form.factor.shape, FLOAT32, form.factor, name)
    for number, consumer in enumerate(graph.consumers(tensor)):
        target = tensor if number == 0 else graph.add_tensor_like(tensor)
        graph.replace_input(consumer, tensor, target)
        if isinstance(store, LookupTable):
            _decode_before(graph, consumer, named, target)
        elif isinstance(store, HuffmanIntegers):
            graph.insert_before(consumer, _huffman_operators(graph, store, named, target))
        else:
            graph.insert_before(consumer, [operator(graph.file, "DEQUANTIZE", 2, named, [target])])
        if factor is not None:
            graph.insert_after(consumer, _factor_operators(graph, consumer, factor))
    return named if factor is None else [*named, factor]


def _add_table(graph: Subgraph, table: LookupTable, name: str) -> list[int]:
    """Adds the packed indices, and the header with the tables."""
    parts = (table.packed(), table.ancillary())
    return [graph.add_tensor(part.shape, UINT8, part, name) for part in parts]


def _add_integers(graph: Subgraph, store: Integers, name: str) -> list[int]:
    """Adds codes with their grid."""
    kind = INT8 if store.bits == 8 else INT16
    codes = graph.add_tensor(store.codes.shape, kind, store.codes, name)
    graph.tensor(codes).quantization = quantization(store.scale, store.zero_point)
    return [codes]


def _dummy_grid(num_tables: int, axis: int) -> QuantizationParametersT:
    """Returns the grid without which the runtime decodes every channel of a float tensor with the first table."""
    return quantization(np.ones(num_tables), axis=axis)


def _decode_before(graph: Subgraph, consumer: OperatorT, named: list[int], target: int) -> None:
    """Adds a look-up of a tensor to the DECODE before an operator.

    One DECODE computes all tables of an operator, because a second one may reuse the memory of the first one's outputs.
    """
    position = graph.position(consumer)
    decode = graph.operators[position - 1] if position else None
    if decode is None or not is_decode(graph.file, decode):
        decode = decode_operator(graph.file, [], [])
        graph.insert_before(consumer, [decode])
    graph.set_inputs(decode, [*inputs_of(decode), *named])
    graph.set_outputs(decode, [*outputs_of(decode), target])


def _huffman_operators(graph: Subgraph, store: HuffmanIntegers, named: list[int], target: int) -> list[OperatorT]:
    """Returns a DECODE to int8 and a DEQUANTIZE to the floats of a tensor."""
    codes = graph.add_tensor(store.codes.shape, INT8)
    graph.tensor(codes).quantization = quantization(store.scale, store.zero_point)
    return [decode_operator(graph.file, named, [codes]), operator(graph.file, "DEQUANTIZE", 2, [codes], [target])]


def _factor_operators(graph: Subgraph, linear: OperatorT, factor: int) -> list[OperatorT]:
    """Moves bias and activation of a linear operator to a MUL and an ADD, returned; a bias of zeros needs no ADD."""
    (target,) = outputs_of(linear)
    inputs, bias_position = inputs_of(linear), BIAS.get(graph.kind(linear), 2)
    bias = inputs[bias_position] if len(inputs) > bias_position else -1
    activation = linear.builtinOptions.fusedActivationFunction
    linear.builtinOptions.fusedActivationFunction = NO_ACTIVATION
    graph.set_inputs(linear, inputs[:bias_position])
    product = graph.add_tensor_like(target)
    graph.set_outputs(linear, [product])
    if bias < 0 or _is_zero(graph, bias):
        return [operator(graph.file, "MUL", 1, [product, factor], [target], fusedActivationFunction=activation)]
    scaled = graph.add_tensor_like(target)
    return [
        operator(graph.file, "MUL", 1, [product, factor], [scaled], fusedActivationFunction=NO_ACTIVATION),
        operator(graph.file, "ADD", 1, [scaled, bias], [target], fusedActivationFunction=activation),
    ]


def _is_zero(graph: Subgraph, tensor: int) -> bool:
    """Whether a tensor is a constant of zeros."""
    return graph.is_constant(tensor) and not graph.data(tensor).view("<f4").any()
