"""Plot of a comparison: signal to quantization noise by layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from r2keras._util.shown import cut
from r2keras.report.figures.svg import (
    FAINT,
    GRID,
    LIMIT,
    PLAIN,
    SERIES,
    new_figure,
    plain_style,
    style,
    to_svg,
    write_plain,
)

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

TITLE = "Signal to quantization noise of each layer's output"
# Decibels; equal outputs have more.
MOST = 100.0
LONGEST_NAME = 28
# Inches.
WIDTH, ROW_HEIGHT, MARGIN = 8.0, 0.2, 1.0


class _ComparedLayer(Protocol):
    """One row of a comparison."""

    @property
    def layer(self) -> str: ...
    @property
    def sqnr_db(self) -> float | None: ...


def write_comparison(rows: Sequence[_ComparedLayer], min_sqnr_db: float, path: str | os.PathLike) -> None:
    """Writes the plot as `.svg` or `.png`."""
    with plain_style():
        write_plain(_figure(rows, min_sqnr_db, PLAIN), path, title=TITLE)


def comparison_svg(rows: Sequence[_ComparedLayer], min_sqnr_db: float, name: str) -> Markup:
    """Returns the plot as inline SVG."""
    with style():
        return to_svg(_figure(rows, min_sqnr_db, {}), name, f"{TITLE}, by layer.")


def _figure(rows: Sequence[_ComparedLayer], min_sqnr_db: float, colors: dict[str, str]) -> Figure:
    """Draws one bar per layer that has a counterpart, in the order in which they run."""
    found = [(row.layer, min(row.sqnr_db, MOST)) for row in rows if row.sqnr_db is not None]
    figure = new_figure(WIDTH, MARGIN + ROW_HEIGHT * max(len(found), 1))
    axes = figure.add_subplot()
    low, good = LIMIT, SERIES[0]
    shades = [colors.get(low, low) if value < min_sqnr_db else colors.get(good, good) for _, value in found]
    axes.barh(range(len(found)), [value for _, value in found], color=shades, height=0.7)
    axes.set_yticks(range(len(found)), [cut(layer, LONGEST_NAME) for layer, _ in found])
    axes.set_ylim(max(len(found), 1) - 0.4, -0.6)
    axes.axvline(min_sqnr_db, color=colors.get(FAINT, FAINT), linewidth=1.0, linestyle=(0, (5, 3)))
    axes.grid(True, axis="x", color=colors.get(GRID, GRID))
    axes.set_xlabel("decibels; layers left of the dashed line depart")
    return figure
