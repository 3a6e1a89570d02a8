"""Plot of a search: quality against bytes, with the Pareto front and the widened float controls."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from r2keras._util.errors import invalid
from r2keras._util.text import bits, count
from r2keras.report.figures.axes import accuracy_scale, byte_ticks
from r2keras.report.figures.labels import along_steps, place_labels
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
    write_plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from r2keras.search.settings import Search

# Keyword arguments of a matplotlib artist, and one row of a search.
Style = dict[str, Any]
CandidateRow = dict[str, Any]
# Width and height in inches.
SIZE = (7.2, 4.4)
# The function that maps a value of the metric to its position on the axis.
Scale = Callable[[float], float]


class _Outcome(Protocol):
    """The rows of a search, as `Outcome` describes them."""

    @property
    def search(self) -> Search: ...
    @property
    def rows(self) -> Sequence[CandidateRow]: ...
    @property
    def controls(self) -> Sequence[CandidateRow]: ...
    @property
    def baseline(self) -> CandidateRow | None: ...
    @property
    def front(self) -> Sequence[CandidateRow]: ...
    @property
    def chosen(self) -> CandidateRow | None: ...
    def value_text(self, value: float | None) -> str: ...


def write_front(outcome: _Outcome, path: str | os.PathLike) -> None:
    """Draws the finished candidates of a search: color by method, marker by width, bits and width beside the point.

    If accuracies are far apart, their axis is stretched toward the best.

    Args:
        outcome: the result of the search.
        path: a file name ending in `.png` or `.svg`. The write is atomic.

    Raises:
        ValueError: no candidate is finished.
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    finished = [row for row in outcome.rows if row["state"] == "complete"]
    if not finished:
        raise ValueError(invalid("outcome", "at least one finished candidate", [], "Continue the search with `run`"))
    with plain_style():
        figure = new_figure(*SIZE)
        axes = figure.add_subplot()
        candidates = [row for row in finished if row not in outcome.controls]
        scale = _quality_axis(axes, finished, outcome)
        _draw_controls(axes, outcome, scale)
        _draw_front(axes, outcome, scale)
        _draw_points(axes, candidates, outcome.search.metric, scale)
        _draw_limits(axes, outcome, scale)
        _finish(axes, finished, outcome.search)
        _label(axes, outcome, candidates, scale)
        title = f"{outcome.search.metric.capitalize()} against bytes of the weights"
        write_plain(figure, path, title=title, description=_describe(outcome))


