"""Summary of a compressed model: bytes and range figures of each tensor of a record, and bytes of its file."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._util.display import Tabular
from r2keras._util.errors import invalid, invalid_part
from r2keras._util.text import count
from r2keras.record import CompressionRecord, PalettizedTensor, RangeFigures, Tensor, table_bytes
from r2keras.report.figures.occupancy import Clusters
from r2keras.report.summary_tables import summary_tables

if TYPE_CHECKING:
    import keras
    from rich.console import Group as RenderableGroup

    from r2keras.export.runtime.file_sizes import FileSizes, TensorSize

# Bytes of a float32 value.
FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class TensorSummary:
    """One compressed tensor.

    Args:
        name: `"<layer path>/<variable>"`.
        shape: the weight's shape.
        num_bits: bits per code.
        float_bytes: bytes as float32.
        ideal_bytes: `num_bits * weights / 8`; for a palette, `num_bits * indices / 8`.
        scale_bytes: bytes of the float32 scales, and of the zero points unless all are zero; for a palette, bytes of
            its tables and scales.
        before: range of the float weight.
        after: range of the compressed weight.
        container_bits: bits per code in the file; None without a file.
        packed_bytes: bytes of codes, scales, zero points and tables in the file; None without a file, 0 if another
            tensor stores the same weight.
        note: the difference between the file and the spec; empty if there is none.
        gzip_bytes: bytes of codes, indices and tables after gzip; None without a file.
        clusters: occupancy of a palette; None for a uniform grid.
    """

    name: str
    shape: tuple[int, ...]
    num_bits: int
    float_bytes: int
    ideal_bytes: float
    scale_bytes: int
    before: RangeFigures
    after: RangeFigures
    container_bits: int | None = None
    packed_bytes: int | None = None
    note: str = ""
    gzip_bytes: int | None = None
    clusters: Clusters | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as plain JSON."""
        plain = dataclasses.asdict(self) | {"shape": list(self.shape)}
        plain["clusters"] = None if self.clusters is None else self.clusters.to_dict()
        return plain | {"before": _range_dict(self.before), "after": _range_dict(self.after)}


