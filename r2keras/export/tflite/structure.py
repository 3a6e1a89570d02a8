"""Checks of a `.tflite` of unknown origin, before a runtime or this package uses it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util import optional_packages
from r2keras.export.tflite.ethos_u import ETHOS_U, SCRATCH, compiled_error, is_ethos_u
from r2keras.export.tflite.flatbuffer import BrokenFileError, check_bounds
from r2keras.export.tflite.operator_rules import callees, check_operator
from r2keras.export.tflite.operator_shapes import check_shapes
from r2keras.export.tflite.schema import kind_of, shape_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, QuantizationParametersT, SubGraphT, TensorT

# The most bytes of one tensor: LiteRT and flatbuffers count in 32 bits.
MOST_BYTES = 2**31 - 1
# Bits of one value by the schema's TensorType; other types have no fixed size.
BITS = {
    **dict.fromkeys(("FLOAT64", "INT64", "UINT64", "COMPLEX64"), 64),
    **dict.fromkeys(("FLOAT32", "INT32", "UINT32"), 32),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("INT8", "UINT8", "BOOL", "FLOAT8_E4M3FN", "FLOAT8_E5M2"), 8),
    **dict.fromkeys(("INT4", "UINT4"), 4),
    "COMPLEX128": 128,
    "INT2": 2,
}
# Of files of `to_tflm`.
MICROCONTROLLER_OPERATOR = "TFLM_DECODE"
WITHOUT_SIZE = ("STRING", "RESOURCE", "VARIANT")


def check_structure(data: bytes, name: str = "the file") -> ModelT:
    """Checks that a `.tflite` is whole and consistent, and returns it parsed.

    A runtime trusts its file: a wrong index or size ends the process. The checks are these: every offset of the
    flatbuffer lies within the file; every index of a tensor, buffer, operator code or subgraph exists; a constant has
    the bytes of its shape and type; scales and zero points fit their axis; every operator has known code and options,
    reads tensors that are computed before it (but for the scratch memory of an Ethos-U NPU), and writes each tensor
    once, in the shape and type that it computes; subgraphs do not call themselves.

    A file that passes can still fail in an operator, for example on a stride of zero: run a file of unknown origin
    with `isolated=True`.

    Args:
        data: the file's bytes.
        name: what errors call the file.

    Returns:
        The schema's `ModelT`.

    Raises:
        ValueError: the file breaks one of these rules.

    Example:

    >>> check_structure(b"no model")
    Traceback (most recent call last):
    ...
    ValueError: the file is not a readable .tflite (its identifier is b'odel' instead of b'TFL3'). ...
    """
    schema = optional_packages.schema()
    try:
        check_bounds(data)
        file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        _check_file(file, len(data))
    except BrokenFileError as error:
        raise unreadable(name, error) from error
    except UnicodeDecodeError as error:
        raise unreadable(name, BrokenFileError("a name in it is not UTF-8")) from error
    return file


def unreadable(name: str, error: Exception) -> ValueError:
    """Returns the error for a file that cannot be read or run."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if MICROCONTROLLER_OPERATOR in reason:
        fix = "Run it with `r2keras.export.TFLMModel`, or write another one with `r2keras.export.to_litert`"
        return ValueError(f"{name} is a file for LiteRT for Microcontrollers, which LiteRT cannot run. {fix}.")
    if ETHOS_U.decode() in reason:
        return compiled_error(name)
    return ValueError(f"{name} is not a readable .tflite ({reason}). Write it again with `r2keras.export.to_litert`.")


