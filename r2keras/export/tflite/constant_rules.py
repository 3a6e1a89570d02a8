"""Rules by which the result of an operator on constants can be computed: types, shapes and options that NumPy keeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from r2keras.export.tflite.schema import FLOAT16, FLOAT32, INT32, WIDTHS, shape_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import OperatorT, TensorT

PLAIN = {FLOAT32: "<f4", FLOAT16: "<f2", INT32: "<i4"}
# Inputs by operator; RESHAPE may have a second one, which says the shape of its result again.
_NUM_INPUTS = {"DEQUANTIZE": 1, "CAST": 1, "ADD": 2, "MUL": 2, "GATHER": 2, "EMBEDDING_LOOKUP": 2}
_NUM_INPUTS |= {"SLICE": 3, "TRANSPOSE": 2}


def is_computable(graph: Subgraph, operator: OperatorT, kind: str) -> bool:
    """Whether NumPy computes what an operator on constants returns, in the shape and type that the file states.

    Ranges of values, such as row numbers, are not checked: they may be computed themselves.

    Args:
        graph: the subgraph of the operator.
        operator: the operator, with one result.
        kind: the name of its code.
    """
    inputs = inputs_of(operator)
    if len(inputs) != _NUM_INPUTS.get(kind, len(inputs)) or not inputs or min(inputs) < 0:
        return False
    sources, result = [graph.tensor(i) for i in inputs], graph.tensor(outputs_of(operator)[0])
    if any(tensor.sparsity is not None for tensor in (*sources, result)) or not _is_plain(operator, kind):
        return False
    shapes, shape = [shape_of(source) for source in sources], shape_of(result)
    if kind in ("ADD", "MUL"):
        types = {result.type, *(source.type for source in sources)}
        return types in ({FLOAT32}, {INT32}) and shape in shapes and _broadcasts(shapes, shape)
    if kind == "DEQUANTIZE":
        return result.type == FLOAT32 and shapes[0] == shape and _has_grid(sources[0])
    if kind == "EMBEDDING_LOOKUP":
        fits = len(shapes[0]) == 1 and len(shapes[1]) > 1 and shape == (*shapes[0], *shapes[1][1:])
        return fits and sources[0].type == INT32 and result.type == FLOAT32 and _has_grid(sources[1])
    if kind == "CAST":
        return shapes[0] == shape and (sources[0].type in PLAIN or sources[0].type in WIDTHS)
    if result.type != sources[0].type:
        return False
    if kind == "GATHER":
        return sources[1].type == INT32 and len(shapes[0]) > 0 and shape == (*shapes[1], *shapes[0][1:])
    if kind == "SLICE":
        fits = all(size <= full for size, full in zip(shape, shapes[0], strict=False))
        return sources[1].type == INT32 and len(shape) == len(shapes[0]) and shapes[1] == (len(shape),) and fits
    if kind == "TRANSPOSE":
        return sources[1].type == INT32 and shapes[1] == (len(shape),) and sorted(shape) == sorted(shapes[0])
    return kind == "RESHAPE" and math.prod(shape) == math.prod(shapes[0])


def _is_plain(operator: OperatorT, kind: str) -> bool:
    """Whether an operator's options change nothing."""
    options = operator.builtinOptions
    if kind in ("ADD", "MUL"):
        return options is None or options.fusedActivationFunction == 0
    return kind != "GATHER" or options is None or (options.axis, options.batchDims) == (0, 0)


def _broadcasts(shapes: list[tuple[int, ...]], shape: tuple[int, ...]) -> bool:
    """Whether all shapes broadcast to a shape."""
    padded = [(1,) * (len(shape) - len(other)) + other for other in shapes]
    return all(
        len(other) == len(shape) and all(a in (1, b) for a, b in zip(other, shape, strict=True)) for other in padded
    )


def _has_grid(source: TensorT) -> bool:
    """Whether a tensor holds half-precision floats, or codes with scales and as many zero points."""
    grid = source.quantization
    if source.type == FLOAT16:
        return True
    if source.type not in WIDTHS or grid is None or grid.scale is None or grid.zeroPoint is None:
        return False
    shape, axis = shape_of(source), grid.quantizedDimension
    fits = 0 <= axis < len(shape) and len(grid.scale) == len(grid.zeroPoint)
    return fits and len(grid.scale) in (1, shape[axis])
