"""What compression cost and saved: bytes and range figures of every tensor of a record, and of the file on disk."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from r2keras._errors import invalid
from r2keras.record import CompressionRecord, RangeFigures, table_bytes
from r2keras.report._format import count, to_text
from r2keras.report.clusters import Clusters

if TYPE_CHECKING:
    import keras

FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class TensorSummary:
    """One compressed tensor.

    Args:
        name: `"<layer path>/<variable>"`.
        shape: the weight's shape.
        num_bits: bits a code.
        float_bytes: bytes as float32.
        ideal_bytes: `num_bits * weights / 8`; with a palette, `num_bits * indices / 8`.
        scale_bytes: bytes of the scales and of the zero points that are not all zero, as float32; of a palette's
            table and scales.
        before: range of the float weight.
        after: range of the compressed weight.
        container_bits: bits a code takes in the file; None without a file.
        packed_bytes: bytes of codes, scales, zero points and tables in the file; None without a file, 0 for a tensor
            that another one stores.
        note: what the file does otherwise than asked.
        gzip_bytes: what codes, indices and tables take after gzip on their own; None without a file.
        clusters: how a palette's indices are spread; None for a uniform grid.
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
    """One kernel that stays float.

    Args:
        name: `"<layer path>/<variable>"`.
        reason: why it stays.
        shape: the weight's shape; None where no model was given.
        range: its range; None where no model was given.
    """

    name: str
    reason: str
    shape: tuple[int, ...] | None = None
    range: RangeFigures | None = None

    @property
    def float_bytes(self) -> int | None:
        """Bytes as float32; None where no model was given."""
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
class Summary:
    """What compression cost and saved; `print` it, or take `to_dict()`.

    Args:
        model_name: the model's name.
        tensors: the compressed tensors, in the record's order.
        kept_float: kernels that stay float.
        num_values: scalars in the whole model.
        record: the record that the figures are of.
        file_bytes: bytes of the file; None without a file.
        gzip_bytes: bytes of the file after gzip; None without a file.

    Example:

    >>> summary = summarize(CompressionRecord({}, {"head/kernel": "no rule of the recipe matches"}, 650, "tiny"))
    >>> print(summary)
    Kept float
    <BLANKLINE>
     kernel       shape      bytes  why
     ────────────────────────────────────────────────────────────
     head/kernel  –              –  no rule of the recipe matches
    <BLANKLINE>
    Total: float 2,600 bytes; ideal for the codes 0.
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
        """Bytes of the whole model's values as float32."""
        return FLOAT_BYTES * self.num_values

    @property
    def ideal_bytes(self) -> float:
        """Bytes of all codes, `num_bits * weights / 8`, and nothing else."""
        return sum(tensor.ideal_bytes for tensor in self.tensors)

    @property
    def scale_bytes(self) -> int:
        """Bytes of all scales, zero points and palettes' tables of the record."""
        return sum(tensor.scale_bytes for tensor in self.tensors)

    @property
    def uncompressed_bytes(self) -> int:
        """Bytes of the values that are in no compressed tensor: biases, statistics, kernels that stay float."""
        return self.float_bytes - sum(tensor.float_bytes for tensor in self.tensors)

    @property
    def packed_bytes(self) -> int | None:
        """Bytes of all codes, scales, zero points and palettes' tables in the file; None without a file."""
        return None if self.file_bytes is None else sum(tensor.packed_bytes for tensor in self.tensors)

    @property
    def ratio(self) -> float | None:
        """How many times smaller the file is than the values as float32; None without a file."""
        return None if self.file_bytes is None else self.float_bytes / self.file_bytes

    @property
    def parts(self) -> dict[str, int]:
        """The file's bytes by what they are for; empty without a file. They add up to `file_bytes`."""
        if self.file_bytes is None:
            return {}
        stored = [tensor for tensor in self.tensors if tensor.packed_bytes]
        codes = sum(math.ceil(t.ideal_bytes) for t in stored)
        # Centroids in the place of indices leave out what filled up the last vectors.
        contained = sum(min(math.ceil(t.ideal_bytes * t.container_bits / t.num_bits), t.packed_bytes) for t in stored)
        parts = {"codes": codes, "wider container": contained - codes, "scales": self.packed_bytes - contained}
        return parts | {"rest": self.file_bytes - self.packed_bytes}

    @property
    def overhead(self) -> str:
        """Where the bytes go, in one line."""
        if not self.tensors:
            return f"No tensor is compressed: all values take {count(self.float_bytes)} bytes as float."
        if self.file_bytes is None:
            return (
                f"The codes take {count(self.ideal_bytes)} bytes, their {self._beside} {count(self.scale_bytes)}; all "
                f"other values take {count(self.uncompressed_bytes)} as float. The file adds the graph and metadata."
            )
        parts = self.parts
        return (
            f"Of the file's {count(self.file_bytes)} bytes, codes need {count(parts['codes'])}; wider containers add "
            f"{count(parts['wider container'])}, {self._beside} {count(parts['scales'])}; {count(parts['rest'])} are "
            f"values kept float, graph and metadata."
        )

    @property
    def _beside(self) -> str:
        """What is stored beside codes."""
        palettes = any(map(_is_palette, self.record.tensors.values()))
        return "scales and tables" if palettes else "scales"

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

    def __rich__(self) -> Any:
        from r2keras.report.tables import summary_tables

        return summary_tables(self)

    def __str__(self) -> str:
        return to_text(self)


