"""Plots of accuracy against file size and against latency: one point per setting, at its true position."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from r2keras._util.text import count, number, percent
from r2keras.report.figures.axes import accuracy_axis, bytes_axis, ends, interval, label_bits, latency_axis
from r2keras.report.figures.labels import along_steps, place_labels
from r2keras.report.figures.looks import method_colors, regularizer_markers
from r2keras.report.figures.svg import FAINT, GOOD, INK, LIMIT, new_figure, style, to_svg
from r2keras.report.groups import Group, bytes_of, device_of, float_baseline, pareto
from r2keras.report.names import short_name
from r2keras.report.recommendation import Recommendation
from r2keras.report.stats import percent_stat

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The function that maps an accuracy to its position on the axis.
Scale = Callable[[float], float]
# Narrower figures, in inches, get short labels.
WIDE = 6.0


@dataclasses.dataclass(frozen=True)
class Plot:
    """What the parts of a scatter plot share."""

    axes: Axes
    scale: Scale
    x_of: Callable[[Group], float]
    groups: list[Group]
    is_wide: bool

    def point(self, part: Group) -> tuple[float, float]:
        """Returns the position of a group."""
        return self.x_of(part), self.scale(part.score.mean)


def accuracy_against_bytes(
    groups: list[Group], recommendation: Recommendation | None, *, name: str, size: tuple[float, float]
) -> Markup | None:
    """Draws every group that has a file: bytes on a log axis, mean accuracy with its spread over seeds.

    Points of the Pareto front are filled and labeled, others are open: equal sizes stay at one position, and points
    below others remain visible. Every point has its figures as hover text.

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
        front = pareto(shown)
        plot = _new_plot(shown, groups, size, bytes_of, front)
        bytes_axis(plot.axes, shown, recommendation, most=7 if plot.is_wide else 4)
        _draw_front(plot, front)
        if recommendation is not None:
            _draw_limits(plot, recommendation)
        label_bits(plot.axes, shown, size[0])
        return _finish(plot, front, recommendation, name, f"Accuracy against file size. {_front_text(front)}")


def accuracy_against_latency(
    groups: list[Group], recommendation: Recommendation | None, *, name: str, size: tuple[float, float]
) -> Markup | None:
    """Draws every group whose latency was measured, in the same form as `accuracy_against_bytes`.

    Returns:
        Inline SVG, or None if no latency was measured.
    """
    shown = [g for g in groups if latency_of(g) > 0]
    if not shown:
        return None
    with style():
        front = _fast_front(shown)
        plot = _new_plot(shown, groups, size, latency_of, front)
        devices = " and ".join(sorted({device_of(g) for g in shown}))
        latency_axis(plot.axes, [latency_of(g) for g in shown], devices, most=7 if plot.is_wide else 4)
        _draw_front(plot, front)
        fast = "; ".join(f"{g.label}: {percent(g.score.mean)} in {number(latency_of(g))} ms" for g in front)
        text = f"Accuracy against latency of {len(shown)} settings. Pareto front: {fast}."
        return _finish(plot, front, recommendation, name, text)


def latency_of(part: Group) -> float:
    """Returns the mean latency in milliseconds; 0 if it was not measured."""
    stat = part.stat("latency_ms")
    return 0.0 if stat is None else stat.mean


def tip(part: Group) -> str:
    """Returns the figures of a group as hover text."""
    lines = [part.label, f"{percent_stat(part.score)} % accuracy"]
    if part.file_bytes is not None:
        lines.append(f"{count(part.file_bytes)} bytes")
    if latency_of(part):
        lines.append(f"{number(latency_of(part))} ms")
    return "\n".join(lines)


def _new_plot(
    shown: list[Group],
    groups: list[Group],
    size: tuple[float, float],
    x_of: Callable[[Group], float],
    front: list[Group],
) -> Plot:
    """Returns an empty plot with its accuracy axis, which has room for the intervals of the front."""
    axes = new_figure(*size).add_subplot()
    others = [end for part in front for end in interval(part)]
    return Plot(axes, accuracy_axis(axes, shown, float_baseline(groups), others=others), x_of, shown, size[0] > WIDE)


