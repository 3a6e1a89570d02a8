"""The figure of `front.py`: accuracy against kilobytes, one panel per model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Row
from benchmarks.front_models import MODELS, SMOKE
from benchmarks.front_table import chosen, grouped, mean, models_in
from benchmarks.front_tools import FLOAT, MLPERF, OURS, RIVAL, TFLITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = ("resnet8", "dscnn", "mobilenet")
# 1,200 pixels, of 1/96 inch. At a third of that width, the text is still 7 pixels high.
SIZE = (12.5, 6.0)
LOOK = {"font.size": 16, "axes.titlesize": 16, "figure.titlesize": 18, "xtick.labelsize": 14, "lines.linewidth": 2.5}
TITLE = "Accuracy against file size, without labels and without training"
# Room for labels below and above the points, as a share of the axis.
ROOM = 0.08
# Bytes, accuracy (or its position), label.
Point = tuple[float, float, str]
# Color (of `SERIES`), marker, name and drawing order of each series.
SERIES_LOOK: dict[str, tuple[int, str, str, int]] = {
    OURS: (0, "o", "r2keras", 5),
    RIVAL: (1, "s", "litert-quantizer", 3),
    TFLITE: (2, "^", "TFLite int8", 4),
    MLPERF: (3, "D", "MLPerf int8", 2),
}


def draw(rows: list[Row], path: Path) -> None:
    """Draws the figure, whole or not at all.

    Args:
        rows: rows of at least one model.
        path: an `.svg` file.

    Raises:
        ValueError: there are no rows.
    """
    from r2keras._util.files import replacing
    from r2keras.report.figures.svg import new_figure, plain_style

    names = [name for name in models_in(rows) if name in PANELS] or models_in(rows)[:1]
    if not names:
        raise ValueError("There are no rows to draw. Measure some first: run the script with --data_dir.")
    import matplotlib

    with plain_style(), matplotlib.rc_context(LOOK):
        figure = new_figure(*SIZE)
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _draw_panel(axes, name, grouped(rows, name))
        panels[0].set_ylabel("accuracy of the file")
        figure.suptitle(TITLE, x=0.008, ha="left", fontweight="bold")
        _draw_legend(figure, panels)
        with replacing(path) as temporary:
            # Without the date, equal rows give equal files.
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Title": TITLE})


def _draw_panel(axes: Axes, name: str, groups: list[list[Row]]) -> None:
    """Draws one model: the float accuracy as a dashed line, one variant of each tool at each bit width."""
    from r2keras.report.figures.axes import accuracy_scale, byte_ticks
    from r2keras.report.figures.svg import FAINT, GRID, PLAIN

    points = {tool: own for tool in SERIES_LOOK if (own := _points(groups, tool))}
    sizes = [size for own in points.values() for size, _, _ in own]
    reference, title = chosen(groups, FLOAT, 32), {**MODELS, SMOKE: "Digits"}[name]
    accuracies = [accuracy for own in points.values() for _, accuracy, _ in own]
    scale = accuracy_scale(axes, [*accuracies, *([] if reference is None else [mean(reference)])])
    if reference is not None:
        line = {"linestyle": (0, (5, 3)), "linewidth": 1.5, "zorder": 1}
        axes.axhline(scale(mean(reference)), color=PLAIN[FAINT], **line)
        title += f"\nfloat: {100 * mean(reference):.1f} %, {reference[0]['bytes'] / 1000:,.0f} kB"
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - ROOM * (top - bottom), top + ROOM * (top - bottom))
    if sizes:
        byte_ticks(axes, min(sizes) / 1.3, max(sizes) * 1.4, most=3)
    for tool, own in points.items():
        _draw_series(axes, tool, [(size, scale(accuracy), text) for size, accuracy, text in own])
    axes.set_title(title)
    axes.set_xlabel("file size (log scale)")
    axes.grid(True, axis="y", color=PLAIN[GRID])


def _points(groups: list[list[Row]], tool: str) -> list[Point]:
    """Returns the variants that stand for a tool as points, from few bits to many."""
    shown = [group for bits in (2, 4, 8) if (group := chosen(groups, tool, bits)) is not None]
    broken = {True: ": NaN", False: ""}
    texts = [f"{group[0]['bits']}{broken[group[0]['not_finite'] > 0]}" for group in shown]
    return [(group[0]["bytes"], mean(group), text) for group, text in zip(shown, texts, strict=True)]


def _draw_series(axes: Axes, tool: str, points: list[Point]) -> None:
    """Draws the points of a tool: joined by a line for r2keras, with the bits beside for it and litert-quantizer."""
    from r2keras.report.figures.svg import PLAIN, SERIES

    index, marker, name, depth = SERIES_LOOK[tool]
    color, look = PLAIN[SERIES[index]], {"markersize": 11, "markeredgecolor": "white", "zorder": depth}
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    axes.plot(xs, ys, linestyle="-" if tool == OURS else "none", color=color, marker=marker, label=name, **look)
    if tool not in (OURS, RIVAL):
        return
    for x, y, text in points:
        # Labels of r2keras are above its line, but for the lowest point; the others are below, but not at the bottom.
        low, high = axes.get_ylim()
        is_above = y > min(ys) if tool == OURS else y < low + 0.2 * (high - low)
        offset, side = ((0, 9), "bottom") if is_above else ((0, -10), "top")
        axes.annotate(text, (x, y), offset, textcoords="offset points", ha="center", va=side, color=color)


def _draw_legend(figure: Any, panels: Any) -> None:
    """Draws one legend of all series below the panels, and what the numbers beside the points mean."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    look = {"frameon": False, "handletextpad": 0.3, "columnspacing": 1.2}
    title = "Numbers: bits per weight. Dashed: the float file."
    figure.legend(found.values(), found, loc="outside lower center", ncols=len(found), title=title, **look)
