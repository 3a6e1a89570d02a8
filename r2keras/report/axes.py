"""The axes of the accuracy plots: a scale for accuracies that lie far apart, round ticks, labels of bit widths."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from r2keras.report._format import bits
from r2keras.report.groups import Baseline, Group, Stat
from r2keras.report.recommendation import TOLERANCE, Recommendation
from r2keras.report.svg import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Above this span a straight axis would squeeze the accuracies that matter into one line at the top.
STRAIGHT_SPAN = 0.2
# Distance from the best accuracy that the stretched axis gives half of its resolution to.
NEAR = 0.01
TICK_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
MANTISSAS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)


def accuracy_axis(axes: Axes, groups: list[Group], baseline: Baseline) -> Callable[[float], float]:
    """Sets the accuracy axis up and returns the map from accuracy to it."""
    reached = [end for g in groups for end in ends(g.score)] + [baseline.accuracy.mean]
    low, high = min(reached), max(reached)
    straight = high - low <= STRAIGHT_SPAN
    scale = (lambda a: a) if straight else (lambda a: -math.log(max(high - a, 0.0) + NEAR))
    # One point, or several alike, still need room for two ticks.
    margin = max(0.07 * (scale(high) - scale(low)), 0.01 if straight else 0.0)
    bottom, top = scale(low) - margin, scale(high) + margin
    # The stretched axis ends at the best accuracy: nothing above it has a place.
    first = high + margin if straight else high
    ticks = [t for t in _accuracy_ticks(low, first, scale, (top - bottom) / 10) if bottom <= scale(t) <= top]
    axes.set_yticks([scale(t) for t in ticks], [f"{100 * t:.4g}%" for t in ticks])
    axes.set_ylim(bottom, top)
    axes.grid(True, axis="y")
    return scale


def _accuracy_ticks(low: float, high: float, scale: Callable[[float], float], gap: float) -> list[float]:
    """Returns round accuracies from the top down, each at least `gap` below the one before on the axis."""
    ticks: list[float] = []
    place = min(1.0, math.floor(high / TICK_STEPS[0] + TOLERANCE) * TICK_STEPS[0])
    while place > low - TICK_STEPS[-1] and place >= 0:
        if not ticks or scale(ticks[-1]) - scale(place) >= gap:
            ticks.append(place)
        place = _next_tick(place, scale, gap)
    return ticks


def _next_tick(place: float, scale: Callable[[float], float], gap: float) -> float:
    """Returns the next accuracy below `place` on the finest round grid that leaves room for a label."""
    for step in TICK_STEPS:
        below = round((math.ceil(round(place / step, 6)) - 1) * step, 4)
        if scale(place) - scale(below) >= gap:
            return below
    return below


def bytes_axis(axes: Axes, groups: list[Group], recommendation: Recommendation | None, *, most: int) -> None:
    """Sets the log axis of bytes up with at most `most` ticks, wide enough for the limit where it is not far away."""
    sizes = [g.file_bytes for g in groups]
    limit = recommendation.max_bytes if recommendation else None
    if limit and min(sizes) / 4 <= limit <= max(sizes) * 4:
        sizes.append(limit)
    byte_ticks(axes, min(sizes) / 1.25, max(sizes) * 1.25, most=most)
    axes.set_xlabel("bytes of the file (log scale)")


def byte_ticks(axes: Axes, low: float, high: float, *, most: int) -> None:
    """Makes the axis of bytes a log axis between two bounds, with at most `most` ticks."""
    ticks = _log_ticks(low, high, most)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [_bytes_text(t) for t in ticks])
    axes.set_xlim(low, high)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Returns at most `most` round numbers between two bounds."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in (MANTISSAS, (1.0, 2.0, 3.0, 5.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [m * 10.0**p for p in powers for m in mantissas if low <= m * 10.0**p <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def _bytes_text(size: float) -> str:
    """Returns a round number of bytes.

    >>> _bytes_text(500), _bytes_text(15000), _bytes_text(2e6)
    ('500 B', '15 kB', '2 MB')
    """
    for unit, name in ((1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size:g} B"


def label_bits(axes: Axes, groups: list[Group], width: float) -> None:
    """Writes the bit widths above their clusters; those too close to tell apart share one label."""
    left, right = map(math.log, axes.get_xlim())
    centers = {}
    for num_bits in {g.num_bits for g in groups}:
        logs = [math.log(g.file_bytes) for g in groups if g.num_bits == num_bits]
        centers[num_bits] = (sum(logs) / len(logs) - left) / (right - left)
    clusters: list[list[int]] = []
    for num_bits in sorted(centers, key=lambda b: (centers[b], b)):
        near = clusters and centers[num_bits] - centers[clusters[-1][-1]] < 0.7 / width
        clusters[-1].append(num_bits) if near else clusters.append([num_bits])
    for cluster in clusters:
        place = sum(centers[b] for b in cluster) / len(cluster)
        axes.text(place, 1.01, _cluster_text(cluster), transform=axes.transAxes, ha="center", va="bottom", color=FAINT)


def _cluster_text(cluster: list[int]) -> str:
    """Returns the label of one or several bit widths.

    >>> _cluster_text([2]), _cluster_text([2, 4])
    ('2 bits', '2, 4 bits')
    """
    *first, last = sorted(cluster)
    return ", ".join([*map(str, first), bits(last)])


def ends(stat: Stat) -> tuple[float, float]:
    """Returns mean minus and plus the spread, within 0 and 1."""
    spread = stat.std or 0.0
    return max(0.0, stat.mean - spread), min(1.0, stat.mean + spread)
