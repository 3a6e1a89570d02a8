"""Plot of accuracy against bits per weight, one panel per regularizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from r2keras._util.text import bits, percent
from r2keras.report.figures.axes import accuracy_axis, ends
from r2keras.report.figures.looks import method_colors
from r2keras.report.figures.scatter import tip
from r2keras.report.figures.svg import FAINT, new_figure, style, to_svg
from r2keras.report.groups import Baseline, Group, float_baseline
from r2keras.report.names import REFERENCE, regularizer_name

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

# The function that maps an accuracy to its position on the axis.
Scale = Callable[[float], float]


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
    shown = [g for g in groups if not g.is_float]
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
        tips = {_gid(shown, part): tip(part) for part in shown}
        return to_svg(figure, name, _describe_bits(shown), tips=tips)


def _draw_panel(axes: Axes, groups: list[Group], regularizer: str, colors: dict[str, str], baseline: Baseline) -> None:
    """Draws the lines of one regularizer over those of the reference and the float baseline."""
    widths = sorted({g.num_bits for g in groups})
    scale = accuracy_axis(axes, groups, baseline)
    axes.axhline(scale(baseline.accuracy.mean), color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for method in dict.fromkeys(g.method for g in groups):
        for name in dict.fromkeys((REFERENCE, regularizer)):
            line = sorted((g for g in groups if (g.regularizer, g.method) == (name, method)), key=lambda g: g.num_bits)
            xs = [widths.index(g.num_bits) for g in line]
            means = [scale(g.score.mean) for g in line]
            if name != regularizer:
                axes.plot(xs, means, ":", color=colors[method], alpha=0.55, zorder=2)
                continue
            axes.plot(xs, means, "-", color=colors[method], alpha=0.7, zorder=3)
            for x, part in zip(xs, line, strict=True):
                _draw_point(axes, x, part, scale, colors[method], _gid(groups, part))
    axes.set_xticks(range(len(widths)), [str(w) for w in widths])
    axes.set_xlim(-0.5, len(widths) - 0.5)
    axes.set_title(regularizer_name(regularizer))


def _draw_point(axes: Axes, x: float, part: Group, scale: Scale, color: str, gid: str) -> None:
    """Draws mean and spread of a group; the marker is open, so that points of equal width remain visible."""
    low, high = ends(part.score)
    line: dict[str, Any] = {"color": color, "linewidth": 2.2, "alpha": 0.5, "zorder": 3, "solid_capstyle": "butt"}
    axes.plot([x, x], [scale(low), scale(high)], **line)
    look: dict[str, Any] = {
        "markersize": 6,
        "markerfacecolor": "none",
        "markeredgewidth": 1.4,
        "color": color,
        "zorder": 4,
    }
    axes.plot([x], [scale(part.score.mean)], "o", gid=gid, **look)


def _gid(groups: list[Group], part: Group) -> str:
    """Returns the id of the point of a group, which hover text is attached to."""
    return f"tip{[g.key for g in groups].index(part.key)}"


def _label_lowest(panels: Sequence[Axes], columns: int) -> None:
    """Labels the axis of bits of the lowest panel of each column."""
    for panel in panels[-columns:]:
        panel.set_xlabel("bits per weight")
        panel.tick_params(labelbottom=True)


def _describe_bits(groups: list[Group]) -> str:
    """Returns the content of the plot as text: the best setting at each bit width."""
    widths = sorted({g.num_bits for g in groups})
    best = [max((g for g in groups if g.num_bits == width), key=lambda g: g.score.mean) for width in widths]
    text = "; ".join(f"{bits(g.num_bits)}: {g.label}, {percent(g.score.mean)}" for g in best)
    return f"Accuracy against bits per weight, one panel per regularizer. Best at each bit width: {text}."
