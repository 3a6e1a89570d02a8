"""How many bytes a compressed model takes: as float, in the file, and at best."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from r2keras.export.containers import container_bits
from r2keras.export.decode import kind_of
from r2keras.export.flatbuffer import INT8, SEPARATOR, WIDTHS, buffer_of, read
from r2keras.export.rules import RULES
from r2keras.export.tflm_read import is_for_microcontrollers, stored_as
from r2keras.palettized import PalettizedTensor
from r2keras.record import CompressionRecord, QuantizedTensor

FLOAT_BYTES = 4
# Said of a weight in a file of integer operators.
IN_FLOAT = "its operator computes in float"


@dataclasses.dataclass(frozen=True)
class TensorSize:
    """One weight in the file.

    Args:
        name: `"<layer path>/<variable>"`.
        shape: the weight's shape in Keras.
        num_bits: bits a weight, or a palette's index, that the spec asked for; 32 where it stays float.
        container_bits: bits a weight in the file, or a palette's index: 2, 4, 8 or 32; `8 dim` where centroids stand in
            the place of indices (`optimize="latency"`).
        float_bytes: 4 times the number of weights.
        packed_bytes: what codes, scales, zero points and half steps take in the file; indices, table, first rows of
            groups and factors of channels for a palette.
        ideal_bytes: `num_bits` times the number of weights, or of indices, in bytes.
        note: what the user should know, or empty.
        gzip_bytes: what its codes and constants take after gzip on their own; None for a float weight, and where
            another weight stores them.

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
class FileSizes:
    """Sizes of one `.tflite` file, in bytes.

    Args:
        tensors: one row a compressed weight (every kernel if nothing is compressed).
        float_bytes: 4 times all values of the Keras model, biases and statistics included.
        file_bytes: the file on disk, operators and float rest included.
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
        """What the rows' codes and scales take in the file."""
        return sum(row.packed_bytes for row in self.tensors)

    @property
    def ideal_bytes(self) -> float:
        """Bits times weights over the rows."""
        return sum(row.ideal_bytes for row in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Returns rows and totals as plain JSON."""
        rows = [{**dataclasses.asdict(row), "shape": list(row.shape)} for row in self.tensors]
        totals = ("float_bytes", "file_bytes", "packed_bytes", "ideal_bytes", "gzip_bytes")
        return {"tensors": rows, **{name: getattr(self, name) for name in totals}}


def sizes(record: CompressionRecord, path: str | os.PathLike) -> FileSizes:
    """Measures a file that `to_litert` or `to_tflm` wrote from a record.

    Args:
        record: what was compressed.
        path: the `.tflite` file.

    Returns:
        The sizes, read from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no `.tflite`, or does not hold the record's weights.

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


def measure(record: CompressionRecord, file: Any, data: bytes, name: str) -> FileSizes:
    """Returns the sizes of a parsed file; `data` are its bytes, `name` is what an error calls it."""
    found = _Found(file)
    stored = stored_as(file) if is_for_microcontrollers(file) else {}
    rows, integer = [], _in_integer_operators(file)
    for tensor in record.tensors.values():
        if tensor.name not in found.packed:
            raise ValueError(
                f"{name} does not hold the weight {tensor.name!r} of the record. "
                "Expected the file that was written with this record."
            )
        width, note = stored.get(tensor.name) or _container(tensor, found)
        if integer and tensor.name not in integer:
            note = ", ".join(filter(None, [note, IN_FLOAT]))
        rows.append(_row(tensor, found, width, note))
    return FileSizes(tuple(rows), FLOAT_BYTES * record.num_values, len(data), _gzip_bytes(data))


def _in_integer_operators(file: Any) -> set[str]:
    """Returns the names of the weights that operators with integer outputs read."""
    found: set[str] = set()
    for graph in file.subgraphs:
        for op in graph.operators:
            rule = RULES.get(kind_of(file, op))
            if rule is None or rule.kernel_axis is None or graph.tensors[op.outputs[0]].type != INT8:
                continue
            names = (graph.tensors[i].name for i in op.inputs[1:] if i >= 0)
            found.update(one for name in names if name is not None for one in name.decode().split(SEPARATOR))
    return found


def measure_float(kernels: dict[str, tuple[int, ...]], num_values: int, data: bytes) -> FileSizes:
    """Returns the sizes of a float file; `kernels` are shapes by name."""
    rows = []
    for name, shape in kernels.items():
        size = FLOAT_BYTES * math.prod(shape)
        rows.append(TensorSize(name, shape, 32, 32, size, size, float(size)))
    return FileSizes(tuple(rows), FLOAT_BYTES * num_values, len(data), _gzip_bytes(data))


def _row(tensor: QuantizedTensor | PalettizedTensor, found: _Found, width: int, note: str) -> TensorSize:
    """Returns the row of one weight, `width` bits a value in the file."""
    name = tensor.name
    shape = tensor.layout.shape if isinstance(tensor, PalettizedTensor) else tensor.codes.shape
    return TensorSize(
        name=name,
        shape=shape,
        num_bits=tensor.spec.num_bits,
        container_bits=width,
        float_bytes=FLOAT_BYTES * math.prod(shape),
        packed_bytes=found.packed[name],
        ideal_bytes=tensor.ideal_bits / 8,
        note=f"the same tensor as {found.shared[name]}" if name in found.shared else note,
        gzip_bytes=None if name in found.shared else _gzip_bytes(found.data[name]),
    )


def _container(tensor: QuantizedTensor | PalettizedTensor, found: _Found) -> tuple[int, str]:
    """Returns the bits of a weight's container in a LiteRT file, and a note on it."""
    width, has_indices = found.widths[tensor.name], tensor.name in found.indices
    if not isinstance(tensor, PalettizedTensor):
        return width, _note(tensor, width)
    # A palette's table may be one of integers too; the width of the indices follows from the spec.
    width = container_bits(tensor.spec.num_bits) if has_indices else width * tensor.layout.dim
    return width, _palette_note(tensor, width, has_indices)


def _note(tensor: QuantizedTensor, got: int) -> str:
    """Says where a width went into a wider container."""
    asked = tensor.spec.num_bits
    return "" if asked == got else f"{asked}-bit codes in {_article(got)} {got}-bit container"


def _palette_note(tensor: PalettizedTensor, got: int, has_indices: bool) -> str:
    """Describes a palette: `"4-bit indices into a table of 16 x 2"`."""
    asked, groups = tensor.spec.num_bits, tensor.layout.groups
    tables = "a table" if groups == 1 else f"{groups} tables"
    vectors = "" if tensor.layout.dim == 1 else f" x {tensor.layout.dim}"
    table = f"{tables} of {tensor.spec.entries}{vectors}"
    if not has_indices:
        return f"8-bit centroids in place, from {table}"
    contained = "" if asked == got else f" in {_article(got)} {got}-bit container"
    return f"{asked}-bit indices{contained} into {table}"


def _article(width: int) -> str:
    """Returns the article of a number of bits."""
    return "an" if width == 8 else "a"


class _Found:
    """What a file holds of each weight, by the weight's name.

    Args:
        file: the schema's `ModelT`.
    """

    def __init__(self, file: Any):
        self.packed: dict[str, int] = {}
        self.widths: dict[str, int] = {}
        self.shared: dict[str, str] = {}
        self.data: dict[str, bytes] = {}
        self.indices: set[str] = set()
        for graph in file.subgraphs:
            for tensor in graph.tensors:
                data = buffer_of(file, tensor)
                if tensor.name is not None and data.size:
                    self._add(tensor, data, *tensor.name.decode().split(SEPARATOR))

    def _add(self, tensor: Any, data: np.ndarray, owner: str, *others: str) -> None:
        """Counts one constant, of a weight and of those that share it."""
        self.packed[owner] = self.packed.get(owner, 0) + data.size + _scale_bytes(tensor)
        self.data[owner] = self.data.get(owner, b"") + data.tobytes()
        for name in (owner, *others) if tensor.type in WIDTHS else ():
            self.widths[name] = max(self.widths.get(name, 0), WIDTHS[tensor.type])
            if _is_index(tensor):
                self.indices.add(name)
        for other in others:
            self.packed.setdefault(other, 0)
            self.data.setdefault(other, b"")
            self.shared[other] = owner


def _is_index(tensor: Any) -> bool:
    """Whether a tensor of codes holds a palette's indices: they are counted from the lowest code, in steps of one."""
    quantization = tensor.quantization
    lowest = -(2 ** (WIDTHS[tensor.type] - 1))
    return list(quantization.scale) == [1.0] and lowest <= quantization.zeroPoint[0] < 0


def _scale_bytes(tensor: Any) -> int:
    """Returns the bytes of scales and zero points; vectors of zeros are written once for the whole file."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return 0
    zeros = quantization.zeroPoint
    return 4 * len(quantization.scale) + (8 * len(zeros) if any(zeros) else 0)


def _gzip_bytes(data: bytes) -> int:
    """Returns the size after gzip, at its default strength."""
    return len(gzip.compress(data, 6, mtime=0))
