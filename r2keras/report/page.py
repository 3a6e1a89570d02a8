"""The HTML report: recommendation, plots, tables and settings on one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util.errors import invalid, missing
from r2keras._util.files import atomic_write_text
from r2keras.record import CompressionRecord
from r2keras.report.figures.accuracy import accuracy_against_bits
from r2keras.report.figures.looks import method_colors, regularizer_markers
from r2keras.report.figures.scatter import accuracy_against_bytes, accuracy_against_latency
from r2keras.report.figures.svg import MARKER_GLYPHS, MARKERS, VARIABLES
from r2keras.report.groups import Group, group
from r2keras.report.names import method_name, regularizer_name
from r2keras.report.page_choice import recommendation_context
from r2keras.report.page_records import record_contexts
from r2keras.report.page_results import results_context, runs_context
from r2keras.report.recommendation import Recommendation
from r2keras.report.routes import ROUTE_COLUMNS, Routes, route_cells
from r2keras.report.summary import Summary

if TYPE_CHECKING:
    from jinja2 import Template

# Widths in inches. Text of a plot scaled down to a phone is too small to read, so each plot is drawn for both widths.
WIDE, NARROW = 10.4, 4.4


def write_html(
    path: str | os.PathLike,
    rows: Iterable[Mapping[str, Any]],
    *,
    recommendation: Recommendation | None = None,
    records: Mapping[str, CompressionRecord | Summary] | None = None,
    title: str = "Compression report",
    settings: Mapping[str, Any] | None = None,
    default_settings: Mapping[str, Any] | None = None,
    commands: Sequence[tuple[str, str]] = (),
    routes: Mapping[str, Routes] | None = None,
) -> None:
    """Writes a self-contained HTML report, which needs no network.

    The page adapts to light and dark mode, to wide and narrow screens and to print. A small inline script sorts and
    filters the tables; without scripts the page is complete too. Paths in the rows become relative links where the
    files exist. The same arguments give the same bytes. All names are escaped.

    Args:
        path: the file to write. The write is atomic.
        rows: result rows of one dataset and one model.
        recommendation: the result of `recommend` for these rows, shown first. None leaves it out.
        records: compressed models to show in detail, by their name on the page: a record, or a `Summary` to include
            the sizes in the file (`summarize(record, file)`).
        title: heading of the page.
        settings: what is needed to reproduce the numbers, such as `command`, seeds, hardware, versions; any JSON
            values.
        default_settings: further settings that have their default, folded away.
        commands: what to do next with the recommended file: pairs of a purpose and a command line.
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
    page = template("report.html.j2").render(
        title=title,
        variables=sorted(VARIABLES.values()),
        subtitle=_subtitle(groups),
        recommendation=recommendation_context(recommendation, groups, Path(path)),
        commands=list(commands),
        plots=_plots(groups, recommendation),
        legend=_legend(groups, recommendation),
        results=results_context(groups, recommendation, Path(path)),
        runs=runs_context(groups, Path(path)),
        records=record_contexts(records or {}),
        settings=_settings(settings or {}),
        defaults=_settings(default_settings or {})["rest"],
        routes={"columns": ROUTE_COLUMNS, "tables": _routes(routes or {})},
    )
    atomic_write_text(path, page)


def template(name: str) -> Template:
    """Returns a template of a page, which escapes every value."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(missing("jinja2", "An HTML report", "report")) from error
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)


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


def _plots(groups: list[Group], recommendation: Recommendation | None) -> dict[str, Any]:
    """Returns the accuracy plots, each wide and narrow; None for a plot without points."""
    by_bytes = {
        "wide": accuracy_against_bytes(groups, recommendation, name="bytes-w", size=(WIDE, 4.6)),
        "narrow": accuracy_against_bytes(groups, recommendation, name="bytes-n", size=(NARROW, 4.4)),
    }
    by_latency = {
        "wide": accuracy_against_latency(groups, recommendation, name="ms-w", size=(WIDE, 3.8)),
        "narrow": accuracy_against_latency(groups, recommendation, name="ms-n", size=(NARROW, 3.8)),
    }
    by_bits = {
        "wide": accuracy_against_bits(groups, name="bits-w", columns=3, width=WIDE),
        "narrow": accuracy_against_bits(groups, name="bits-n", columns=2, width=NARROW),
    }
    plots = {"bytes": by_bytes, "latency": by_latency, "bits": by_bits}
    return {name: plot if plot["wide"] else None for name, plot in plots.items()}


def _legend(groups: list[Group], recommendation: Recommendation | None) -> dict[str, Any]:
    """Returns the colors of the methods and the glyphs of the regularizers, in words."""
    glyphs = dict(zip(MARKERS, MARKER_GLYPHS, strict=True))
    colors = {name: VARIABLES[color] for name, color in method_colors(groups).items()}
    quantized = {g.method for g in groups if not g.is_float}
    markers = regularizer_markers(groups).items()
    return {
        "methods": [(method_name(name), color) for name, color in colors.items()],
        "quantized": [(method_name(name), color) for name, color in colors.items() if name in quantized],
        "regularizers": [(regularizer_name(name), glyphs[marker]) for name, marker in markers],
        "limits": recommendation is not None and recommendation.limited,
        "on_validation": recommendation is not None and recommendation.on_validation,
        "chosen": recommendation is not None and recommendation.chosen is not None,
        "interval": any(g.test_samples for g in groups),
    }


def _routes(routes: Mapping[str, Routes]) -> list[tuple[str, list[list[str]]]]:
    """Returns heading and lines of each comparison of files."""
    return [(str(name), [route_cells(row) for row in part.rows]) for name, part in routes.items()]


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the command and the other settings as text."""
    known = ((name, value) for name, value in settings.items() if name != "command")
    rest = [(str(name), _setting_text(value)) for name, value in known]
    return {"command": settings.get("command"), "rest": rest}


def _setting_text(value: object) -> str:
    """Returns a setting as text: lists with commas, dictionaries with their keys."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting_text(part)}" for name, part in value.items())
    return ", ".join(map(_setting_text, value)) if isinstance(value, (list, tuple)) else str(value)
