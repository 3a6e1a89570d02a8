"""How one weight is decoded, as plain arrays in the weight's own order: no operators, no axes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from r2keras.export.decode import STEPS, Constants, kind_of, stored_codes
from r2keras.export.flatbuffer import WIDTHS, buffer_of, shape_of


class Pattern(NamedTuple):
    """Numbers that repeat along the flat weight: value `i` takes `values[i // inner % len(values)]`."""

    values: np.ndarray
    inner: int

    def spread(self, size: int) -> np.ndarray:
        """Returns one number for each of `size` values."""
        return self.values[np.arange(size) // self.inner % len(self.values)]


@dataclasses.dataclass(frozen=True, eq=False)
class Decoding:
    """Codes, tables and factors of a weight: each value is
    `(table[(code + first) * dim + column % dim] * scale + add) * multiply`.

    The weight is `(before, last, after)`; value `i` has `column = i // after % last`, and its code is number
    `(i // (last * after) * ceil(last / dim) + column // dim) * after + i % after`.

    Args:
        bits: width of a code: 2, 4 or 8.
        codes: int8 vector.
        table: float32 vector.
        before: see above.
        last: see above.
        after: see above.
        dim: values a code stands for.
        first: int32.
        scale: float32; None: nothing is multiplied.
        add: float32; None: nothing is added.
        multiply: float32; None: nothing is multiplied.
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
        places = (row * -(-self.last // self.dim) + column // self.dim) * self.after + index % self.after
        entries = self.codes[places].astype(np.int64) + self.first.spread(index.size)
        result = self.table[entries * self.dim + column % self.dim]
        result = result if self.scale is None else result * self.scale.spread(index.size)
        result = result if self.add is None else result + self.add.spread(index.size)
        return result if self.multiply is None else result * self.multiply.spread(index.size)


def decoding(file: Any, constants: Constants, subgraph: int, tensor: int) -> Decoding | None:
    """Returns how a tensor that follows from packed codes is decoded; None if it does so in another way.

    Args:
        file: the schema's `ModelT`.
        constants: of the same file, before operators were taken out.
        subgraph: where the tensor is computed.
        tensor: index of the float32 tensor.
    """
    graph = file.subgraphs[subgraph]
    operators: list[Any] = []
    while not buffer_of(file, graph.tensors[tensor]).size:
        operators.insert(0, constants.producer(subgraph, tensor))
        kind = kind_of(file, operators[0])
        if kind not in STEPS:
            return None
        tensor = int(operators[0].inputs[int(kind == "GATHER")])
    kinds = [kind_of(file, op) for op in operators]
    if graph.tensors[tensor].type not in WIDTHS or kinds[0] != "DEQUANTIZE":
        return None
    traced = _Traced(file, graph.tensors[tensor], is_palette="GATHER" in kinds)
    for kind, op in zip(kinds, operators, strict=True):
        others = [constants.value(subgraph, int(i)) for i in op.inputs if i != tensor]
        tensor = int(op.outputs[0])
        traced.follow(kind, others, graph.tensors[tensor])
    found = traced.found()
    return found if np.array_equal(found.values(), constants.value(subgraph, tensor).ravel()) else None


class _Traced:
    """Where each value's code lies and what is done to it, followed from the codes to the weight.

    Args:
        file: the schema's `ModelT`.
        codes: the tensor of codes.
        is_palette: whether they are indices into a table.
    """

    def __init__(self, file: Any, codes: Any, is_palette: bool):
        self._bits, self._codes, self._is_palette = WIDTHS[codes.type], stored_codes(file, codes), is_palette
        self._table: np.ndarray | None = None
        shape, quantization = self._codes.shape, codes.quantization
        along = [1] * len(shape)
        along[quantization.quantizedDimension] = -1
        zero_point = np.asarray(quantization.zeroPoint, np.int64).reshape(along)
        self._each: dict[str, np.ndarray] = {
            "place": np.arange(self._codes.size).reshape(shape),
            "part": np.zeros(shape, np.int64),
            "first": np.broadcast_to(-zero_point, shape),
            "scale": np.broadcast_to(np.asarray(quantization.scale, np.float32).reshape(along), shape),
        }

    def follow(self, kind: str, others: list[np.ndarray], result: Any) -> None:
        """Follows one operator of constants `others` to its result."""
        each, shape = self._each, shape_of(result)
        if kind == "ADD" and self._is_palette:
            each["first"] = each["first"] + others[0].astype(np.int64)
        elif kind in ("ADD", "MUL"):
            each["add" if kind == "ADD" else "multiply"] = np.broadcast_to(others[0], shape)
        elif kind == "GATHER":
            self._gather(others[0], shape)
        elif kind in ("RESHAPE", "TRANSPOSE", "SLICE"):
            self._each = {name: STEPS[kind]([array, *others], None, result) for name, array in each.items()}

    def _gather(self, table: np.ndarray, shape: tuple[int, ...]) -> None:
        """Follows a look-up: rows of a table with two axes add an axis."""
        self._table = table.reshape(len(table), -1)
        if table.ndim > 1:
            self._each = {name: np.broadcast_to(array[..., None], shape) for name, array in self._each.items()}
            self._each["part"] = np.broadcast_to(np.arange(shape[-1]), shape)

    def found(self) -> Decoding:
        """Returns what was found."""
        each = {name: array.ravel() for name, array in self._each.items()}
        dim = 1 if self._table is None else self._table.shape[1]
        codes, first, table = self._codes.ravel()[each["place"][each["part"] == 0]], each["first"], self._table
        if table is None:
            # Differences from the zero point are a table too: one that counts.
            lowest = int(codes.min()) + int(first.min())
            table = np.arange(lowest, int(codes.max()) + int(first.max()) + 1)
            first = first - lowest
        before, last, after = _runs(each["part"], dim)
        factors = {name: _pattern(each[name]) if name in each else None for name in ("scale", "add", "multiply")}
        if np.all(each["scale"] == 1):
            factors["scale"] = None
        values = np.ascontiguousarray(table, np.float32).ravel()
        return Decoding(self._bits, codes, values, before, last, after, dim, _pattern(first), **factors)


def _runs(part: np.ndarray, dim: int) -> tuple[int, int, int]:
    """Returns before, last and after of a weight whose values have these places in their vectors."""
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
