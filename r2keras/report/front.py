"""The plot of a search: quality against bytes, the front, and the widened float controls beside it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from r2keras._errors import invalid
from r2keras._files import replacing
from r2keras.report._format import count
from r2keras.report.axes import byte_ticks
from r2keras.report.svg import FAINT, GRID, INK, LIMIT, MARKERS, PLAIN, SERIES, new_figure, plain_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from r2keras.search.outcome import Outcome, Row

Look = dict[str, Any]
SIZE = (7.2, 4.4)
DOTS_PER_INCH = 150


def write_front(outcome: Outcome, path: str | os.PathLike) -> None:
    """Draws the finished candidates of a search: colour by method, marker by width, bits beside the point.

    Args:
        outcome: what the search found.
        path: a file name ending in `.png` or `.svg`; written whole or not at all.

    Raises:
        ValueError: no candidate is finished.
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    done = [row for row in outcome.rows if row["state"] == "complete"]
    if not done:
        raise ValueError(invalid("outcome", "at least one finished candidate", [], "Let the search run"))
    with plain_style():
        figure = new_figure(*SIZE)
        axes = figure.add_subplot()
        _draw_controls(axes, outcome)
        _draw_front(axes, outcome)
        _draw_points(axes, outcome, [row for row in done if row not in outcome.controls])
        _draw_limits(axes, outcome)
        _finish(axes, outcome, done)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=DOTS_PER_INCH, metadata={"Title": _described(outcome)})


def _draw_points(axes: Axes, outcome: Outcome, rows: list[Row]) -> None:
    """Draws the compressed candidates, with one entry of the legend for each method and width."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    widths = sorted({row["width"] for row in rows})
    for row in rows:
        color = PLAIN[SERIES[methods.index(row["method"]) % len(SERIES)]]
        marker = MARKERS[widths.index(row["width"]) % len(MARKERS)]
        place = row["bytes"], row[outcome.search.metric]
        axes.plot(*place, marker, color=color, markersize=6.5, alpha=0.9, markeredgewidth=0, zorder=4)
        axes.annotate(f"{row['num_bits']}b", place, (4, 4), textcoords="offset points", fontsize=7, color=PLAIN[FAINT])
    for index, method in enumerate(methods):
        axes.plot([], [], "o", color=PLAIN[SERIES[index % len(SERIES)]], markeredgewidth=0, label=method)
    for index, width in enumerate(widths):
        axes.plot([], [], MARKERS[index % len(MARKERS)], color=PLAIN[FAINT], label=f"width {width:g}")


def _draw_controls(axes: Axes, outcome: Outcome) -> None:
    """Joins the float controls, each with its width."""
    rows, metric = outcome.controls, outcome.search.metric
    places = [(row["bytes"], row[metric]) for row in rows]
    look: Look = {"color": PLAIN[INK], "marker": "o", "markerfacecolor": "none", "linestyle": (0, (5, 2))}
    axes.plot([x for x, _ in places], [y for _, y in places], label="float, widened", linewidth=1.0, zorder=3, **look)
    for row, place in zip(rows, places, strict=True):
        text = f"\u00d7{row['width']:g}"
        axes.annotate(text, place, (4, -10), textcoords="offset points", fontsize=7, color=PLAIN[INK])


def _draw_front(axes: Axes, outcome: Outcome) -> None:
    """Joins the candidates that no other beats in both, as stairs, and rings the one to take."""
    front, metric = outcome.front, outcome.search.metric
    look: Look = {"color": PLAIN[FAINT], "linewidth": 1.2, "linestyle": (0, (1, 2)), "drawstyle": "steps-post"}
    axes.plot([row["bytes"] for row in front], [row[metric] for row in front], label="front", zorder=2, **look)
    if outcome.chosen is not None:
        place = [outcome.chosen["bytes"]], [outcome.chosen[metric]]
        ring: Look = {"markersize": 14, "markerfacecolor": "none", "markeredgecolor": PLAIN[INK], "linestyle": "none"}
        axes.plot(*place, "o", markeredgewidth=1.5, zorder=5, label="take", **ring)


def _draw_limits(axes: Axes, outcome: Outcome) -> None:
    """Draws the budget, and the value that the allowed loss leads to."""
    search = outcome.search
    look: Look = {"color": PLAIN[LIMIT], "linewidth": 1.0, "linestyle": (0, (5, 3)), "zorder": 1}
    if search.max_bytes is not None:
        axes.axvline(search.max_bytes, label="limits", **look)
    if search.max_drop is not None and outcome.baseline is not None:
        base = outcome.baseline[search.metric]
        least = base * (1 + search.max_drop) if search.metric == "perplexity" else base - search.max_drop
        axes.axhline(least, label=None if search.max_bytes else "limits", **look)


def _finish(axes: Axes, outcome: Outcome, done: list[Row]) -> None:
    """Sets scales, ticks, labels and legend; better is up for either metric."""
    sizes = [row["bytes"] for row in done] + ([outcome.search.max_bytes] if outcome.search.max_bytes else [])
    byte_ticks(axes, min(sizes) / 1.25, max(sizes) * 1.25, most=8)
    axes.set_xlabel("bytes of the weights (log scale)")
    if outcome.search.metric == "perplexity":
        axes.invert_yaxis()
        if max(row["perplexity"] for row in done) > 4 * min(row["perplexity"] for row in done):
            axes.set_yscale("log")
        axes.set_ylabel("validation perplexity (less is better)")
    else:
        axes.set_ylabel("validation accuracy")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    axes.grid(True, axis="y", color=PLAIN[GRID])
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _described(outcome: Outcome) -> str:
    """Returns the plot's content in words."""
    metric = outcome.search.metric
    told = (f"{r['label']}: {outcome.value_text(r[metric])} in {count(r['bytes'])} bytes" for r in outcome.front)
    return f"{metric.capitalize()} against bytes. None beats: {'; '.join(told)}."
