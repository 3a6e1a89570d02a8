"""Labels beside the points of a plot, placed where they cover neither each other nor a point."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from r2keras.report.figures.svg import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Point = tuple[float, float]
# Offsets in points and alignments, in the order of preference. Better points lie to the upper left of a Pareto front,
# so that its own upper left is free.
PLACES: tuple[tuple[tuple[float, float], str, str], ...] = (
    ((-7, 6), "right", "bottom"),
    ((11, 0), "left", "center"),
    ((7, 6), "left", "bottom"),
    ((7, -6), "left", "top"),
    ((-11, 0), "right", "center"),
    ((-7, -6), "right", "top"),
    ((0, 11), "center", "bottom"),
    ((0, -11), "center", "top"),
)
# Points that stand for one step of a front.
STEPS = 24
# Half the width of the box that a point needs, in points.
POINT_SIZE = 4.0


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[tuple[float, float], Sequence[str]]],
    points: Sequence[tuple[float, float]],
    **look: Any,
) -> list[str]:
    """Writes each label beside its point; a label without a free place is left out.

    Call it last, when the limits of the axes are final: places are checked in the layout of the whole figure.

    Args:
        axes: where the points are drawn.
        labels: position of the point and texts, the first that fits is taken; the most important label first.
        points: positions that no label may cover.
        look: further arguments of `Axes.annotate`.

    Returns:
        The texts that found a place.
    """
    figure = cast("Figure", axes.figure)
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    taken = [_point_box(axes, point, scale) for point in points]
    frame = axes.get_window_extent()
    placed = []
    for point, texts in labels:
        for text, (offset, across, along) in itertools.product(texts, PLACES):
            style = {"fontsize": 8, "color": INK, "ha": across, "va": along, "zorder": 6, **look}
            label = axes.annotate(text, point, offset, textcoords="offset points", **style)
            box = label.get_window_extent()
            if _inside(box, frame) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                placed.append(text)
                break
            label.remove()
    return placed


def along_steps(front: Sequence[Point]) -> list[Point]:
    """Returns points along the steps of a front, with a log axis below: obstacles for `place_labels`."""
    points = []
    for (left, low), (right, high) in itertools.pairwise(front):
        shares = [step / STEPS for step in range(1, STEPS)]
        points += [(left * (right / left) ** share, low) for share in shares]
        points += [(right, low + share * (high - low)) for share in shares]
    return points


def _point_box(axes: Axes, point: tuple[float, float], scale: float) -> Bbox:
    """Returns the box of a point in pixels."""
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform(point)
    half = POINT_SIZE * scale
    return Bbox([[x - half, y - half], [x + half, y + half]])


def _inside(box: Bbox, frame: Bbox) -> bool:
    """Whether a box lies within the frame of the axes."""
    return bool(box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1)
