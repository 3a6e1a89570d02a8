"""Accuracy against bytes, and accuracy against bits for each regularizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from r2keras.report._format import FLOAT_BITS, bits, count, percent
from r2keras.report.axes import accuracy_axis, bytes_axis, ends, label_bits
from r2keras.report.groups import REFERENCE, Baseline, Group, float_baseline, pareto
from r2keras.report.recommendation import Recommendation
from r2keras.report.svg import FAINT, GOOD, INK, LIMIT, MARKERS, SERIES, new_figure, style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Files of one size stand side by side within this share of the axis to both sides.
SIDE = 0.022


def method_colors(groups: list[Group]) -> dict[str, str]:
    """Returns one colour per method, in the order of their first group."""
    return {m: SERIES[i % len(SERIES)] for i, m in enumerate(dict.fromkeys(g.method for g in groups))}


def regularizer_markers(groups: list[Group]) -> dict[str, str]:
    """Returns one marker per regularizer, in the order of their first group."""
    return {r: MARKERS[i % len(MARKERS)] for i, r in enumerate(dict.fromkeys(g.regularizer for g in groups))}


def accuracy_against_bytes(
    groups: list[Group], recommendation: Recommendation | None, *, name: str, size: tuple[float, float]
) -> Any:
    """Draws every group that has a file: bytes on a log axis, mean accuracy with the spread over seeds.

    Args:
        groups: result groups; those without a file are left out.
        recommendation: its limits are drawn and its choice is ringed; or None.
        name: prefix of the ids, unique in the page.
        size: width and height in inches.

    Returns:
        Inline SVG as Markup, or None where no group has a file.
    """
    shown = [g for g in groups if g.file_bytes]
    if not shown:
        return None
    with style():
        figure = new_figure(*size)
        axes = figure.add_subplot()
        scale = accuracy_axis(axes, shown, float_baseline(groups))
        bytes_axis(axes, shown, recommendation, most=7 if size[0] > 6 else 4)
        places = _places(axes, shown, recommendation.max_bytes if recommendation else None)
        _draw_front(axes, pareto(shown), places, scale)
        _draw_points(axes, shown, method_colors(groups), places, scale)
        if recommendation is not None:
            _draw_limits(axes, recommendation, scale)
            _draw_choice(axes, recommendation.chosen, places, scale)
        label_bits(axes, shown, size[0])
        return to_svg(figure, name, _describe_bytes(shown))


def accuracy_against_bits(groups: list[Group], *, name: str, columns: int, width: float) -> Any:
    """Draws one panel per regularizer: accuracy at each bit width, one line per method.

    Where there is a reference without a regularizer, its lines stand dotted in every panel.

    Args:
        groups: result groups; float files are left out, the float baseline is a dashed line.
        name: prefix of the ids, unique in the page.
        columns: panels side by side.
        width: of the figure, in inches.

    Returns:
        Inline SVG as Markup, or None where no group is quantized.
    """
    shown = [g for g in groups if g.num_bits < FLOAT_BITS]
    regularizers = list(dict.fromkeys(g.regularizer for g in shown))
    if not shown:
        return None
    columns = min(columns, len(regularizers))
    rows = math.ceil(len(regularizers) / columns)
    with style():
        figure = new_figure(width, 0.4 + 2.1 * rows)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for panel in panels[len(regularizers) :]:
            panel.set_visible(False)
        for panel, regularizer in zip(panels, regularizers, strict=False):
            _draw_panel(panel, shown, regularizer, method_colors(groups), float_baseline(groups))
        _share_labels(panels, rows, columns, len(regularizers))
        return to_svg(figure, name, _describe_bits(shown))


def _places(axes: Axes, groups: list[Group], limit: int | None) -> dict[tuple, float]:
    """Returns where each group stands on the axis of bytes: aside by its regularizer, never across the limit."""
    left, right = map(math.log, axes.get_xlim())
    names = list(regularizer_markers(groups))
    places = {}
    for part in groups:
        aside = 2 * names.index(part.regularizer) / (len(names) - 1) - 1 if len(names) > 1 else 0.0
        place = part.file_bytes * math.exp(SIDE * aside * (right - left))
        if limit is not None:
            place = min(place, limit) if part.file_bytes <= limit else max(place, limit)
        places[part.key] = place
    return places


def _draw_points(
    axes: Axes, groups: list[Group], colors: dict[str, str], places: dict[tuple, float], scale: Callable
) -> None:
    """Draws every group: colour by method, marker by regularizer, a bar for the spread."""
    markers = regularizer_markers(groups)
    for part in groups:
        color, place = colors[part.method], places[part.key]
        low, high = ends(part.score)
        axes.plot([place] * 2, [scale(low), scale(high)], color=color, linewidth=1.0, alpha=0.6, zorder=3)
        axes.plot(
            [place],
            [scale(part.score.mean)],
            markers[part.regularizer],
            color=color,
            markersize=6,
            alpha=0.9,
            markeredgewidth=0,
            zorder=4,
        )


def _draw_front(axes: Axes, front: list[Group], places: dict[tuple, float], scale: Callable) -> None:
    """Joins the groups that no other beats in both, as stairs."""
    axes.plot(
        [places[g.key] for g in front],
        [scale(g.score.mean) for g in front],
        color=FAINT,
        linewidth=1.2,
        linestyle=(0, (1, 2)),
        drawstyle="steps-post",
        zorder=2,
    )


def _draw_limits(axes: Axes, recommendation: Recommendation, scale: Callable[[float], float]) -> None:
    """Draws both limits and the region that meets them."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    drop, size = recommendation.max_accuracy_drop, recommendation.max_bytes
    lowest = bottom if drop is None else scale(max(0.0, recommendation.baseline.accuracy.mean - drop))
    largest = right if size is None else size
    if drop is not None and bottom <= lowest <= top:
        axes.axhline(lowest, color=LIMIT, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    if size is not None and left <= size <= right:
        axes.axvline(size, color=LIMIT, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    if (drop, size) != (None, None) and lowest < top and largest > left:
        region = [left, min(largest, right)]
        axes.fill_between(region, max(lowest, bottom), top, color=GOOD, alpha=0.08, linewidth=0, zorder=0)


def _draw_choice(axes: Axes, chosen: Group | None, places: dict[tuple, float], scale: Callable[[float], float]) -> None:
    """Draws a ring around the recommended group."""
    if chosen is not None:
        axes.plot(
            [places[chosen.key]],
            [scale(chosen.score.mean)],
            "o",
            markersize=14,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.5,
            zorder=5,
        )


def _draw_panel(axes: Axes, groups: list[Group], regularizer: str, colors: dict[str, str], baseline: Baseline) -> None:
    """Draws one regularizer's lines over the reference's and the float baseline."""
    widths = sorted({g.num_bits for g in groups})
    methods = list(dict.fromkeys(g.method for g in groups))
    scale = accuracy_axis(axes, groups, baseline)
    axes.axhline(scale(baseline.accuracy.mean), color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for index, method in enumerate(methods):
        shift = 0.12 * (index - (len(methods) - 1) / 2)
        for name, line in ((REFERENCE, ":"), (regularizer, "-")):
            found = sorted((g for g in groups if (g.regularizer, g.method) == (name, method)), key=lambda g: g.num_bits)
            if found and (line == "-" or regularizer != REFERENCE):
                places = [widths.index(g.num_bits) + shift for g in found]
                _draw_line(axes, found, places, scale, colors[method], line)
    axes.set_xticks(range(len(widths)), [str(w) for w in widths])
    axes.set_xlim(-0.5, len(widths) - 0.5)
    axes.set_title(regularizer)


def _draw_line(axes: Axes, groups: list[Group], places: list[float], scale: Callable, color: str, line: str) -> None:
    """Draws one method's means, and with a solid line, the panel's own, markers and spread."""
    own = line == "-"
    axes.plot(
        places,
        [scale(g.score.mean) for g in groups],
        line,
        color=color,
        alpha=1.0 if own else 0.55,
        marker="o" if own else "",
        markersize=4.5,
        markeredgewidth=0,
        zorder=3 if own else 2,
    )
    for place, part in zip(places, groups, strict=True):
        low, high = ends(part.score)
        if own:
            axes.plot([place, place], [scale(low), scale(high)], color=color, linewidth=1.0, alpha=0.6, zorder=3)


def _share_labels(panels: Any, rows: int, columns: int, used: int) -> None:
    """Names the axis of bits under the lowest panel of each column."""
    for index in range(used):
        if index + columns >= used:
            panels[index].set_xlabel("bits a weight")
            panels[index].tick_params(labelbottom=True)


def _describe_bytes(groups: list[Group]) -> str:
    """Returns the plot's content in words: the front from small to accurate."""
    front = "; ".join(f"{g.label}: {percent(g.score.mean)} in {count(g.file_bytes)} bytes" for g in pareto(groups))
    return f"Accuracy against the bytes of the file, {len(groups)} settings. None beats: {front}."


def _describe_bits(groups: list[Group]) -> str:
    """Returns the plot's content in words: the best setting at each bit width."""
    widths = sorted({g.num_bits for g in groups})
    best = [max((g for g in groups if g.num_bits == width), key=lambda g: g.score.mean) for width in widths]
    told = "; ".join(f"{bits(g.num_bits)}: {g.regularizer}, {g.method}, {percent(g.score.mean)}" for g in best)
    return f"Accuracy against bits a weight, one panel per regularizer. Best at each: {told}."
