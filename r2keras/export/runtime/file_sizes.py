"""Sizes of a compressed model in bytes: as float, in the file, and at best."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._util.display import Tabular
from r2keras._util.errors import invalid_part
from r2keras._util.tables import add_row, new_table, shape_text, text_cell
from r2keras._util.text import bits, count
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.integer_operators import RULES
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import INT8, SEPARATOR, WIDTHS, buffer_of
from r2keras.export.weights.decode_operator import is_decode, is_for_microcontrollers
from r2keras.export.weights.lookup_read_back import stored_as
from r2keras.export.weights.uniform import container_bits
from r2keras.record import CompressionRecord, PalettizedTensor, QuantizedTensor, Tensor

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT, SubGraphT, TensorT
    from rich.table import Table

FLOAT_BYTES = 4
# The note on a weight in a file of integer operators whose own operator stayed float.
IN_FLOAT = "its operator computes in float"
# Notes on weights of a dynamic file: codes in a product as they are, rows of a table; others are decoded first.
READERS = {"FULLY_CONNECTED": "packed", "EMBEDDING_LOOKUP": "decoded row by row"}
DECODED = "decoded"


@dataclasses.dataclass(frozen=True)
class TensorSize:
    """One weight in the file.

    Args:
        name: `"<layer path>/<variable>"`.
        shape: the weight's shape in Keras.
        num_bits: bits per weight, or per index of a palette, in the spec; 32 if the weight stays float.
        container_bits: bits per weight, or per index of a palette, in the file: 2, 4, 8 or 32; `8 dim` if centroids are
            stored instead of indices (`optimize="latency"`), and 2 per plane of signs (`activations="dynamic"`).
        float_bytes: 4 times the number of weights.
        packed_bytes: size in the file of codes, scales, zero points and half steps; for a palette, of indices, table,
            first rows of groups and factors of channels.
        ideal_bytes: `num_bits` times the number of weights, or of indices, in bytes.
        note: a remark on the stored form, or empty.
        gzip_bytes: size of its codes and constants after gzip on their own; None for a float weight, and if another
            weight stores them.

    Example:

    >>> row = TensorSize("head/kernel", (64, 10), 3, 4, 2560, 380, 240.0, "3-bit codes in a 4-bit container")
    >>> row.float_bytes / row.packed_bytes > 6
    True
    """

    name: str
    shape: tuple[int, ...]
    num_bits: int
    container_bits: int
    float_bytes: int
    packed_bytes: int
    ideal_bytes: float
    note: str = ""
    gzip_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class FileSizes(Tabular):
    """Sizes of one `.tflite` file, in bytes; `print` shows them as a table.

    Args:
        tensors: one row per compressed weight (per kernel if nothing is compressed).
        float_bytes: 4 times the number of values of the Keras model, biases and statistics included.
        file_bytes: the file on disk, with operators and float weights.
        gzip_bytes: the file after gzip.

    Example:

    >>> row = TensorSize("head/kernel", (64, 10), 2, 2, 2560, 280, 160.0)
    >>> sizes = FileSizes((row,), 2600, 1400, 900)
    >>> sizes.packed_bytes, sizes.ideal_bytes
    (280, 160.0)
    """

    tensors: tuple[TensorSize, ...]
    float_bytes: int
    file_bytes: int
    gzip_bytes: int

    @property
    def packed_bytes(self) -> int:
        """Size of all rows' codes and scales in the file."""
        return sum(row.packed_bytes for row in self.tensors)

    @property
    def ideal_bytes(self) -> float:
        """Sum of the rows' `ideal_bytes`."""
        return sum(row.ideal_bytes for row in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Returns rows and totals as plain JSON."""
        rows = [{**dataclasses.asdict(row), "shape": list(row.shape)} for row in self.tensors]
        totals = ("float_bytes", "file_bytes", "packed_bytes", "ideal_bytes", "gzip_bytes")
        return {"tensors": rows, **{name: getattr(self, name) for name in totals}}

    @property
    def text(self) -> str:
        """The totals in one line."""
        sizes = f"File: {count(self.file_bytes)} bytes, {count(self.gzip_bytes)} after gzip"
        return f"{sizes}; all values as float: {count(self.float_bytes)}."

    def __rich__(self) -> Table:
        columns = [("tensor", False), ("shape", False), ("weights", True), ("float", True), ("ideal", True)]
        table = new_table("Bytes in the file", [*columns, ("in file", True), ("note", False)])
        for row in self.tensors:
            figures = map(count, (row.float_bytes, row.ideal_bytes, row.packed_bytes))
            add_row(table, [row.name, shape_text(row.shape), bits(row.num_bits), *figures, row.note])
        table.caption = text_cell(self.text)
        return table


def sizes(record: CompressionRecord, path: str | os.PathLike) -> FileSizes:
    """Measures a file that `to_litert` or `to_tflm` wrote from a record.

    Args:
        record: the record that the file was written with.
        path: the `.tflite` file.

    Returns:
        The sizes, read from the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a `.tflite`, or does not hold the record's weights.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import r2keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
    >>> recipe = r2keras.Recipe([("head", r2keras.QuantSpec(num_bits=4))])
    >>> small, record = r2keras.finalize(r2keras.prepare(model, recipe))
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> written = r2keras.export.to_litert(small, path, record)
    >>> sizes(record, path) == written
    True
    """
    file = read(path)
    return measure(record, file, Path(path).read_bytes(), str(path))


def measure(record: CompressionRecord, file: ModelT, content: bytes, name: str) -> FileSizes:
    """Returns the sizes of a parsed file.

    Args:
        record: the record that the file was written with.
        file: the parsed file.
        content: its bytes.
        name: the file's name in errors.

    Raises:
        ValueError: the file does not hold a weight of the record.
    """
    stored = _StoredWeights(file)
    lookup_tables = stored_as(file) if is_for_microcontrollers(file) else {}
    integer = _in_integer_operators(file)
    dynamic = {name: note for name, note in _readers(file).items() if name not in integer}
    rows = []
    for tensor in record.tensors.values():
        if tensor.name not in stored.packed:
            received = f"{name}, which does not hold the weight {tensor.name!r} of the record"
            fix = "Pass the record that the file was written with"
            raise ValueError(invalid_part("path", "the file that was written with this record", received, fix))
        width, note = lookup_tables.get(tensor.name) or _container(tensor, stored)
        if integer and tensor.name not in integer and tensor.name not in dynamic:
            note = _joined(note, IN_FLOAT)
        if tensor.name not in integer and READERS["FULLY_CONNECTED"] in dynamic.values():
            note = _joined(note, dynamic.get(tensor.name, DECODED))
        rows.append(_row(tensor, stored, width, note))
    return FileSizes(tuple(rows), FLOAT_BYTES * record.num_values, len(content), _gzip_bytes(content))


def _joined(*notes: str) -> str:
    """Returns notes separated by commas."""
    return ", ".join(filter(None, notes))


def _readers(file: ModelT) -> dict[str, str]:
    """Returns how float operators read the codes of weights, by name, where they read them at all."""
    notes: dict[str, str] = {}
    for graph in file.subgraphs:
        for op in graph.operators:
            kind = kind_of(file, op)
            weight = graph.tensors[op.inputs[1]] if kind in READERS else None
            if weight is not None and weight.type in WIDTHS:
                notes |= dict.fromkeys(_names(weight), READERS[kind])
    return notes


def _in_integer_operators(file: ModelT) -> set[str]:
    """Returns the names of the weights that operators with integer outputs read."""
    names: set[str] = set()
    for graph in file.subgraphs:
        coded = {int(op.outputs[0]): int(op.inputs[0]) for op in graph.operators if is_decode(file, op)}
        for op in graph.operators:
            rule = RULES.get(kind_of(file, op))
            if rule is None or rule.kernel_axis is None or graph.tensors[op.outputs[0]].type != INT8:
                continue
            for i in op.inputs[1:]:
                # The codes of a weight have its name, also where the operator reads what is decoded from them.
                names.update(_names(graph.tensors[coded.get(i, i)]) if i >= 0 else [])
    return names


def _names(tensor: TensorT) -> list[str]:
    """Returns the names of the weights that a constant holds; several if they are equal."""
    return [] if tensor.name is None else tensor.name.decode().split(SEPARATOR)


def measure_float(kernels: dict[str, tuple[int, ...]], num_values: int, content: bytes) -> FileSizes:
    """Returns the sizes of a float file.

    Args:
        kernels: shapes of the model's kernels, by name.
        num_values: number of values of the model.
        content: the file's bytes.
    """
    rows = []
    for name, shape in kernels.items():
        size = FLOAT_BYTES * math.prod(shape)
        rows.append(TensorSize(name, shape, 32, 32, size, size, float(size)))
    return FileSizes(tuple(rows), FLOAT_BYTES * num_values, len(content), _gzip_bytes(content))


def _row(tensor: Tensor, stored: _StoredWeights, width: int, note: str) -> TensorSize:
    """Returns the row of one weight, stored with `width` bits per value."""
    name = tensor.name
    shape = tensor.shape
    return TensorSize(
        name=name,
        shape=shape,
        num_bits=tensor.spec.num_bits,
        container_bits=width,
        float_bytes=FLOAT_BYTES * math.prod(shape),
        packed_bytes=stored.packed[name],
        ideal_bytes=tensor.ideal_bits / 8,
        note=f"the same tensor as {stored.shared[name]}" if name in stored.shared else note,
        gzip_bytes=None if name in stored.shared else _gzip_bytes(stored.data[name]),
    )


def _container(tensor: Tensor, stored: _StoredWeights) -> tuple[int, str]:
    """Returns the bits of a weight's container in a LiteRT file, and a note on it."""
    width = stored.widths[tensor.name]
    has_indices = tensor.name in stored.indices
    if not isinstance(tensor, PalettizedTensor):
        return width, _note(tensor, width)
    planes = stored.constants[tensor.name]
    if not has_indices and (width < 8 or planes > 1):
        signs = "a sign" if planes == 1 else f"{planes} signs"
        return width * planes, f"{signs} per weight in {width}-bit containers"
    # A palette's table may have an integer type too, so the width of the indices comes from the spec.
    width = container_bits(tensor.spec.num_bits) if has_indices else width * tensor.layout.dim
    return width, _palette_note(tensor, width, has_indices)


def _note(tensor: QuantizedTensor, width: int) -> str:
    """Returns a note on codes in a wider container, or nothing."""
    num_bits = tensor.spec.num_bits
    return "" if num_bits == width else f"{num_bits}-bit codes in {_article(width)} {width}-bit container"


def _palette_note(tensor: PalettizedTensor, width: int, has_indices: bool) -> str:
    """Describes a palette: `"4-bit indices into a table of 16 x 2"`."""
    num_bits, groups = tensor.spec.num_bits, tensor.layout.groups
    tables = "a table" if groups == 1 else f"{groups} tables"
    vectors = "" if tensor.layout.dim == 1 else f" x {tensor.layout.dim}"
    table = f"{tables} of {tensor.spec.entries}{vectors}"
    if not has_indices:
        return f"8-bit centroids in place, from {table}"
    container = "" if num_bits == width else f" in {_article(width)} {width}-bit container"
    return f"{num_bits}-bit indices{container} into {table}"


def _article(width: int) -> str:
    """Returns the article of a number of bits."""
    return "an" if width == 8 else "a"


class _StoredWeights:
    """Sizes of the constants that hold weights, by the weights' names.

    Args:
        file: the parsed file.

    Attributes:
        packed: bytes of the constants, scales and zero points; 0 for a weight that another one stores.
        widths: bits of the widest integer constant.
        constants: the number of integer constants.
        shared: for a weight that another one stores, the name of that one.
        data: bytes of the constants.
        indices: the names of the weights that are stored as indices of a palette.
    """

    def __init__(self, file: ModelT):
        self.packed: dict[str, int] = {}
        self.widths: dict[str, int] = {}
        self.constants: dict[str, int] = {}
        self.shared: dict[str, str] = {}
        self.data: dict[str, bytes] = {}
        self.indices: set[str] = set()
        for graph in file.subgraphs:
            for tensor in graph.tensors:
                data = buffer_of(file, tensor)
                if tensor.name is not None and data.size:
                    self._add(tensor, data, *_names(tensor))
            for op in graph.operators or []:
                if is_decode(file, op):
                    self._add_decoded(graph, op, file)

    def _add(self, tensor: TensorT, data: np.ndarray, owner: str, *others: str) -> None:
        """Adds the size of one constant to the weight `owner`, which `others` share."""
        self.packed[owner] = self.packed.get(owner, 0) + data.size + _scale_bytes(tensor)
        self.data[owner] = self.data.get(owner, b"") + data.tobytes()
        if tensor.type in WIDTHS:
            for name in (owner, *others):
                self.widths[name] = max(self.widths.get(name, 0), WIDTHS[tensor.type])
                self.constants[name] = self.constants.get(name, 0) + 1
                if _is_index(tensor):
                    self.indices.add(name)
        for other in others:
            self.packed.setdefault(other, 0)
            self.data.setdefault(other, b"")
            self.shared[other] = owner

    def _add_decoded(self, graph: SubGraphT, decoder: OperatorT, file: ModelT) -> None:
        """Adds the parts without a name of codes that a DECODE expands: their scales, and Huffman tables."""
        for number, output in enumerate(decoder.outputs):
            packed, ancillary = (graph.tensors[decoder.inputs[2 * number + i]] for i in (0, 1))
            tables = buffer_of(file, ancillary)
            if graph.tensors[output].type == INT8:
                owner = _names(packed)[0]
                self.packed[owner] += _scale_bytes(graph.tensors[output])
                if ancillary.name is None:
                    self.packed[owner] += tables.size
                    self.data[owner] += tables.tobytes()


def _is_index(tensor: TensorT) -> bool:
    """Whether a tensor of codes holds a palette's indices: they count from the lowest code, in steps of one."""
    quantization = tensor.quantization
    lowest = -(2 ** (WIDTHS[tensor.type] - 1))
    return list(quantization.scale) == [1.0] and lowest <= quantization.zeroPoint[0] < 0


def _scale_bytes(tensor: TensorT) -> int:
    """Returns the bytes of scales and zero points. A vector of zeros does not count: the file holds it only once."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return 0
    zeros = quantization.zeroPoint
    return 4 * len(quantization.scale) + (8 * len(zeros) if any(zeros) else 0)


def _gzip_bytes(data: bytes) -> int:
    """Returns the size after gzip at its default level."""
    return len(gzip.compress(data, 6, mtime=0))
