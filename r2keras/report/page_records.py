"""Details of compressed models for the HTML page: sizes, ranges and plots of every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from r2keras._util.errors import invalid_part
from r2keras._util.tables import shape_text
from r2keras._util.text import count
from r2keras.record import CompressionRecord, PalettizedTensor, Tensor
from r2keras.report.figures.histogram import histogram
from r2keras.report.figures.occupancy import occupancy
from r2keras.report.summary import Summary, TensorSummary, summarize
from r2keras.report.summary_tables import PALETTE_COLUMNS, activation_rows, palette_cells, range_cells, stored_text

if TYPE_CHECKING:
    from markupsafe import Markup

PART_NAMES = {
    "codes": "codes at their ideal size",
    "wider container": "padding to the width of the container",
    "scales": "scales, zero points, codebooks",
    "rest": "float values, graph, metadata",
}


def record_contexts(records: Mapping[str, CompressionRecord | Summary]) -> list[dict[str, Any]]:
    """Returns the details of each compressed model."""
    return [_record_context(index, name, _summary(name, part)) for index, (name, part) in enumerate(records.items())]


def _record_context(index: int, name: str, summary: Summary) -> dict[str, Any]:
    """Returns sizes, ranges and plots of one compressed model."""
    return {
        "name": name,
        "overhead": summary.overhead,
        "bars": _bars(summary),
        "parts": _parts(summary),
        "tensors": [
            {
                "name": _breakable(t.name),
                "shape": shape_text(t.shape),
                "bits": str(t.num_bits),
                "stored": stored_text(t),
                "note": t.note,
                "bytes": [count(t.float_bytes), count(t.ideal_bytes), count(t.packed_bytes)],
                "ranges": range_cells(t),
                "plot": histogram(summary.record.tensors[t.name], name=f"h{index}-{position}"),
                "clusters": _cluster_context(t, summary.record.tensors[t.name], f"c{index}-{position}"),
            }
            for position, t in enumerate(summary.tensors)
        ],
        "kept": [(_breakable(k.name), shape_text(k.shape), k.reason) for k in summary.kept_float],
        "activations": [(_breakable(name), *rest) for name, *rest in activation_rows(summary.record)],
        "notes": [(_breakable(name), note) for name, note in summary.record.notes.items()],
        "in_file": summary.file_bytes is not None,
        "palette_columns": PALETTE_COLUMNS,
    }


def _cluster_context(tensor: TensorSummary, recorded: Tensor, name: str) -> dict[str, Any] | None:
    """Returns cells and plot of a palette; None for a uniform grid."""
    if tensor.clusters is None or not isinstance(recorded, PalettizedTensor):
        return None
    return {"cells": palette_cells(tensor, tensor.clusters), "plot": occupancy(recorded, name=name)}


def _breakable(name: str) -> Markup:
    """Returns the escaped name of a weight, with line breaks allowed after slashes."""
    from markupsafe import Markup, escape

    return escape(name).replace("/", Markup("/<wbr>"))


def _bars(summary: Summary) -> list[tuple[str, str, float]]:
    """Returns (name, bytes, percent of the longest bar) of the float model, the file and the ideal size."""
    sizes = [
        ("all values as float32", summary.float_bytes),
        ("the file", summary.file_bytes),
        ("the file after gzip", summary.gzip_bytes),
        ("codes at their ideal size", summary.ideal_bytes),
    ]
    known = [(name, size) for name, size in sizes if size is not None]
    longest = max(size for _, size in known)
    return [(name, count(size), round(100 * size / longest, 2)) for name, size in known]


def _parts(summary: Summary) -> list[dict[str, Any]]:
    """Returns the bytes of the file by purpose, with their share in percent; empty without a file."""
    if summary.file_bytes is None:
        return []
    return [
        {
            "name": PART_NAMES[key],
            "bytes": count(size),
            "share": round(100 * size / summary.file_bytes, 2),
            "key": key.split()[0],
        }
        for key, size in summary.parts.items()
        if size
    ]


def _summary(name: str, part: CompressionRecord | Summary) -> Summary:
    """Returns the summary of a record with at least one compressed tensor."""
    summary = part if isinstance(part, Summary) else summarize(part)
    if not summary.tensors:
        received = f"the record {name!r}, which has no compressed tensors"
        raise ValueError(invalid_part("records", "records with compressed tensors", received, "Leave it out"))
    return summary
