"""Puts a form in the place of a constant: DECODE or DEQUANTIZE in front of its operators, MUL and ADD behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2keras.export import packages
from r2keras.export.decode import kind_of
from r2keras.export.flatbuffer import FLOAT32, INT8, INT32, UINT8, add_tensor, buffer_of, operator, shape_of
from r2keras.export.tflm_forms import Form
from r2keras.export.tflm_read import DECODE, INT16, is_decode
from r2keras.export.tflm_tables import LookupTable

# Operators that multiply channel by channel: where their weights stand among the inputs, the weights' axis of channels.
LINEAR = {"CONV_2D": (1, 0), "FULLY_CONNECTED": (1, 0), "DEPTHWISE_CONV_2D": (1, 3), "TRANSPOSE_CONV": (1, 0)}
# What reads its weights when it runs, not when it is prepared.
TAKES_COMPUTED = {*LINEAR, "BATCH_MATMUL", "GATHER"}
BIAS = {"TRANSPOSE_CONV": 3}
NO_ACTIVATION, BOOL = 0, 6


def spell_out_select(file: Any) -> None:
    """Replaces SELECT on integers, which microcontrollers lack, by `b + int(condition) * (a - b)`, which is the same.

    Keras' Embedding looks up negative indices from the end of its table with such an operator.
    """
    for graph in file.subgraphs:
        for op in list(graph.operators):
            kinds = {(graph.tensors[i].type, shape_of(graph.tensors[i])) for i in (*op.inputs[1:], *op.outputs)}
            if kind_of(file, op) == "SELECT" and len(kinds) == 1 and next(iter(kinds))[0] == INT32:
                place = _place(graph, op)
                graph.operators[place : place + 1] = _selection(file, graph, *map(int, (*op.inputs, *op.outputs)))


def _selection(file: Any, graph: Any, condition: int, chosen: int, other: int, target: int) -> list[Any]:
    """Returns the operators that take `chosen` where the condition holds, else `other`."""
    one, difference, product = (_copy(graph, target) for _ in range(3))
    return [
        operator(file, "CAST", 1, [condition], [one], inDataType=BOOL, outDataType=INT32),
        operator(file, "SUB", 1, [chosen, other], [difference]),
        operator(file, "MUL", 1, [one, difference], [product]),
        operator(file, "ADD", 1, [other, product], [target]),
    ]


def consumers(graph: Any, tensor: int) -> list[Any]:
    """Returns the operators of a subgraph that read a tensor."""
    return [op for op in graph.operators if op.inputs is not None and tensor in op.inputs]


def channel_axis(file: Any, graph: Any, tensor: int) -> int | None:
    """Returns a constant's axis of output channels if all that read it can have a factor a channel behind them."""
    axes = set()
    for op in consumers(graph, tensor):
        place, axis = LINEAR.get(kind_of(file, op), (-1, None))
        axes.add(axis if list(op.inputs).index(tensor) == place else None)
    return axes.pop() if len(axes) == 1 else None


def rewrite(file: Any, subgraph: int, tensor: int, form: Form, name: str) -> list[int]:
    """Puts a form in the place of a float constant.

    Each operator that reads the constant gets a DECODE (or DEQUANTIZE) of its own directly in front of it, so that the
    floats live in memory for that operator alone.

    Args:
        file: the schema's `ModelT`, edited in place.
        subgraph: index of the subgraph.
        tensor: index of the float32 constant in it.
        form: what is stored.
        name: name of the new constants in the file.

    Returns:
        The indices of the tensors that carry the name, what is stored first.
    """
    graph, store = file.subgraphs[subgraph], form.store
    is_lookup = isinstance(store, LookupTable)
    named = (_add_lookup if is_lookup else _add_integers)(file, graph, store, name)
    graph.tensors[tensor].buffer = 0
    if isinstance(store, LookupTable) and store.axis is not None:
        graph.tensors[tensor].quantization = _dummy_grid(store)
    factor = None if form.factor is None else add_tensor(file, graph, form.factor.shape, FLOAT32, form.factor, name)
    for count, user in enumerate(consumers(graph, tensor)):
        target = tensor if count == 0 else _copy(graph, tensor)
        user.inputs = np.asarray([target if i == tensor else i for i in user.inputs], np.int32)
        if is_lookup:
            _decode_before(file, graph, user, named, target)
        else:
            graph.operators.insert(_place(graph, user), operator(file, "DEQUANTIZE", 2, named, [target]))
        if factor is not None:
            after = _place(graph, user) + 1
            graph.operators[after:after] = _factor_operators(file, graph, user, factor)
    return named if factor is None else [*named, factor]


