"""How many bytes a compressed model takes: as float, in the file, and at best."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
from pathlib import Path
from typing import Any

from r2keras.export.containers import container_bits
from r2keras.export.flatbuffer import SEPARATOR, WIDTHS, buffer_of, read
from r2keras.export.tflm_read import is_for_microcontrollers, stored_as
from r2keras.palettized import PalettizedTensor
from r2keras.record import CompressionRecord, QuantizedTensor

FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class TensorSize:
    """One weight in the file.

    Args:
        name: `"<layer path>/<variable>"`.
        shape: the weight's shape in Keras.
        num_bits: bits a weight, or a palette's index, that the spec asked for; 32 where it stays float.
        container_bits: bits a weight in the file, or a palette's index: 2, 4, 8 or 32.
        float_bytes: 4 times the number of weights.
        packed_bytes: what codes, scales, zero points and half steps take in the file; indices, table, first rows of
            groups and factors of channels for a palette.
        ideal_bytes: `num_bits` times the number of weights, or of indices, in bytes.
        note: what the user should know, or empty.

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
    packed, widths, shared = _packed_bytes(file)
    stored = stored_as(file) if is_for_microcontrollers(file) else {}
    rows = []
    for tensor in record.tensors.values():
        if tensor.name not in packed:
            raise ValueError(
                f"{name} does not hold the weight {tensor.name!r} of the record. "
                "Expected the file that was written with this record."
            )
        is_palette = isinstance(tensor, PalettizedTensor)
        # A palette's table may be one of integers too; the width of the indices follows from the spec.
        width = container_bits(tensor.spec.num_bits) if is_palette else widths.get(tensor.name, 32)
        width, note = stored.get(tensor.name, (width, _note(tensor, width)))
        note = f"the same tensor as {shared[tensor.name]}" if tensor.name in shared else note
        rows.append(_row(tensor, packed[tensor.name], width, note))
    return FileSizes(tuple(rows), FLOAT_BYTES * record.num_values, len(data), _gzip_bytes(data))


def measure_float(kernels: dict[str, tuple[int, ...]], num_values: int, data: bytes) -> FileSizes:
    """Returns the sizes of a float file; `kernels` are shapes by name."""
    rows = []
    for name, shape in kernels.items():
        size = FLOAT_BYTES * math.prod(shape)
        rows.append(TensorSize(name, shape, 32, 32, size, size, float(size)))
    return FileSizes(tuple(rows), FLOAT_BYTES * num_values, len(data), _gzip_bytes(data))


def _row(tensor: QuantizedTensor | PalettizedTensor, packed_bytes: int, width: int, note: str) -> TensorSize:
    """Returns the row of one weight."""
    shape = tensor.layout.shape if isinstance(tensor, PalettizedTensor) else tensor.codes.shape
    return TensorSize(
        name=tensor.name,
        shape=shape,
        num_bits=tensor.spec.num_bits,
        container_bits=width,
        float_bytes=FLOAT_BYTES * math.prod(shape),
        packed_bytes=packed_bytes,
        ideal_bytes=tensor.ideal_bits / 8,
        note=note,
    )


def _note(tensor: QuantizedTensor | PalettizedTensor, got: int) -> str:
    """Says where a width went into a wider container, and what a palette is made of."""
    asked = tensor.spec.num_bits
    if isinstance(tensor, PalettizedTensor):
        return _palette_note(tensor, got)
    article = "an" if got == 8 else "a"
    return "" if asked == got else f"{asked}-bit codes in {article} {got}-bit container"


def _palette_note(tensor: PalettizedTensor, got: int) -> str:
    """Describes a palette: `"4-bit indices into a table of 16 x 2"`."""
    asked, groups = tensor.spec.num_bits, tensor.layout.groups
    contained = "" if asked == got else f" in {'an' if got == 8 else 'a'} {got}-bit container"
    tables = "a table" if groups == 1 else f"{groups} tables"
    vectors = "" if tensor.layout.dim == 1 else f" x {tensor.layout.dim}"
    return f"{asked}-bit indices{contained} into {tables} of {tensor.spec.entries}{vectors}"


def _packed_bytes(file: Any) -> tuple[dict[str, int], dict[str, int], dict[str, str]]:
    """Returns, by weight name, the bytes of its codes, scales and constants, the codes' width, and who shares whose."""
    packed: dict[str, int] = {}
    widths: dict[str, int] = {}
    shared: dict[str, str] = {}
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            data = buffer_of(file, tensor)
            if tensor.name is None or not data.size:
                continue
            owner, *others = tensor.name.decode().split(SEPARATOR)
            packed[owner] = packed.get(owner, 0) + data.size + _scale_bytes(tensor)
            for name in (owner, *others) if tensor.type in WIDTHS else ():
                widths[name] = max(widths.get(name, 0), WIDTHS[tensor.type])
            for other in others:
                packed.setdefault(other, 0)
                shared[other] = owner
    return packed, widths, shared


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