def _check_file(file: ModelT, size: int) -> None:
    """Raises BrokenFileError for the first inconsistency."""
    graphs, buffers = file.subgraphs or [], file.buffers or []
    _need(bool(len(graphs)), "it has no subgraph")
    _need(bool(len(buffers)), "it has no buffer")
    # An absent list and an empty one are the same; readers rely on a list.
    file.operatorCodes = file.operatorCodes if file.operatorCodes is not None else []
    _check_operator_codes(file)
    for buffer in buffers:
        # A buffer of a file over 2 GiB lies after the flatbuffer.
        _need(buffer.offset <= 1 or buffer.offset + buffer.size <= size, "a buffer lies outside of it")
    for index, graph in enumerate(graphs):
        where = f"subgraph {index}"
        for field in ("tensors", "operators"):
            if getattr(graph, field) is None:
                setattr(graph, field, [])
        for i, tensor in enumerate(graph.tensors):
            _check_tensor(file, tensor, f"tensor {i} of {where}")
        _check_data_flow(file, graph, where)
    _check_calls(file)
    check_shapes(file, strict=False)
    for entry in file.metadata or []:
        _need(entry.buffer < len(buffers), "its metadata refer to a missing buffer")
    for signature in file.signatureDefs or []:
        _need(signature.subgraphIndex < len(graphs), "a signature refers to a missing subgraph")
        _decoded(signature.signatureKey)
        for entry in [*(signature.inputs or []), *(signature.outputs or [])]:
            count = len(graphs[signature.subgraphIndex].tensors)
            _need(entry.tensorIndex < count, "a signature refers to a missing tensor")
            _need(entry.name is not None, "a signature has an input or output without a name")
            _decoded(entry.name)


def _check_operator_codes(file: ModelT) -> None:
    """Raises unless the schema has every operator code."""
    known = set(_names("BuiltinOperator"))
    for code in file.operatorCodes:
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        _need(number in known, f"{number} is not an operator code")
        is_custom = _names("BuiltinOperator")[number] == "CUSTOM"
        _need(not is_custom or bool(code.customCode), "a custom operator has no name")
        _decoded(code.customCode)