def _add_lookup(file: Any, graph: Any, lookup: Any, name: str) -> list[int]:
    """Adds packed indices, and header with tables."""
    parts = (lookup.packed(), lookup.ancillary())
    return [add_tensor(file, graph, part.shape, UINT8, part, name) for part in parts]


def _add_integers(file: Any, graph: Any, store: Any, name: str) -> list[int]:
    """Adds codes with their grid."""
    kind = INT8 if store.bits == 8 else INT16
    codes = add_tensor(file, graph, store.codes.shape, kind, store.codes, name)
    graph.tensors[codes].quantization = _grid(np.asarray([store.scale]), np.asarray([store.zero_point]), 0)
    return [codes]


def _dummy_grid(lookup: LookupTable) -> Any:
    """Returns the grid without which the runtime decodes every channel of a float tensor with the first table."""
    count = len(lookup.tables)
    return _grid(np.ones(count), np.zeros(count), lookup.axis)


def _grid(scale: np.ndarray, zero_point: np.ndarray, axis: int) -> Any:
    """Returns the schema's quantization parameters."""
    made = packages.schema().QuantizationParametersT()
    made.scale = scale.astype(np.float32)
    made.zeroPoint = zero_point.astype(np.int64)
    made.quantizedDimension = axis
    return made


def _copy(graph: Any, tensor: int) -> int:
    """Adds a tensor like another one, without values."""
    source = graph.tensors[tensor]
    made = packages.schema().TensorT(shape=source.shape, type=source.type)
    made.quantization = source.quantization
    graph.tensors.append(made)
    return len(graph.tensors) - 1


def _decode_before(file: Any, graph: Any, user: Any, named: list[int], target: int) -> None:
    """Has a tensor looked up in front of an operator.

    One DECODE makes all tables of an operator: what it makes may lie in memory that the next DECODE takes.
    """
    place = _place(graph, user)
    before = graph.operators[place - 1] if place else None
    if before is None or not is_decode(file, before):
        before = packages.schema().OperatorT(opcodeIndex=_decode_code(file), inputs=[], outputs=[])
        graph.operators.insert(place, before)
    before.inputs = np.asarray([*before.inputs, *named], np.int32)
    before.outputs = np.asarray([*before.outputs, target], np.int32)


def _decode_code(file: Any) -> int:
    """Returns the index of DECODE's operator code, added if it is not there."""
    codes = [code.customCode for code in file.operatorCodes]
    if DECODE in codes:
        return codes.index(DECODE)
    schema = packages.schema()
    custom = schema.BuiltinOperator.CUSTOM
    made = schema.OperatorCodeT(builtinCode=custom, deprecatedBuiltinCode=custom, customCode=DECODE, version=1)
    file.operatorCodes.append(made)
    return len(codes)


def _factor_operators(file: Any, graph: Any, user: Any, factor: int) -> list[Any]:
    """Takes bias and activation off an operator; returns MUL and ADD that do them after it (no ADD of zeros)."""
    target, options = int(user.outputs[0]), user.builtinOptions
    place = BIAS.get(kind_of(file, user), 2)
    bias = int(user.inputs[place]) if len(user.inputs) > place else -1
    activation, options.fusedActivationFunction = options.fusedActivationFunction, NO_ACTIVATION
    user.inputs = user.inputs[:place]
    steps = [("MUL", factor)]
    if bias >= 0 and not _is_zero(file, graph, bias):
        steps.append(("ADD", bias))
    user.outputs, made = np.asarray([_copy(graph, target)], np.int32), []
    source = int(user.outputs[0])
    for kind, other in steps:
        is_last = kind == steps[-1][0]
        result = target if is_last else _copy(graph, target)
        ends: dict[str, Any] = {"fusedActivationFunction": activation if is_last else NO_ACTIVATION}
        made.append(operator(file, kind, 1, [source, other], [result], **ends))
        source = result
    return made


def _is_zero(file: Any, graph: Any, tensor: int) -> bool:
    """Whether a constant holds nothing but zeros."""
    data = buffer_of(file, graph.tensors[tensor])
    return bool(data.size and not data.view("<f4").any())


def _place(graph: Any, user: Any) -> int:
    """Returns the position of an operator."""
    return next(i for i, op in enumerate(graph.operators) if op is user)
