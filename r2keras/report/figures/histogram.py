"""Histogram of the weights of one tensor before compression, with the levels of its grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from r2keras._util.text import count, number
from r2keras.record import RangeFigures, Tensor
from r2keras.report.figures.svg import FAINT, SERIES, new_figure, style, to_svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

# More levels than this cannot be distinguished as stems in a small plot: they are drawn as marks below the bars.
MAX_STEMS = 24
# Limits the size of the SVG; more marks than this overlap anyway.
MAX_MARKS = 400


def histogram(tensor: Tensor, *, name: str) -> Markup:
    """Draws the float weights as bars and the compressed values as levels.

    Heights grow with the square root of the counts, so that a few outliers stay visible next to thousands of small
    weights. Up to 24 levels are drawn as stems with their counts, more levels as marks below the axis.

    Args:
        tensor: a tensor of a record.
        name: prefix of the ids, unique in the page.

    Returns:
        Inline SVG.
    """
    levels, counts = np.unique(tensor.values(), return_counts=True)
    with style():
        figure = new_figure(3.1, 1.9)
        axes = figure.add_subplot()
        top = _draw_bars(axes, tensor.before)
        if len(levels) <= MAX_STEMS:
            heights = top * np.sqrt(counts / counts.max())
            axes.vlines(levels, 0, heights, color=SERIES[1], linewidth=1.3, zorder=3)
            axes.plot(levels, heights, "o", color=SERIES[1], markersize=3.5, markeredgewidth=0, zorder=4)
        else:
            _draw_marks(axes, levels, top)
        _finish(axes, tensor.before, levels, top)
        return to_svg(figure, name, _describe(tensor, levels))


def _draw_bars(axes: Axes, before: RangeFigures) -> float:
    """Draws the counts of the float weights and returns the maximum height."""
    heights = np.sqrt(np.asarray(before.counts, float))
    high = before.high if before.high > before.low else before.low + 1.0
    edges = np.linspace(before.low, high, len(heights) + 1)
    axes.stairs(heights, edges, fill=True, color=SERIES[0], alpha=0.45, zorder=2)
    return float(heights.max())


def _draw_marks(axes: Axes, levels: np.ndarray, top: float) -> None:
    """Draws a mark below the axis for every level, or for an even selection of very many levels."""
    chosen = levels[np.unique(np.linspace(0, len(levels) - 1, min(MAX_MARKS, len(levels))).round().astype(int))]
    axes.vlines(chosen, -0.16 * top, -0.04 * top, color=SERIES[1], linewidth=0.5, alpha=0.8, zorder=3)


def _finish(axes: Axes, before: RangeFigures, levels: np.ndarray, top: float) -> None:
    """Sets the limits, and ticks at both ends and at a zero well between them."""
    low, high = min(before.low, float(levels[0])), max(before.high, float(levels[-1]))
    margin = 0.04 * (high - low) or 0.5
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(-0.18 * top if len(levels) > MAX_STEMS else 0.0, 1.08 * top)
    # The label of a zero near an end would overlap the label of that end.
    has_zero = low < -0.15 * (high - low) and high > 0.15 * (high - low)
    ticks = [low, 0.0, high] if has_zero else [low, high]
    axes.set_xticks(ticks, [number(t) if t else "0" for t in ticks])
    axes.set_xlabel("weight")
    most = max(before.counts)
    axes.set_yticks([0.0, math.sqrt(most)], ["0", count(most)])
    axes.set_ylabel("weights per bin")
    axes.spines["bottom"].set_color(FAINT)


def _describe(tensor: Tensor, levels: np.ndarray) -> str:
    """Returns the content of the plot as text."""
    before, low, high = tensor.before, number(float(levels[0])), number(float(levels[-1]))
    weights = f"{count(sum(before.counts))} values from {number(before.low)} to {number(before.high)}"
    grid = f"{count(len(levels))} levels from {low} to {high}"
    return f"Weights of {tensor.name}: {weights}, max|w|/std {number(before.max_over_std)}; {grid}."