def _draw_points(axes: Axes, rows: list[CandidateRow], metric: str, scale: Scale) -> None:
    """Draws the compressed candidates, with a legend entry for each method and each width."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    widths = sorted({row["width"] for row in rows})
    for row in rows:
        color = PLAIN[SERIES[methods.index(row["method"]) % len(SERIES)]]
        marker = MARKERS[widths.index(row["width"]) % len(MARKERS)]
        axes.plot(row["bytes"], scale(row[metric]), marker, color=color, markersize=6.5, markeredgewidth=0, zorder=4)
    for index, method in enumerate(methods):
        axes.plot([], [], "o", color=PLAIN[SERIES[index % len(SERIES)]], markeredgewidth=0, label=method)
    for index, width in enumerate(widths):
        axes.plot([], [], MARKERS[index % len(MARKERS)], color=PLAIN[FAINT], label=f"width {width:g}")


def _draw_controls(axes: Axes, outcome: _Outcome, scale: Scale) -> None:
    """Draws the float controls as a line."""
    points = [(row["bytes"], scale(row[outcome.search.metric])) for row in outcome.controls]
    line: Style = {"color": PLAIN[INK], "marker": "o", "markerfacecolor": "none", "linestyle": (0, (5, 2))}
    axes.plot([x for x, _ in points], [y for _, y in points], label="float, widened", linewidth=1.0, zorder=3, **line)


def _label(axes: Axes, outcome: _Outcome, candidates: list[CandidateRow], scale: Scale) -> None:
    """Writes bits and width beside the points: first of the front, then of the controls and the others."""
    metric = outcome.search.metric
    rows = [*outcome.front, *outcome.controls, *(row for row in candidates if not row["on_front"])]
    points = [(row["bytes"], scale(row[metric])) for row in rows]
    names = [f"\u00d7{row['width']:g}" for row in rows]
    controls = len(outcome.front), len(outcome.front) + len(outcome.controls)
    for index, row in enumerate(rows):
        if not controls[0] <= index < controls[1]:
            names[index] = f"{bits(row['num_bits'])}, {names[index]}"
    obstacles = [*points, *along_steps(points[: controls[0]])]
    labels = [(point, [name]) for point, name in zip(points, names, strict=True)]
    place_labels(axes, labels, obstacles, color=PLAIN[INK])


def _draw_front(axes: Axes, outcome: _Outcome, scale: Scale) -> None:
    """Draws the Pareto front as a step line and a circle around the recommended candidate."""
    front, metric = outcome.front, outcome.search.metric
    line: Style = {"color": PLAIN[FAINT], "linewidth": 1.2, "linestyle": (0, (1, 2)), "drawstyle": "steps-post"}
    points = [row["bytes"] for row in front], [scale(row[metric]) for row in front]
    axes.plot(*points, label="Pareto front", zorder=2, **line)
    if outcome.chosen is not None:
        point = [outcome.chosen["bytes"]], [scale(outcome.chosen[metric])]
        circle: Style = {"markersize": 14, "markerfacecolor": "none", "markeredgecolor": PLAIN[INK]}
        axes.plot(*point, "o", markeredgewidth=1.5, linestyle="none", zorder=5, label="recommended", **circle)


def _draw_limits(axes: Axes, outcome: _Outcome, scale: Scale) -> None:
    """Draws the byte budget and the lowest quality that `max_drop` allows."""
    search = outcome.search
    line: Style = {"color": PLAIN[LIMIT], "linewidth": 1.0, "linestyle": (0, (5, 3)), "zorder": 1}
    if search.max_bytes is not None:
        axes.axvline(search.max_bytes, label="limits", **line)
    if search.max_drop is not None and outcome.baseline is not None:
        base = outcome.baseline[search.metric]
        limit = base * (1 + search.max_drop) if search.metric == "perplexity" else base - search.max_drop
        # One legend entry stands for both limits.
        axes.axhline(scale(limit), label=None if search.max_bytes else "limits", **line)


def _quality_axis(axes: Axes, finished: list[CandidateRow], outcome: _Outcome) -> Scale:
    """Sets up the axis of the metric, better values above, and returns its scale."""
    search = outcome.search
    values = [row[search.metric] for row in finished]
    axes.grid(True, axis="y", color=PLAIN[GRID])
    axes.set_ylabel("validation accuracy" if search.metric == "accuracy" else "validation perplexity (lower is better)")
    if search.metric == "accuracy":
        base = outcome.baseline["accuracy"] if outcome.baseline is not None else values[0]
        scale = accuracy_scale(axes, [*values, max(0.0, base - (search.max_drop or 0.0))])
        axes.grid(True, axis="y", color=PLAIN[GRID])
        return scale
    axes.invert_yaxis()
    if max(values) > 4 * min(values):
        axes.set_yscale("log")
    return lambda value: value


def _finish(axes: Axes, finished: list[CandidateRow], search: Search) -> None:
    """Sets the axis of bytes and the legend."""
    sizes = [row["bytes"] for row in finished]
    if search.max_bytes:
        sizes.append(search.max_bytes)
    byte_ticks(axes, min(sizes) / 1.6, max(sizes) * 1.4, most=7)
    axes.set_xlabel("bytes of the weights (log scale)")
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _describe(outcome: _Outcome) -> str:
    """Returns the content of the plot as text."""
    metric = outcome.search.metric
    front = (f"{r['label']}: {outcome.value_text(r[metric])} in {count(r['bytes'])} bytes" for r in outcome.front)
    return f"{metric.capitalize()} against bytes. Pareto front: {'; '.join(front)}."