def _check_tensor(file: ModelT, tensor: TensorT, where: str) -> None:
    """Raises unless type, shape, quantization and constant of a tensor agree."""
    kind = _names("TensorType").get(tensor.type)
    _need(kind is not None, f"{tensor.type} is not a type of tensors ({where})")
    _decoded(tensor.name)
    shape = shape_of(tensor)
    _need(all(size >= 0 for size in shape), f"{where} has a negative size")
    # Python's integers do not overflow, NumPy's would.
    count = 1
    for size in shape:
        count *= size
    bits = BITS.get(kind or "")
    _need(bits is not None or kind in WITHOUT_SIZE, f"{where} has the type {kind}, which is not supported")
    size = -(-count * (bits or 0) // 8)
    _need(max(count, size) <= MOST_BYTES, f"{where} is too large: its shape is {shape}")
    open_shape = [] if tensor.shapeSignature is None else [int(size) for size in tensor.shapeSignature]
    fits = not open_shape or [-1 if o == -1 else size for o, size in zip(open_shape, shape, strict=False)] == open_shape
    _need(fits and len(open_shape) in (0, len(shape)), f"{where} has two shapes that differ")
    _need(tensor.buffer < len(file.buffers), f"{where} refers to a missing buffer")
    stored = stored_bytes(file, tensor)
    if stored and tensor.sparsity is None and kind in BITS:
        _need(stored == size, f"{where} holds {stored} bytes, and its shape {shape} needs {size}")
    _need(not (stored and kind in ("RESOURCE", "VARIANT")), f"{where} is a {kind} with values")
    if stored and kind == "STRING":
        _check_strings(np.asarray(file.buffers[tensor.buffer].data, np.uint8), count, where)
    if tensor.quantization is not None:
        _check_quantization(tensor.quantization, shape, where)


def stored_bytes(file: ModelT, tensor: TensorT) -> int:
    """Returns the number of bytes that a file holds for a tensor; 0 for one that is computed."""
    buffer = file.buffers[tensor.buffer]
    if buffer.offset > 1:
        return int(buffer.size)
    return 0 if buffer.data is None else len(buffer.data)


def _check_strings(data: np.ndarray, count: int, where: str) -> None:
    """Raises unless the table of a tensor of strings lies within its bytes: their number, and where each one ends."""
    head = data[: len(data) // 4 * 4].view("<i4")
    fits = 4 * (count + 2) <= len(data) and int(head[0]) == count
    _need(fits, f"{where} is a broken tensor of strings")
    ends = head[1 : count + 2].astype(np.int64)
    fits = int(ends[0]) == 4 * (count + 2) and bool(np.all(np.diff(ends) >= 0)) and int(ends[-1]) <= len(data)
    _need(fits, f"{where} is a broken tensor of strings")


def _check_quantization(quantization: QuantizationParametersT, shape: tuple[int, ...], where: str) -> None:
    """Raises unless scales and zero points are finite and fit their axis."""
    scales = 0 if quantization.scale is None else len(quantization.scale)
    zeros = 0 if quantization.zeroPoint is None else len(quantization.zeroPoint)
    if not scales:
        return
    _need(bool(np.all(np.isfinite(quantization.scale))), f"{where} has a scale that is not finite")
    _need(zeros in (1, scales), f"{where} has {scales} scales and {zeros} zero points")
    limit = 2**31
    _need(bool(np.all(np.abs(quantization.zeroPoint) < limit)), f"{where} has a zero point out of range")
    axis = quantization.quantizedDimension
    _need(0 <= axis < max(len(shape), 1), f"{where} is quantized along the missing axis {axis}")
    fits = scales == 1 or (bool(shape) and scales == shape[axis])
    _need(fits, f"{where} has {scales} scales for the shape {shape} along axis {axis}")


def _check_data_flow(file: ModelT, graph: SubGraphT, where: str) -> None:
    """Raises unless operators run in order: each reads what is there already, and writes what is not."""
    count = len(graph.tensors)
    constants = {i for i, tensor in enumerate(graph.tensors) if stored_bytes(file, tensor)}
    # A tensor without values needs no bytes either.
    ready = constants | {i for i, tensor in enumerate(graph.tensors) if tensor.isVariable or 0 in shape_of(tensor)}
    inputs, outputs = _indices(graph.inputs), _indices(graph.outputs)
    for tensor in (*inputs, *outputs):
        _need(0 <= tensor < count, f"{where} takes or returns the missing tensor {tensor}")
    _need(not constants & set(inputs), f"{where} takes a constant as an input")
    _need(len(set(inputs)) == len(inputs), f"{where} takes one tensor twice")
    ready.update(inputs)
    written = set(inputs) | constants
    for i, operator in enumerate(graph.operators):
        _need(operator.opcodeIndex < len(file.operatorCodes), f"operator {i} of {where} has a missing code")
        kind = kind_of(file, operator)
        label = f"operator {i} of {where}, {kind},"
        check_operator(operator, kind, label)
        scratch = SCRATCH if is_ethos_u(file, operator) else ()
        for position, tensor in enumerate(_indices(operator.inputs)):
            _need(-1 <= tensor < count, f"{label} reads the missing tensor {tensor}")
            is_ready = tensor in ready or tensor == -1 or position in scratch
            _need(is_ready, f"{label} reads tensor {tensor} before it is computed")
        results = [*_indices(operator.outputs), *(t for t in _indices(operator.intermediates) if t != -1)]
        for tensor in results:
            _need(0 <= tensor < count, f"{label} writes the missing tensor {tensor}")
            _need(tensor not in written, f"{label} writes tensor {tensor}, which is an input, a constant or computed")
        ready.update(results)
        written.update(results)
    _need(ready.issuperset(outputs), f"{where} returns a tensor that is not computed")


def _check_calls(file: ModelT) -> None:
    """Raises for a subgraph that calls a missing one, or itself by way of others."""
    called = {
        index: {callee for op in graph.operators for callee in callees(file, op)}
        for index, graph in enumerate(file.subgraphs)
    }
    missing = {callee for found in called.values() for callee in found} - set(called)
    _need(not missing, f"an operator runs the missing subgraph {min(missing, default=0)}")
    while called:
        last = {index for index, found in called.items() if not found & set(called)}
        _need(bool(last), "a subgraph calls itself")
        called = {index: found for index, found in called.items() if index not in last}


def _indices(vector: np.ndarray | list[int] | None) -> list[int]:
    """Returns a vector of indices as plain integers."""
    return [] if vector is None else [int(i) for i in vector]


def _decoded(name: bytes | None) -> None:
    """Raises UnicodeDecodeError for a name that is not UTF-8."""
    if name is not None:
        name.decode()


@functools.cache
def _names(enumeration: str) -> dict[int, str]:
    """Returns the names of an enumeration of the schema by number."""
    members = vars(getattr(optional_packages.schema(), enumeration))
    return {number: name for name, number in members.items() if not name.startswith("_")}


def _need(condition: bool, reason: str) -> None:
    """Raises BrokenFileError with the reason unless the condition holds."""
    if not condition:
        raise BrokenFileError(reason)