def summarize(
    record: CompressionRecord, path: str | os.PathLike | None = None, *, model: keras.Model | None = None
) -> Summary:
    """Measures what compression cost and saved, per tensor and in total.

    Args:
        record: what `finalize` or `calibrate` returned beside the model.
        path: the exported file; without one only the record's figures are shown.
        model: the finalized model; with it the kernels that stay float get their shapes and ranges, and the record is
            compared with the weights.

    Returns:
        The summary; `print` shows it as tables.

    Raises:
        TypeError: `record` is not a `CompressionRecord`.
        ValueError: the record is empty, or is not of this model or file.
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
    rows = {} if sizes is None else {row.name: row for row in sizes.tensors}
    kept = [
        KeptFloat(name, reason, *(_shape_and_range(kernels[name]) if name in kernels else ()))
        for name, reason in record.kept_float.items()
    ]
    return Summary(
        model_name=record.model_name,
        tensors=tuple(_tensor_summary(tensor, rows.get(name)) for name, tensor in record.tensors.items()),
        kept_float=tuple(kept),
        num_values=record.num_values,
        record=record,
        file_bytes=None if sizes is None else sizes.file_bytes,
        gzip_bytes=None if sizes is None else sizes.gzip_bytes,
    )


def _check_record(record: object) -> None:
    """Raises unless there is something to report."""
    if not isinstance(record, CompressionRecord):
        raise TypeError(invalid("record", "a CompressionRecord", type(record), "Pass the second result of `finalize`"))
    if not record.tensors and not record.kept_float:
        raise ValueError(
            f"The record of {record.model_name!r} holds no tensors, so there is nothing to report. Expected the record "
            "of a model with at least one kernel."
        )


def _sizes(record: CompressionRecord, path: str | os.PathLike) -> Any:
    """Returns the sizes of the file."""
    from r2keras.export.sizes import sizes

    return sizes(record, path)


def _tensor_summary(tensor: Any, row: Any) -> TensorSummary:
    """Returns the figures of one tensor, with those of its row in the file if there is one."""
    values = tensor.values()
    columns = ("container_bits", "packed_bytes", "note", "gzip_bytes")
    in_file = {} if row is None else {name: getattr(row, name) for name in columns}
    return TensorSummary(
        name=tensor.name,
        shape=values.shape,
        num_bits=tensor.spec.num_bits,
        float_bytes=FLOAT_BYTES * values.size,
        ideal_bytes=tensor.ideal_bits / 8,
        scale_bytes=table_bytes(tensor),
        before=tensor.before,
        after=RangeFigures.of(values),
        clusters=Clusters.of(tensor) if _is_palette(tensor) else None,
        **in_file,
    )


def _is_palette(tensor: Any) -> bool:
    """Whether a tensor of a record is a palette."""
    return hasattr(tensor, "codebook")


def _kernels(record: CompressionRecord, model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the model's kernels by name, compared with the record."""
    from r2keras._model import kernels, leaf_layers, to_numpy

    found = {f"{path}/{name}": to_numpy(v) for path, layer in leaf_layers(model) for name, v in kernels(layer)}
    for name, tensor in record.tensors.items():
        if name not in found or not np.array_equal(found[name], tensor.values()):
            problem = "has other values in" if name in found else "is not in"
            raise ValueError(
                f"The record does not belong to the model: {name!r} {problem} {model.name!r}. Pass the model and the "
                "record that `finalize` returned together."
            )
    return found


def _shape_and_range(values: np.ndarray) -> tuple[tuple[int, ...], RangeFigures]:
    """Returns the shape and the range of a kernel."""
    return values.shape, RangeFigures.of(values)


def _range_dict(figures: RangeFigures) -> dict[str, Any]:
    """Returns the range figures as plain JSON, the derived one with them."""
    return dataclasses.asdict(figures) | {"counts": list(figures.counts), "max_over_std": figures.max_over_std}
