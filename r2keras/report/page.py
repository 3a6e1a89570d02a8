"""The HTML report: recommendation, plots, tables and settings on one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util.errors import invalid, invalid_part, missing
from r2keras._util.files import atomic_write_text
from r2keras._util.tables import shape_text
from r2keras._util.text import DASH, MIN_FLOAT_BITS, bits, count, number, percent, points
from r2keras.record import CompressionRecord, PalettizedTensor, Tensor
from r2keras.report.figures.accuracy import (
    accuracy_against_bits,
    accuracy_against_bytes,
    method_colors,
    regularizer_markers,
)
from r2keras.report.figures.histogram import histogram
from r2keras.report.figures.occupancy import occupancy
from r2keras.report.figures.svg import MARKER_GLYPHS, MARKERS, VARIABLES
from r2keras.report.groups import Group, float_baseline, group, pareto
from r2keras.report.recommendation import Recommendation
from r2keras.report.results import COLUMNS
from r2keras.report.routes import ROUTE_COLUMNS, Routes, route_cells
from r2keras.report.summary import Summary, TensorSummary, summarize
from r2keras.report.summary_tables import PALETTE_COLUMNS, activation_rows, palette_cells, range_cells, stored_text
from r2keras.report.tables import RESULT_COLUMNS, result_cells

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

# Widths in inches. Text of a plot scaled down to a phone is too small to read, so each plot is drawn for both widths.
WIDE, NARROW = 10.4, 4.4
# Columns that are hidden on a narrow screen.
WIDE_COLUMNS = ("n", "float %", "Keras %", "ms", "max/std")
PART_NAMES = {
    "codes": "codes at their ideal size",
    "wider container": "padding to the width of the container",
    "scales": "scales, zero points, tables",
    "rest": "float values, graph, metadata",
}


def write_html(
    path: str | os.PathLike,
    rows: Iterable[Mapping[str, Any]],
    *,
    recommendation: Recommendation | None = None,
    records: Mapping[str, CompressionRecord | Summary] | None = None,
    title: str = "Compression report",
    settings: Mapping[str, Any] | None = None,
    routes: Mapping[str, Routes] | None = None,
) -> None:
    """Writes a self-contained HTML report, without scripts or network access.

    The page adapts to light and dark mode and to wide and narrow screens. The same arguments give the same bytes. All
    names are escaped.

    Args:
        path: the file to write. The write is atomic.
        rows: result rows of one dataset and one model.
        recommendation: the result of `recommend` for these rows, shown first. None leaves it out.
        records: compressed models to show in detail, by their name on the page: a record, or a `Summary` to include
            the sizes in the file (`summarize(record, file)`).
        title: heading of the page.
        settings: what is needed to reproduce the numbers, such as `command`, seeds, hardware, versions; any JSON
            values.
        routes: results of `compare_routes`, by their heading on the page.

    Raises:
        ValueError: no rows, an invalid row, or a record without tensors.
        TypeError: an argument or a value has the wrong type.
        OSError: the file cannot be written; an existing file remains unchanged.
        ImportError: jinja2 or matplotlib is not installed.

    Example:

    >>> import tempfile
    >>> row = dict(regularizer="linf", method="qat", num_bits=2, seed=0, float_accuracy=0.98, accuracy=0.97,
    ...            file_accuracy=0.97, file_bytes=27912, ideal_bytes=20000, latency_ms=0.2, max_over_std=2.5, path="a")
    >>> path = os.path.join(tempfile.mkdtemp(), "report.html")
    >>> write_html(path, [row], title="Digits")
    >>> "<title>Digits</title>" in Path(path).read_text(encoding="utf-8")
    True
    """
    if recommendation is not None and not isinstance(recommendation, Recommendation):
        raise TypeError(invalid("recommendation", "the result of `recommend`, or None", recommendation))
    groups = group(rows)
    page = _template().render(
        title=title,
        variables=sorted(VARIABLES.values()),
        subtitle=_subtitle(groups),
        recommendation=_recommendation_context(recommendation),
        plots=_plots(groups, recommendation),
        legend=_legend(groups, recommendation),
        results=_results_context(groups, recommendation),
        runs=_runs(groups),
        records=_records(records or {}),
        settings=_settings(settings or {}),
        routes={"columns": ROUTE_COLUMNS, "tables": _routes(routes or {})},
    )
    atomic_write_text(path, page)


def _template() -> Template:
    """Returns the template of the page, which escapes every value."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(missing("jinja2", "An HTML report", "report")) from error
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2")


def _summary(name: str, part: CompressionRecord | Summary) -> Summary:
    """Returns the summary of a record with at least one compressed tensor."""
    summary = part if isinstance(part, Summary) else summarize(part)
    if not summary.tensors:
        received = f"the record {name!r}, which has no compressed tensors"
        raise ValueError(invalid_part("records", "records with compressed tensors", received, "Leave it out"))
    return summary


def _subtitle(groups: list[Group]) -> str:
    """Returns dataset, model and number of runs in one line."""
    first = groups[0].rows[0]
    seeds = {row["seed"] for g in groups for row in g.rows}
    runs = sum(len(g.rows) for g in groups)
    about = [str(first[name]) for name in ("dataset", "model") if first.get(name) is not None]
    about.append(f"{_plural(len(groups), 'setting')} over {_plural(len(seeds), 'seed')}, {_plural(runs, 'run')}")
    return " \u00b7 ".join(about)