@dataclasses.dataclass(frozen=True)
class KeptFloat:
    """One kernel that stays in float.

    Args:
        name: `"<layer path>/<variable>"`.
        reason: why it is not compressed.
        shape: the weight's shape; None without a model.
        range: the weight's range; None without a model.
    """

    name: str
    reason: str
    shape: tuple[int, ...] | None = None
    range: RangeFigures | None = None

    @property
    def float_bytes(self) -> int | None:
        """Bytes as float32; None without a model."""
        return None if self.shape is None else FLOAT_BYTES * int(np.prod(self.shape))

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as plain JSON."""
        return {
            "name": self.name,
            "reason": self.reason,
            "shape": None if self.shape is None else list(self.shape),
            "float_bytes": self.float_bytes,
            "range": None if self.range is None else _range_dict(self.range),
        }


@dataclasses.dataclass(frozen=True)
class Summary(Tabular):
    """Sizes and ranges of a compressed model; `print` shows them as tables.

    Args:
        model_name: the model's name.
        tensors: the compressed tensors, in the order of the record.
        kept_float: kernels that stay in float.
        num_values: number of scalars in the whole model.
        record: the record that the figures describe.
        file_bytes: bytes of the file; None without a file.
        gzip_bytes: bytes of the file after gzip; None without a file.

    Example:

    >>> summary = summarize(CompressionRecord({}, {"head/kernel": "no rule of the recipe matches"}, 650, "tiny"))
    >>> print(summary)
    Kept in float
    <BLANKLINE>
     kernel       shape      bytes  reason
     ────────────────────────────────────────────────────────────
     head/kernel  –              –  no rule of the recipe matches
    <BLANKLINE>
    Total: float 2,600 bytes; ideal size of the codes 0.
    No tensor is compressed: all values take 2,600 bytes as float.
    """

    model_name: str
    tensors: tuple[TensorSummary, ...]
    kept_float: tuple[KeptFloat, ...]
    num_values: int
    record: CompressionRecord = dataclasses.field(repr=False)
    file_bytes: int | None = None
    gzip_bytes: int | None = None

    @property
    def float_bytes(self) -> int:
        """Bytes of all values of the model as float32."""
        return FLOAT_BYTES * self.num_values

    @property
    def ideal_bytes(self) -> float:
        """Bytes of all codes alone, `num_bits * weights / 8`."""
        return sum(tensor.ideal_bytes for tensor in self.tensors)

    @property
    def scale_bytes(self) -> int:
        """Bytes of all scales, zero points and palette tables of the record."""
        return sum(tensor.scale_bytes for tensor in self.tensors)

    @property
    def uncompressed_bytes(self) -> int:
        """Bytes of the values outside of compressed tensors: biases, statistics, kernels that stay in float."""
        return self.float_bytes - sum(tensor.float_bytes for tensor in self.tensors)

    @property
    def packed_bytes(self) -> int | None:
        """Bytes of all codes, scales, zero points and palette tables in the file; None without a file."""
        return None if self.file_bytes is None else sum(tensor.packed_bytes or 0 for tensor in self.tensors)

    @property
    def ratio(self) -> float | None:
        """Bytes of all values as float32 divided by the size of the file; None without a file."""
        return None if self.file_bytes is None else self.float_bytes / self.file_bytes

    @property
    def parts(self) -> dict[str, int]:
        """The bytes of the file by purpose, which add up to `file_bytes`; empty without a file."""
        if self.file_bytes is None or self.packed_bytes is None:
            return {}
        codes = contained = 0
        for tensor in self.tensors:
            if tensor.packed_bytes and tensor.container_bits is not None:
                codes += math.ceil(tensor.ideal_bytes)
                # Files that store centroids in place of indices do not store the padding of the last vectors.
                container_bytes = math.ceil(tensor.ideal_bytes * tensor.container_bits / tensor.num_bits)
                contained += min(container_bytes, tensor.packed_bytes)
        parts = {"codes": codes, "wider container": contained - codes, "scales": self.packed_bytes - contained}
        return parts | {"rest": self.file_bytes - self.packed_bytes}

    @property
    def overhead(self) -> str:
        """The purpose of the bytes, in one line."""
        if not self.tensors:
            return f"No tensor is compressed: all values take {count(self.float_bytes)} bytes as float."
        if self.file_bytes is None:
            return (
                f"The codes take {count(self.ideal_bytes)} bytes, their {self._scales} {count(self.scale_bytes)}; all "
                f"other values take {count(self.uncompressed_bytes)} as float. The file adds the graph and metadata."
            )
        parts = self.parts
        return (
            f"Of the file's {count(self.file_bytes)} bytes, codes take {count(parts['codes'])}; wider containers add "
            f"{count(parts['wider container'])}, {self._scales} {count(parts['scales'])}; {count(parts['rest'])} are "
            f"float values, graph and metadata."
        )

    @property
    def _scales(self) -> str:
        """The name of what is stored in addition to codes."""
        has_palettes = any(tensor.clusters is not None for tensor in self.tensors)
        return "scales and tables" if has_palettes else "scales"

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures as plain JSON."""
        sizes = ("float_bytes", "ideal_bytes", "scale_bytes", "uncompressed_bytes")
        totals = (*sizes, "packed_bytes", "file_bytes", "gzip_bytes", "ratio", "parts")
        return {
            "model_name": self.model_name,
            "num_values": self.num_values,
            "totals": {name: getattr(self, name) for name in totals},
            "tensors": [tensor.to_dict() for tensor in self.tensors],
            "kept_float": [kept.to_dict() for kept in self.kept_float],
        }

    def __rich__(self) -> RenderableGroup:
        return summary_tables(self)