def _finish(plot: Plot, front: list[Group], recommendation: Recommendation | None, name: str, text: str) -> Markup:
    """Draws points, choice and labels; returns the SVG."""
    front_keys = {part.key for part in front}
    _draw_points(plot, front_keys)
    chosen = recommendation.chosen if recommendation is not None else None
    if chosen is not None and chosen.key in {g.key for g in plot.groups}:
        _draw_choice(plot, chosen)
    first = [] if chosen is None else [g for g in plot.groups if g.key == chosen.key]
    labeled = [*first, *(g for g in front if chosen is None or g.key != chosen.key)]
    labels = [(plot.point(g), _names(g, plot.is_wide)) for g in labeled]
    place_labels(plot.axes, labels, [*_lines(plot), *along_steps([plot.point(g) for g in front])])
    tips = {f"tip{index}": tip(part) for index, part in enumerate(plot.groups)}
    return to_svg(cast("Figure", plot.axes.figure), name, text, tips=tips)


def _names(part: Group, is_wide: bool) -> list[str]:
    """Returns the texts of a label, the best one first."""
    short = short_name(part.method, part.num_bits)
    return [part.label, part.name, short] if is_wide else [short]


def _draw_points(plot: Plot, front: set[tuple[str, str, int]]) -> None:
    """Draws every group: color by method, marker by regularizer, lines for the spread and the front's intervals."""
    colors, markers = method_colors(plot.groups), regularizer_markers(plot.groups)
    for index, part in enumerate(plot.groups):
        x, y = plot.point(part)
        color = colors[part.method]
        in_front = part.key in front
        line: dict[str, Any] = {"color": color, "alpha": 0.6, "zorder": 3, "solid_capstyle": "butt"}
        plot.axes.plot([x, x], [*map(plot.scale, ends(part.score))], linewidth=2.2, **line)
        if in_front and interval(part):
            plot.axes.plot([x, x], [*map(plot.scale, interval(part))], linewidth=0.9, **line)
        fill = color if in_front else "none"
        look: dict[str, Any] = {
            "markersize": 7,
            "markeredgewidth": 1.5,
            "markerfacecolor": fill,
            "color": color,
            "zorder": 4,
        }
        plot.axes.plot([x], [y], markers[part.regularizer], gid=f"tip{index}", **look)


def _fast_front(groups: list[Group]) -> list[Group]:
    """Returns the Pareto front of accuracy against latency, the fastest first."""
    front: list[Group] = []
    for part in sorted(groups, key=lambda g: (latency_of(g), -g.score.mean)):
        if not front or part.score.mean > front[-1].score.mean:
            front.append(part)
    return front


def _draw_front(plot: Plot, front: list[Group]) -> None:
    """Draws the Pareto front as a step line."""
    points = [plot.point(g) for g in front]
    line: dict[str, Any] = {
        "color": FAINT,
        "linewidth": 1.2,
        "linestyle": (0, (1, 2)),
        "drawstyle": "steps-post",
        "zorder": 2,
    }
    plot.axes.plot([x for x, _ in points], [y for _, y in points], **line)


def _lines(plot: Plot) -> list[tuple[float, float]]:
    """Returns the points of the groups and others along the lines of their spread, which labels avoid."""
    points = [plot.point(part) for part in plot.groups]
    for part in plot.groups:
        low, high = map(plot.scale, ends(part.score))
        points += [(plot.x_of(part), low + share * (high - low)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return points


def _draw_limits(plot: Plot, recommendation: Recommendation) -> None:
    """Draws both limits and the region that meets them."""
    axes = plot.axes
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    drop, size = recommendation.max_accuracy_drop, recommendation.max_bytes
    lowest = bottom if drop is None else plot.scale(max(0.0, recommendation.baseline.accuracy.mean - drop))
    largest = right if size is None else size
    if drop is not None and bottom <= lowest <= top:
        axes.axhline(lowest, color=LIMIT, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    if size is not None and left <= size <= right:
        axes.axvline(size, color=LIMIT, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    if (drop, size) != (None, None) and lowest < top and largest > left:
        region = [left, min(largest, right)]
        axes.fill_between(region, max(lowest, bottom), top, color=GOOD, alpha=0.08, linewidth=0, zorder=0)


def _draw_choice(plot: Plot, chosen: Group) -> None:
    """Draws a circle around the recommended group."""
    x, y = plot.point(chosen)
    look: dict[str, Any] = {
        "markersize": 15,
        "markerfacecolor": "none",
        "markeredgecolor": INK,
        "markeredgewidth": 1.5,
        "zorder": 5,
    }
    plot.axes.plot([x], [y], "o", **look)


def _front_text(front: list[Group]) -> str:
    """Returns the Pareto front from small to accurate as text."""
    points = "; ".join(f"{g.label}: {percent(g.score.mean)} in {count(g.file_bytes)} bytes" for g in front)
    return f"Pareto front: {points}."