def _plural(n: int, word: str) -> str:
    """Returns a number and a noun, in the plural unless the number is 1."""
    return f"{n} {word}" + ("" if n == 1 else "s")


def _recommendation_context(recommendation: Recommendation | None) -> dict[str, Any] | None:
    """Returns heading and sentences and, if a group was chosen, four figures of it."""
    if recommendation is None:
        return None
    part = recommendation.chosen
    if part is None:
        return {
            "found": False,
            "heading": "No result meets the limits",
            "limits": recommendation.limits,
            "facts": [],
            # The first sentence says the same as the heading.
            "sentences": recommendation.sentences[1:],
        }
    drop = recommendation.drop(part)
    facts = [
        ("bytes in the file", count(part.file_bytes)),
        ("accuracy", percent(part.score.mean)),
        ("below float" if drop >= 0 else "above float", points(abs(drop))),
        ("weights", bits(part.num_bits)),
    ]
    return {
        "found": True,
        "heading": f"Recommended: {part.label}",
        "limits": recommendation.limits,
        "facts": facts,
        "sentences": recommendation.sentences,
    }


def _plots(groups: list[Group], recommendation: Recommendation | None) -> dict[str, Any]:
    """Returns both accuracy plots, each wide and narrow; None for a plot without points."""
    by_bytes = {
        "wide": accuracy_against_bytes(groups, recommendation, name="bytes-w", size=(WIDE, 4.6)),
        "narrow": accuracy_against_bytes(groups, recommendation, name="bytes-n", size=(NARROW, 4.4)),
    }
    by_bits = {
        "wide": accuracy_against_bits(groups, name="bits-w", columns=3, width=WIDE),
        "narrow": accuracy_against_bits(groups, name="bits-n", columns=2, width=NARROW),
    }
    return {name: plot if plot["wide"] else None for name, plot in (("bytes", by_bytes), ("bits", by_bits))}


def _legend(groups: list[Group], recommendation: Recommendation | None) -> dict[str, Any]:
    """Returns the colors of the methods and the glyphs of the regularizers."""
    glyphs = dict(zip(MARKERS, MARKER_GLYPHS, strict=True))
    colors = {name: VARIABLES[color] for name, color in method_colors(groups).items()}
    quantized = {g.method for g in groups if g.num_bits < MIN_FLOAT_BITS}
    return {
        "methods": list(colors.items()),
        "quantized": [(name, color) for name, color in colors.items() if name in quantized],
        "regularizers": [(name, glyphs[marker]) for name, marker in regularizer_markers(groups).items()],
        "limits": recommendation is not None and recommendation.limited,
        "chosen": recommendation is not None and recommendation.chosen is not None,
    }


def _results_context(groups: list[Group], recommendation: Recommendation | None) -> dict[str, Any]:
    """Returns the table of groups: the cells and the highlighted lines."""
    front = pareto(groups)
    chosen = recommendation.chosen.key if recommendation and recommendation.chosen else None
    previous = [groups[0], *groups]
    lines = [
        {
            "cells": result_cells(part),
            "chosen": part.key == chosen,
            "front": part in front,
            "first": part.regularizer != before.regularizer,
        }
        for part, before in zip(groups, previous, strict=False)
    ]
    baseline = float_baseline(groups)
    text = f"{percent(baseline.accuracy.mean)} (regularizer {baseline.regularizer})"
    return {"columns": RESULT_COLUMNS, "more": WIDE_COLUMNS, "lines": lines, "baseline": text}


def _runs(groups: list[Group]) -> dict[str, Any]:
    """Returns the table of individual runs, with all columns of the rows."""
    rows = [row for g in groups for row in g.rows]
    extra = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in COLUMNS]
    columns = [*COLUMNS, *extra]
    return {"columns": columns, "lines": [[_run_cell(name, row.get(name)) for name in columns] for row in rows]}


def _run_cell(name: str, value: object) -> str:
    """Returns one value of one run as text."""
    if value is None:
        return DASH
    if isinstance(value, (int, float)) and name.endswith("accuracy"):
        return percent(value)
    if isinstance(value, (int, float)) and name.endswith("_bytes"):
        return count(value)
    return number(value) if isinstance(value, float) else str(value)


def _routes(routes: Mapping[str, Routes]) -> list[tuple[str, list[list[str]]]]:
    """Returns heading and lines of each comparison of files."""
    return [(str(name), [route_cells(row) for row in part.rows]) for name, part in routes.items()]


def _records(records: Mapping[str, CompressionRecord | Summary]) -> list[dict[str, Any]]:
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


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the command and the other settings as text."""
    rest = [(str(name), _setting_text(value)) for name, value in settings.items() if name != "command"]
    return {"command": settings.get("command"), "rest": rest}


def _setting_text(value: object) -> str:
    """Returns a setting as text: lists with commas, dictionaries with their keys."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting_text(part)}" for name, part in value.items())
    return ", ".join(map(_setting_text, value)) if isinstance(value, (list, tuple)) else str(value)
