"""Plots of accuracy against bytes, and of accuracy against bits for each regularizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from r2keras._util.text import MIN_FLOAT_BITS, bits, count, percent
from r2keras.report.figures.axes import accuracy_axis, bytes_axis, ends, label_bits
from r2keras.report.figures.svg import FAINT, GOOD, INK, LIMIT, MARKERS, SERIES, new_figure, style, to_svg
from r2keras.report.groups import REFERENCE, Baseline, Group, bytes_of, float_baseline, pareto
from r2keras.report.recommendation import Recommendation

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

# Maximum horizontal offset of points of equal size, as a share of the axis.
MAX_OFFSET = 0.022


# The function that maps an accuracy to its position on the axis.
Scale = Callable[[float], float]
# The position of each group on the axis of bytes.
Positions = dict[tuple[str, str, int], float]


def method_colors(groups: list[Group]) -> dict[str, str]:
    """Returns one color per method, in the order of their first group."""
    return {m: SERIES[i % len(SERIES)] for i, m in enumerate(dict.fromkeys(g.method for g in groups))}


def regularizer_markers(groups: list[Group]) -> dict[str, str]:
    """Returns one marker per regularizer, in the order of their first group."""
    return {r: MARKERS[i % len(MARKERS)] for i, r in enumerate(dict.fromkeys(g.regularizer for g in groups))}


def accuracy_against_bytes(
    groups: list[Group], recommendation: Recommendation | None, *, name: str, size: tuple[float, float]
) -> Markup | None:
    """Draws every group that has a file: bytes on a log axis, mean accuracy with its spread over seeds.

    Args:
        groups: result groups; groups without a file are left out.
        recommendation: its limits are drawn and its choice is circled; or None.
        name: prefix of the ids, unique in the page.
        size: width and height in inches.

    Returns:
        Inline SVG, or None if no group has a file.
    """
    shown = [g for g in groups if g.file_bytes]
    if not shown:
        return None
    with style():
        figure = new_figure(*size)
        axes = figure.add_subplot()
        scale = accuracy_axis(axes, shown, float_baseline(groups))
        bytes_axis(axes, shown, recommendation, most=7 if size[0] > 6 else 4)
        positions = _positions(axes, shown, recommendation.max_bytes if recommendation else None)
        _draw_front(axes, pareto(shown), positions, scale)
        _draw_points(axes, shown, method_colors(groups), positions, scale)
        if recommendation is not None:
            _draw_limits(axes, recommendation, scale)
            _draw_choice(axes, recommendation.chosen, positions, scale)
        label_bits(axes, shown, size[0])
        return to_svg(figure, name, _describe_bytes(shown))


def accuracy_against_bits(groups: list[Group], *, name: str, columns: int, width: float) -> Markup | None:
    """Draws one panel per regularizer: accuracy at each bit width, with one line per method.

    If there is a reference without a regularizer, its lines are dotted in every panel.

    Args:
        groups: result groups; float files are left out, and the float baseline is a dashed line.
        name: prefix of the ids, unique in the page.
        columns: number of panels per row.
        width: width of the figure in inches.

    Returns:
        Inline SVG, or None if no group is quantized.
    """
    shown = [g for g in groups if g.num_bits < MIN_FLOAT_BITS]
    regularizers = list(dict.fromkeys(g.regularizer for g in shown))
    if not shown:
        return None
    columns = min(columns, len(regularizers))
    rows = math.ceil(len(regularizers) / columns)
    with style():
        figure = new_figure(width, 0.4 + 2.1 * rows)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
        for panel in panels[len(regularizers) :]:
            panel.set_visible(False)
        for panel, regularizer in zip(panels, regularizers, strict=False):
            _draw_panel(panel, shown, regularizer, method_colors(groups), float_baseline(groups))
        _label_lowest(panels[: len(regularizers)], columns)
        return to_svg(figure, name, _describe_bits(shown))


def _positions(axes: Axes, groups: list[Group], limit: int | None) -> Positions:
    """Returns the position of each group on the axis of bytes: offset by its regularizer, never across the limit."""
    left, right = map(math.log, axes.get_xlim())
    regularizers = list(regularizer_markers(groups))
    positions = {}
    for part in groups:
        # From -1 for the first regularizer to 1 for the last.
        side = 2 * regularizers.index(part.regularizer) / (len(regularizers) - 1) - 1 if len(regularizers) > 1 else 0.0
        size = bytes_of(part)
        x = size * math.exp(MAX_OFFSET * side * (right - left))
        if limit is not None:
            x = min(x, limit) if size <= limit else max(x, limit)
        positions[part.key] = x
    return positions


def _draw_points(axes: Axes, groups: list[Group], colors: dict[str, str], positions: Positions, scale: Scale) -> None:
    """Draws every group: color by method, marker by regularizer, a bar for the spread."""
    markers = regularizer_markers(groups)
    for part in groups:
        color, x = colors[part.method], positions[part.key]
        low, high = ends(part.score)
        axes.plot([x] * 2, [scale(low), scale(high)], color=color, linewidth=1.0, alpha=0.6, zorder=3)
        axes.plot(
            [x],
            [scale(part.score.mean)],
            markers[part.regularizer],
            color=color,
            markersize=6,
            alpha=0.9,
            markeredgewidth=0,
            zorder=4,
        )


def _draw_front(axes: Axes, front: list[Group], positions: Positions, scale: Scale) -> None:
    """Draws the Pareto front as a step line."""
    axes.plot(
        [positions[g.key] for g in front],
        [scale(g.score.mean) for g in front],
        color=FAINT,
        linewidth=1.2,
        linestyle=(0, (1, 2)),
        drawstyle="steps-post",
        zorder=2,
    )


def _draw_limits(axes: Axes, recommendation: Recommendation, scale: Scale) -> None:
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


def _draw_choice(axes: Axes, chosen: Group | None, positions: Positions, scale: Scale) -> None:
    """Draws a circle around the recommended group."""
    if chosen is not None:
        axes.plot(
            [positions[chosen.key]],
            [scale(chosen.score.mean)],
            "o",
            markersize=14,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.5,
            zorder=5,
        )


def _draw_panel(axes: Axes, groups: list[Group], regularizer: str, colors: dict[str, str], baseline: Baseline) -> None:
    """Draws the lines of one regularizer over those of the reference and the float baseline."""
    widths = sorted({g.num_bits for g in groups})
    methods = list(dict.fromkeys(g.method for g in groups))
    scale = accuracy_axis(axes, groups, baseline)
    axes.axhline(scale(baseline.accuracy.mean), color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for index, method in enumerate(methods):
        shift = 0.12 * (index - (len(methods) - 1) / 2)
        for name in dict.fromkeys((REFERENCE, regularizer)):
            line = sorted((g for g in groups if (g.regularizer, g.method) == (name, method)), key=lambda g: g.num_bits)
            if line:
                xs = [widths.index(g.num_bits) + shift for g in line]
                _draw_line(axes, line, xs, scale, colors[method], is_reference=name != regularizer)
    axes.set_xticks(range(len(widths)), [str(w) for w in widths])
    axes.set_xlim(-0.5, len(widths) - 0.5)
    axes.set_title(regularizer)


def _draw_line(
    axes: Axes, groups: list[Group], xs: list[float], scale: Scale, color: str, *, is_reference: bool
) -> None:
    """Draws the means of one method: dotted for the reference, else solid with markers and spread."""
    means = [scale(g.score.mean) for g in groups]
    if is_reference:
        axes.plot(xs, means, ":", color=color, alpha=0.55, zorder=2)
        return
    axes.plot(xs, means, "-", color=color, marker="o", markersize=4.5, markeredgewidth=0, zorder=3)
    for x, part in zip(xs, groups, strict=True):
        low, high = ends(part.score)
        axes.plot([x, x], [scale(low), scale(high)], color=color, linewidth=1.0, alpha=0.6, zorder=3)


def _label_lowest(panels: Sequence[Axes], columns: int) -> None:
    """Labels the axis of bits of the lowest panel of each column."""
    for panel in panels[-columns:]:
        panel.set_xlabel("bits per weight")
        panel.tick_params(labelbottom=True)


def _describe_bytes(groups: list[Group]) -> str:
    """Returns the content of the plot as text: the Pareto front from small to accurate."""
    front = "; ".join(f"{g.label}: {percent(g.score.mean)} in {count(g.file_bytes)} bytes" for g in pareto(groups))
    return f"Accuracy against file size, {len(groups)} settings. Pareto front: {front}."


def _describe_bits(groups: list[Group]) -> str:
    """Returns the content of the plot as text: the best setting at each bit width."""
    widths = sorted({g.num_bits for g in groups})
    best = [max((g for g in groups if g.num_bits == width), key=lambda g: g.score.mean) for width in widths]
    text = "; ".join(f"{bits(g.num_bits)}: {g.regularizer}, {g.method}, {percent(g.score.mean)}" for g in best)
    return f"Accuracy against bits per weight, one panel per regularizer. Best at each bit width: {text}."
