"""Axes of the accuracy plots: a stretched scale for accuracies far apart, round ticks, labels of bit widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from r2keras._util.text import bits
from r2keras.report.figures.svg import FAINT
from r2keras.report.groups import Baseline, Group, bytes_of
from r2keras.report.noise import binomial_interval
from r2keras.report.recommendation import Recommendation
from r2keras.report.stats import Stat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With a larger range, a linear axis would squeeze the accuracies that matter into one line at the top.
LINEAR_RANGE = 0.12
# The stretched axis shows `-log(best - accuracy + RESOLUTION)`: nearly linear within this distance of the best.
RESOLUTION = 0.01
TICK_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
# Multiples of a tick step are not exact in binary; without this, 0.29 / 0.005 would round down to 57 steps.
TICK_ROUNDING = 1e-9
# Sets of ticks per power of ten, from dense to sparse.
MANTISSAS = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 3.0, 5.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))
# Factor between the left end of a log axis and the first point: labels stand to the left of their points.
LABEL_ROOM = 1.8
# Labels of bit widths closer than this, in inches, are joined.
LABEL_GAP = 0.7


def accuracy_axis(
    axes: Axes, groups: list[Group], baseline: Baseline, *, others: Sequence[float] = ()
) -> Callable[[float], float]:
    """Sets up the accuracy axis and returns the function that maps an accuracy to its position.

    The axis holds the spread of every group, the baseline, and `others`.
    """
    return accuracy_scale(axes, [*(end for g in groups for end in ends(g.score)), baseline.accuracy.mean, *others])


def accuracy_scale(axes: Axes, accuracies: Sequence[float]) -> Callable[[float], float]:
    """Sets up an axis for these accuracies and returns the function that maps an accuracy to its position.

    The axis is stretched toward the best if they are far apart: failures keep their positions and do not squeeze the
    others.
    """
    low, high = min(accuracies), max(accuracies)
    is_linear = high - low <= LINEAR_RANGE
    scale = (lambda a: a) if is_linear else (lambda a: -math.log(max(high - a, 0.0) + RESOLUTION))
    # Equal accuracies still need room for two ticks.
    margin = max(0.07 * (scale(high) - scale(low)), 0.01 if is_linear else 0.0)
    bottom, top = scale(low) - margin, scale(high) + margin
    find = _even_ticks if is_linear else _accuracy_ticks
    # The stretched axis ends at the best accuracy: it has no positions above.
    ticks = find(low, min(1.0, high + margin) if is_linear else high, scale, (top - bottom) / 10)
    ticks = [t for t in ticks if bottom <= scale(t) <= top]
    axes.set_yticks([scale(t) for t in ticks], [f"{100 * t:.4g}%" for t in ticks])
    axes.set_ylim(bottom, top)
    axes.grid(True, axis="y")
    return scale


def _even_ticks(low: float, high: float, _: Callable[[float], float], gap: float) -> list[float]:
    """Returns the multiples of a round step, at least `gap`, from just below `low` to `high` on a linear axis."""
    step = next((step for step in TICK_STEPS if step >= gap), TICK_STEPS[-1])
    first, last = math.floor(low / step + TICK_ROUNDING), math.floor(high / step + TICK_ROUNDING)
    return [round(index * step, 4) for index in range(max(first, 0), last + 1)]


def _accuracy_ticks(low: float, high: float, scale: Callable[[float], float], gap: float) -> list[float]:
    """Returns round accuracies from the top down, each at least `gap` below the one before on the axis."""
    ticks: list[float] = []
    tick = min(1.0, math.floor(high / TICK_STEPS[0] + TICK_ROUNDING) * TICK_STEPS[0])
    while tick > low - TICK_STEPS[-1] and tick >= 0:
        if not ticks or scale(ticks[-1]) - scale(tick) >= gap:
            ticks.append(tick)
        tick = _next_tick(tick, scale, gap)
    return ticks


def _next_tick(tick: float, scale: Callable[[float], float], gap: float) -> float:
    """Returns the next lower tick on the finest round grid that leaves room for a label."""
    for step in TICK_STEPS:
        below = round((math.ceil(round(tick / step, 6)) - 1) * step, 4)
        if scale(tick) - scale(below) >= gap:
            return below
    return below


def bytes_axis(axes: Axes, groups: list[Group], recommendation: Recommendation | None, *, most: int) -> None:
    """Sets up the log axis of bytes with at most `most` ticks; it includes the limit unless that is far away."""
    sizes = [bytes_of(g) for g in groups]
    limit = recommendation.max_bytes if recommendation else None
    if limit and min(sizes) / 4 <= limit <= max(sizes) * 4:
        sizes.append(limit)
    byte_ticks(axes, min(sizes) / LABEL_ROOM, max(sizes) * 1.25, most=most)
    axes.set_xlabel("file size in bytes (log scale)")


def byte_ticks(axes: Axes, low: float, high: float, *, most: int) -> None:
    """Sets a log axis of bytes between two bounds, with at most `most` ticks."""
    ticks = _log_ticks(low, high, most)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [_bytes_text(t) for t in ticks])
    axes.set_xlim(low, high)


def latency_axis(axes: Axes, latencies: list[float], device: str, *, most: int) -> None:
    """Sets up the log axis of latencies on a device in milliseconds, with at most `most` ticks."""
    low, high = min(latencies) / LABEL_ROOM, max(latencies) * 1.25
    ticks = _log_ticks(low, high, most)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{t:g} ms" for t in ticks])
    axes.set_xlim(low, high)
    axes.set_xlabel(f"median latency on {device}, batch size 1 (log scale)")


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Returns at most `most` round numbers between two bounds."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in MANTISSAS:
        ticks = [m * 10.0**p for p in powers for m in mantissas if low <= m * 10.0**p <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def _bytes_text(size: float) -> str:
    """Returns a round number of bytes as text.

    >>> _bytes_text(500), _bytes_text(15000), _bytes_text(2e6)
    ('500 B', '15 kB', '2 MB')
    """
    for unit, name in ((1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size:g} B"


def label_bits(axes: Axes, groups: list[Group], width: float) -> None:
    """Writes each bit width above its points; widths that are too close share one label. `width` is in inches."""
    left, right = map(math.log, axes.get_xlim())
    centers = {}
    for num_bits in {g.num_bits for g in groups}:
        logs = [math.log(bytes_of(g)) for g in groups if g.num_bits == num_bits]
        centers[num_bits] = (sum(logs) / len(logs) - left) / (right - left)
    clusters: list[list[int]] = []
    for num_bits in sorted(centers, key=lambda b: (centers[b], b)):
        if clusters and centers[num_bits] - centers[clusters[-1][-1]] < LABEL_GAP / width:
            clusters[-1].append(num_bits)
        else:
            clusters.append([num_bits])
    for cluster in clusters:
        x = sum(centers[b] for b in cluster) / len(cluster)
        axes.text(x, 1.01, _cluster_text(cluster), transform=axes.transAxes, ha="center", va="bottom", color=FAINT)


def _cluster_text(cluster: list[int]) -> str:
    """Returns the label of one or more bit widths.

    >>> _cluster_text([2]), _cluster_text([2, 4])
    ('2 bits', '2, 4 bits')
    """
    *first, last = sorted(cluster)
    return ", ".join([*map(str, first), bits(last)])


def interval(part: Group) -> tuple[float, ...]:
    """Returns the ends of the 95% interval of the test set; nothing if its size is not known."""
    return binomial_interval(part.score.mean, part.test_samples) if part.test_samples else ()


def ends(stat: Stat) -> tuple[float, float]:
    """Returns the mean minus and plus the spread, clipped to 0 and 1."""
    spread = stat.std or 0.0
    return max(0.0, stat.mean - spread), min(1.0, stat.mean + spread)
