"""Decoding of one weight as plain arrays in the weight's own order, without operators or axes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from r2keras.export.tflite.constant_values import STEPS, Constants, stored_codes
from r2keras.export.tflite.schema import WIDTHS, shape_of
from r2keras.export.tflite.subgraph import Subgraph, inputs_of, outputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, OperatorT, TensorT


# The largest difference between codes and zero points of 8 bits.
LARGEST_ENTRY = 255


class Pattern(NamedTuple):
    """Numbers that repeat along the flat weight: value `i` has number `values[i // inner % len(values)]`."""

    values: np.ndarray
    inner: int

    def spread(self, size: int) -> np.ndarray:
        """Returns the numbers of `size` values."""
        return self.values[np.arange(size) // self.inner % len(self.values)]


@dataclasses.dataclass(frozen=True, eq=False)
class Decoding:
    """Codes, tables and factors of a weight.

    Each value is `(table[(code + first) * dim + column % dim] * scale + add) * multiply`. The weight has the shape
    `(before, last, after)`. Value `i` has `column = i // after % last`, and its code is number
    `(i // (last * after) * ceil(last / dim) + column // dim) * after + i % after`.

    Args:
        bits: bits per code: 2, 4 or 8.
        codes: int8 vector.
        table: float32 vector.
        before: first size of the weight.
        last: size of the axis along which a code holds `dim` values.
        after: last size of the weight.
        dim: values per code.
        first: int32.
        scale: float32; None to multiply by nothing.
        add: float32; None to add nothing.
        multiply: float32; None to multiply by nothing.
    """

    bits: int
    codes: np.ndarray
    table: np.ndarray
    before: int
    last: int
    after: int
    dim: int
    first: Pattern
    scale: Pattern | None
    add: Pattern | None
    multiply: Pattern | None

    def values(self) -> np.ndarray:
        """Returns the weight as a flat float32 vector."""
        index = np.arange(self.before * self.last * self.after)
        row, column = index // (self.last * self.after), index // self.after % self.last
        code_index = (row * -(-self.last // self.dim) + column // self.dim) * self.after + index % self.after
        entries = self.codes[code_index].astype(np.int64) + self.first.spread(index.size)
        result = self.table[entries * self.dim + column % self.dim]
        if self.scale is not None:
            result = result * self.scale.spread(index.size)
        if self.add is not None:
            result = result + self.add.spread(index.size)
        if self.multiply is not None:
            result = result * self.multiply.spread(index.size)
        return result


def decoding(file: ModelT, constants: Constants, subgraph: int, tensor: int, expected: np.ndarray) -> Decoding | None:
    """Returns the decoding of a tensor that follows from packed codes, or None if `Decoding` cannot express it.

    Args:
        file: the schema's `ModelT`.
        constants: constants of the same file, made before operators were dropped.
        subgraph: index of the subgraph that computes the tensor.
        tensor: index of the float32 tensor.
        expected: its values.
    """
    graph = Subgraph(file, subgraph)
    operators: list[OperatorT] = []
    while not graph.is_constant(tensor):
        operators.insert(0, constants.producer(subgraph, tensor))
        kind = graph.kind(operators[0])
        if kind not in STEPS:
            return None
        tensor = inputs_of(operators[0])[int(kind == "GATHER")]
    kinds = [graph.kind(op) for op in operators]
    if graph.tensor(tensor).type not in WIDTHS or kinds[:1] != ["DEQUANTIZE"] or not expected.size:
        return None
    trace = _Trace(file, graph.tensor(tensor), is_palette="GATHER" in kinds)
    try:
        for kind, op in zip(kinds, operators, strict=True):
            others = [constants.value(subgraph, i) for i in inputs_of(op) if i != tensor]
            tensor = outputs_of(op)[0]
            trace.follow(kind, others, graph.tensor(tensor))
        result = trace.result()
        return result if np.array_equal(result.values(), expected.ravel()) else None
    except (IndexError, ValueError):
        # The operators of `STEPS` in an order that neither a grid nor a palette has, or zero points of a damaged file.
        return None


class _Trace:
    """The position of each value's code and the numbers applied to it, followed from the codes to the weight.

    Args:
        file: the schema's `ModelT`.
        codes: the tensor of codes.
        is_palette: whether the codes are indices into a table.
    """

    def __init__(self, file: ModelT, codes: TensorT, is_palette: bool):
        self._bits = WIDTHS[codes.type]
        self._codes = stored_codes(file, codes)
        self._is_palette = is_palette
        self._table: np.ndarray | None = None
        shape, quantization = self._codes.shape, codes.quantization
        along = [1] * len(shape)
        along[quantization.quantizedDimension] = -1
        zero_point = np.asarray(quantization.zeroPoint, np.int64).reshape(along)
        # Per value: index of its code, position in the vector of that code, first row of its table, factors.
        self._per_value: dict[str, np.ndarray] = {
            "code_index": np.arange(self._codes.size).reshape(shape),
            "part": np.zeros(shape, np.int64),
            "first": np.broadcast_to(-zero_point, shape),
            "scale": np.broadcast_to(np.asarray(quantization.scale, np.float32).reshape(along), shape),
        }

    def follow(self, kind: str, others: list[np.ndarray], result: TensorT) -> None:
        """Follows one operator, with constant inputs `others`, to its result."""
        per_value, shape = self._per_value, shape_of(result)
        if kind == "ADD" and self._is_palette:
            per_value["first"] = per_value["first"] + others[0].astype(np.int64)
        elif kind in ("ADD", "MUL"):
            per_value["add" if kind == "ADD" else "multiply"] = np.broadcast_to(others[0], shape)
        elif kind == "GATHER":
            self._gather(others[0], shape)
        elif kind in ("RESHAPE", "TRANSPOSE", "SLICE"):
            self._per_value = {name: STEPS[kind]([array, *others], None, result) for name, array in per_value.items()}

    def _gather(self, table: np.ndarray, shape: tuple[int, ...]) -> None:
        """Follows a look-up; a table of vectors adds an axis."""
        self._table = table.reshape(len(table), -1)
        if table.ndim > 1:
            self._per_value = {
                name: np.broadcast_to(array[..., None], shape) for name, array in self._per_value.items()
            }
            self._per_value["part"] = np.broadcast_to(np.arange(shape[-1]), shape)

    def result(self) -> Decoding:
        """Returns the decoding of all operators followed."""
        per_value = {name: array.ravel() for name, array in self._per_value.items()}
        dim = 1 if self._table is None else self._table.shape[1]
        codes = self._codes.ravel()[per_value["code_index"][per_value["part"] == 0]]
        first, table = per_value["first"], self._table
        if table is None:
            # A uniform grid becomes a table of consecutive integers, the differences from the zero point.
            lowest, highest = (int(end(codes)) + int(end(first)) for end in (np.min, np.max))
            if lowest < -LARGEST_ENTRY or highest > LARGEST_ENTRY:
                raise ValueError("a zero point has more than 8 bits")
            table = np.arange(lowest, highest + 1)
            first = first - lowest
        before, last, after = _sizes(per_value["part"], dim)
        factors = {
            name: _pattern(per_value[name]) if name in per_value else None for name in ("scale", "add", "multiply")
        }
        if np.all(per_value["scale"] == 1):
            factors["scale"] = None
        values = np.ascontiguousarray(table, np.float32).ravel()
        return Decoding(self._bits, codes, values, before, last, after, dim, _pattern(first), **factors)


def _sizes(part: np.ndarray, dim: int) -> tuple[int, int, int]:
    """Returns `before`, `last` and `after` of a weight, given the position of each value in its vector."""
    if dim == 1:
        return 1, part.size, 1
    after = int(np.flatnonzero(part)[0])
    rows = part[::after]
    cuts = np.flatnonzero((rows[1:] == 0) & (rows[:-1] != dim - 1))
    last = int(cuts[0]) + 1 if cuts.size else rows.size
    return rows.size // last, last, after


def _pattern(values: np.ndarray) -> Pattern:
    """Returns the shortest pattern that repeats to `values`."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    inner = int(np.gcd.reduce(np.append(changes, values.size)))
    runs = values[::inner]
    divisors = (count for count in range(1, runs.size + 1) if runs.size % count == 0)
    count = next(c for c in divisors if np.array_equal(runs[:-c], runs[c:]))
    return Pattern(runs[:count].copy(), inner)
