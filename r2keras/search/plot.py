"""Plot of a search: quality against bytes, with the Pareto front and the widened float controls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from r2keras._util.errors import invalid
from r2keras._util.files import replacing
from r2keras._util.text import count
from r2keras.report.figures.axes import byte_ticks
from r2keras.report.figures.svg import FAINT, GRID, INK, LIMIT, MARKERS, PLAIN, SERIES, new_figure, plain_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from r2keras.search.settings import Search

# Keyword arguments of a matplotlib artist, and one row of a search.
Style = dict[str, Any]
CandidateRow = dict[str, Any]
# Width and height in inches.
SIZE = (7.2, 4.4)
DOTS_PER_INCH = 150


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
    """Draws the finished candidates of a search: color by method, marker by width, bits next to the point.

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
        _draw_controls(axes, outcome)
        _draw_front(axes, outcome)
        _draw_points(axes, [row for row in finished if row not in outcome.controls], outcome.search.metric)
        _draw_limits(axes, outcome)
        _finish(axes, finished, outcome.search)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=DOTS_PER_INCH, metadata={"Title": _describe(outcome)})


def _draw_points(axes: Axes, rows: list[CandidateRow], metric: str) -> None:
    """Draws the compressed candidates, with a legend entry for each method and each width."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    widths = sorted({row["width"] for row in rows})
    for row in rows:
        color = PLAIN[SERIES[methods.index(row["method"]) % len(SERIES)]]
        marker = MARKERS[widths.index(row["width"]) % len(MARKERS)]
        point = row["bytes"], row[metric]
        axes.plot(*point, marker, color=color, markersize=6.5, alpha=0.9, markeredgewidth=0, zorder=4)
        axes.annotate(f"{row['num_bits']}b", point, (4, 4), textcoords="offset points", fontsize=7, color=PLAIN[FAINT])
    for index, method in enumerate(methods):
        axes.plot([], [], "o", color=PLAIN[SERIES[index % len(SERIES)]], markeredgewidth=0, label=method)
    for index, width in enumerate(widths):
        axes.plot([], [], MARKERS[index % len(MARKERS)], color=PLAIN[FAINT], label=f"width {width:g}")


def _draw_controls(axes: Axes, outcome: _Outcome) -> None:
    """Draws the float controls as a line, each labeled with its width."""
    points = [(row["bytes"], row[outcome.search.metric]) for row in outcome.controls]
    line: Style = {"color": PLAIN[INK], "marker": "o", "markerfacecolor": "none", "linestyle": (0, (5, 2))}
    axes.plot([x for x, _ in points], [y for _, y in points], label="float, widened", linewidth=1.0, zorder=3, **line)
    for row, point in zip(outcome.controls, points, strict=True):
        text = f"\u00d7{row['width']:g}"
        axes.annotate(text, point, (4, -10), textcoords="offset points", fontsize=7, color=PLAIN[INK])


def _draw_front(axes: Axes, outcome: _Outcome) -> None:
    """Draws the Pareto front as a step line and a circle around the recommended candidate."""
    front, metric = outcome.front, outcome.search.metric
    line: Style = {"color": PLAIN[FAINT], "linewidth": 1.2, "linestyle": (0, (1, 2)), "drawstyle": "steps-post"}
    axes.plot([row["bytes"] for row in front], [row[metric] for row in front], label="Pareto front", zorder=2, **line)
    if outcome.chosen is not None:
        point = [outcome.chosen["bytes"]], [outcome.chosen[metric]]
        circle: Style = {"markersize": 14, "markerfacecolor": "none", "markeredgecolor": PLAIN[INK]}
        axes.plot(*point, "o", markeredgewidth=1.5, linestyle="none", zorder=5, label="recommended", **circle)


def _draw_limits(axes: Axes, outcome: _Outcome) -> None:
    """Draws the byte budget and the lowest quality that `max_drop` allows."""
    search = outcome.search
    line: Style = {"color": PLAIN[LIMIT], "linewidth": 1.0, "linestyle": (0, (5, 3)), "zorder": 1}
    if search.max_bytes is not None:
        axes.axvline(search.max_bytes, label="limits", **line)
    if search.max_drop is not None and outcome.baseline is not None:
        base = outcome.baseline[search.metric]
        limit = base * (1 + search.max_drop) if search.metric == "perplexity" else base - search.max_drop
        # One legend entry stands for both limits.
        axes.axhline(limit, label=None if search.max_bytes else "limits", **line)


def _finish(axes: Axes, finished: list[CandidateRow], search: Search) -> None:
    """Sets scales, ticks, labels and legend; better is up for both metrics."""
    sizes = [row["bytes"] for row in finished]
    if search.max_bytes:
        sizes.append(search.max_bytes)
    byte_ticks(axes, min(sizes) / 1.25, max(sizes) * 1.25, most=8)
    axes.set_xlabel("bytes of the weights (log scale)")
    if search.metric == "perplexity":
        axes.invert_yaxis()
        if max(row["perplexity"] for row in finished) > 4 * min(row["perplexity"] for row in finished):
            axes.set_yscale("log")
        axes.set_ylabel("validation perplexity (lower is better)")
    else:
        axes.set_ylabel("validation accuracy")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    axes.grid(True, axis="y", color=PLAIN[GRID])
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _describe(outcome: _Outcome) -> str:
    """Returns the content of the plot as text."""
    metric = outcome.search.metric
    front = (f"{r['label']}: {outcome.value_text(r[metric])} in {count(r['bytes'])} bytes" for r in outcome.front)
    return f"{metric.capitalize()} against bytes. Pareto front: {'; '.join(front)}."
