"""Plots of a compression: the sensitivity of each layer, and quality against bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from r2keras._util.shown import cut
from r2keras._util.text import count
from r2keras.report.figures.axes import accuracy_scale, byte_ticks
from r2keras.report.figures.labels import place_labels
from r2keras.report.figures.svg import (
    FAINT,
    GRID,
    INK,
    LIMIT,
    MARKERS,
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

LONGEST_NAME = 28
# Inches.
WIDTH, ROW_HEIGHT, MARGIN = 8.0, 0.2, 1.1
# The smallest error that has a place on the log axis.
SMALLEST = 1e-9
LABELED = 12


class _SensitivityRow(Protocol):
    """One row of a sensitivity."""

    @property
    def layer(self) -> str: ...
    @property
    def option(self) -> str: ...
    @property
    def error(self) -> float: ...


class _Limits(Protocol):
    """What a compression asked for."""

    @property
    def max_bytes(self) -> int | None: ...
    @property
    def max_drop(self) -> float | None: ...


def write_sensitivity(rows: Sequence[_SensitivityRow], path: str | os.PathLike) -> None:
    """Writes the plot of a sensitivity as `.svg` or `.png`."""
    with plain_style():
        figure = _sensitivity_figure(rows, PLAIN)
        write_plain(figure, path, title="Output error when one layer alone is compressed")


def sensitivity_svg(rows: Sequence[_SensitivityRow], name: str) -> Markup:
    """Returns the plot of a sensitivity as inline SVG."""
    with style():
        text = "Output error when one layer alone is compressed, by layer."
        return to_svg(_sensitivity_figure(rows, {}), name, text)


def _sensitivity_figure(rows: Sequence[_SensitivityRow], colors: dict[str, str]) -> Figure:
    """Draws one row of points per layer, one series per option."""
    layers = list(dict.fromkeys(row.layer for row in rows))
    options = list(dict.fromkeys(row.option for row in rows))
    figure = new_figure(WIDTH, MARGIN + ROW_HEIGHT * len(layers))
    axes = figure.add_subplot()
    for index, option in enumerate(options):
        found = [row for row in rows if row.option == option]
        axes.plot(
            [max(row.error, SMALLEST) for row in found],
            [layers.index(row.layer) for row in found],
            MARKERS[index % len(MARKERS)],
            color=colors.get(SERIES[index % len(SERIES)], SERIES[index % len(SERIES)]),
            markersize=5.5,
            markeredgewidth=0,
            label=option,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(range(len(layers)), [cut(layer, LONGEST_NAME) for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.grid(True, axis="both", color=colors.get(GRID, GRID))
    axes.set_xlabel("divergence of the outputs from the float model's (log scale)")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def write_front(
    rows: Sequence[dict[str, Any]], float_row: dict[str, Any], limits: _Limits, path: str | os.PathLike
) -> None:
    """Writes quality against bytes as `.svg` or `.png`."""
    with plain_style():
        figure = _front_figure(rows, float_row, limits, PLAIN)
        write_plain(figure, path, title="Quality against bytes of the file")


def front_svg(rows: Sequence[dict[str, Any]], float_row: dict[str, Any], limits: _Limits, name: str) -> Markup:
    """Returns quality against bytes as inline SVG."""
    with style():
        return to_svg(_front_figure(rows, float_row, limits, {}), name, "Quality against bytes of the file.")


def _front_figure(
    rows: Sequence[dict[str, Any]], float_row: dict[str, Any], limits: _Limits, colors: dict[str, str]
) -> Figure:
    """Draws the candidates, one series per set of steps, the Pareto front, and the limits."""
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    every = [float_row, *rows]
    lowest = [float_row["quality"] - limits.max_drop] if limits.max_drop is not None else []
    scale = accuracy_scale(axes, [row["quality"] for row in every] + lowest)
    kinds = list(dict.fromkeys(row["steps"] for row in every))
    for index, kind in enumerate(kinds):
        found = [row for row in every if row["steps"] == kind]
        color = SERIES[index % len(SERIES)]
        axes.plot(
            [row["bytes"] for row in found],
            [scale(row["quality"]) for row in found],
            MARKERS[index % len(MARKERS)],
            color=colors.get(color, color),
            markeredgewidth=0,
            label=kind,
        )
    front = front_of(every)
    points = [row["bytes"] for row in front], [scale(row["quality"]) for row in front]
    line: dict[str, Any] = {"color": colors.get(FAINT, FAINT), "linestyle": (0, (1, 2)), "drawstyle": "steps-post"}
    axes.plot(*points, linewidth=1.2, zorder=1, label="Pareto front", **line)
    _draw_limits(axes, float_row, limits, scale, colors)
    sizes = [row["bytes"] for row in every] + ([limits.max_bytes] if limits.max_bytes else [])
    byte_ticks(axes, min(sizes) / 1.4, max(sizes) * 1.3, most=7)
    axes.set_xlabel("bytes of the file (log scale)")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    labels = [((row["bytes"], scale(row["quality"])), [row["name"], count(row["bytes"])]) for row in front[:LABELED]]
    place_labels(axes, labels, [point for point, _ in labels], color=colors.get(INK, INK))
    return figure


def _draw_limits(
    axes: Any, float_row: dict[str, Any], limits: _Limits, scale: Callable[[float], float], colors: dict[str, str]
) -> None:
    """Draws the most bytes and the least quality."""
    line: dict[str, Any] = {"color": colors.get(LIMIT, LIMIT), "linewidth": 1.0, "linestyle": (0, (5, 3)), "zorder": 1}
    if limits.max_bytes is not None:
        axes.axvline(limits.max_bytes, label="limits", **line)
    if limits.max_drop is not None:
        label = None if limits.max_bytes is not None else "limits"
        axes.axhline(scale(float_row["quality"] - limits.max_drop), label=label, **line)


def front_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows that no other one beats in bytes and quality, fewest bytes first.

    >>> rows = [{"bytes": 9, "quality": 0.9}, {"bytes": 5, "quality": 0.8}, {"bytes": 6, "quality": 0.7}]
    >>> [row["bytes"] for row in front_of(rows)]
    [5, 9]
    """
    front: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["bytes"], -row["quality"])):
        if not front or row["quality"] > front[-1]["quality"]:
            front.append(row)
    return front