def summarize(
    record: CompressionRecord, path: str | os.PathLike | None = None, *, model: keras.Model | None = None
) -> Summary:
    """Summarizes bytes and ranges of a compressed model, per tensor and in total.

    Args:
        record: the record returned by `finalize` or `calibrate`.
        path: the exported file; None leaves out the figures of the file.
        model: the finalized model. It adds shapes and ranges of the kernels that stay in float, and the record is
            compared with its weights.

    Returns:
        The summary; `print` shows it as tables.

    Raises:
        TypeError: `record` is not a `CompressionRecord`.
        ValueError: the record is empty, or does not belong to the model or file.
        OSError: the file cannot be read.

    Example:

    >>> from r2keras.record import QuantizedTensor
    >>> from r2keras.specs import QuantSpec
    >>> one, codes = np.ones((1, 1), np.float32), np.array([[-2, 1], [7, 0]], np.int8)
    >>> before = RangeFigures.of(np.array([-1.1, 0.6, 3.4, 0.2]))
    >>> tensor = QuantizedTensor("head/kernel", codes, 0.5 * one, 0 * one, QuantSpec(num_bits=4), before)
    >>> summary = summarize(CompressionRecord({"head/kernel": tensor}, {}, 6, "tiny"))
    >>> summary.float_bytes, summary.ideal_bytes, summary.tensors[0].after.max_abs
    (24, 2.0, 3.5)
    """
    _check_record(record)
    kernels = {} if model is None else _kernels(record, model)
    sizes = None if path is None else _sizes(record, path)
    stored = {} if sizes is None else {size.name: size for size in sizes.tensors}
    kept_float = [
        KeptFloat(name, reason, *(_shape_and_range(kernels[name]) if name in kernels else ()))
        for name, reason in record.kept_float.items()
    ]
    return Summary(
        model_name=record.model_name,
        tensors=tuple(_tensor_summary(tensor, stored.get(name)) for name, tensor in record.tensors.items()),
        kept_float=tuple(kept_float),
        num_values=record.num_values,
        record=record,
        file_bytes=None if sizes is None else sizes.file_bytes,
        gzip_bytes=None if sizes is None else sizes.gzip_bytes,
    )


def _check_record(record: object) -> None:
    """Raises unless the record has a tensor to report."""
    if not isinstance(record, CompressionRecord):
        raise TypeError(invalid("record", "a CompressionRecord", type(record), "Pass the second result of `finalize`"))
    if not record.tensors and not record.kept_float:
        expected = "the record of a model with at least one kernel"
        raise ValueError(invalid_part("record", expected, f"the record of {record.model_name!r}, which has no tensors"))


def _sizes(record: CompressionRecord, path: str | os.PathLike) -> FileSizes:
    """Returns the sizes of the file."""
    from r2keras.export.runtime.file_sizes import sizes

    return sizes(record, path)


def _tensor_summary(tensor: Tensor, stored: TensorSize | None) -> TensorSummary:
    """Returns the figures of one tensor, including its sizes in the file if there is one."""
    values = tensor.values()
    summary = TensorSummary(
        name=tensor.name,
        shape=values.shape,
        num_bits=tensor.spec.num_bits,
        float_bytes=FLOAT_BYTES * values.size,
        ideal_bytes=tensor.ideal_bits / 8,
        scale_bytes=table_bytes(tensor),
        before=tensor.before,
        after=RangeFigures.of(values),
        clusters=Clusters.of(tensor) if isinstance(tensor, PalettizedTensor) else None,
    )
    if stored is None:
        return summary
    return dataclasses.replace(
        summary,
        container_bits=stored.container_bits,
        packed_bytes=stored.packed_bytes,
        note=stored.note,
        gzip_bytes=stored.gzip_bytes,
    )


def _kernels(record: CompressionRecord, model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the kernels of the model by name, after comparing them with the record."""
    from r2keras._models.values import to_numpy
    from r2keras._models.walk import view_of

    values = {kernel.full_name: to_numpy(kernel.variable) for kernel in view_of(model).kernels}
    for name, tensor in record.tensors.items():
        if name not in values or not np.array_equal(values[name], tensor.values()):
            problem = "has different values in" if name in values else "is not in"
            received = f"a record that does not belong to the model: {name!r} {problem} {model.name!r}"
            fix = "Pass the model and the record that `finalize` returned together"
            raise ValueError(invalid_part("record", "the record of `model`", received, fix))
    return values


def _shape_and_range(values: np.ndarray) -> tuple[tuple[int, ...], RangeFigures]:
    """Returns the shape and range of a kernel."""
    return values.shape, RangeFigures.of(values)


def _range_dict(figures: RangeFigures) -> dict[str, Any]:
    """Returns the range figures as plain JSON, including the derived one."""
    return dataclasses.asdict(figures) | {"counts": list(figures.counts), "max_over_std": figures.max_over_std}
