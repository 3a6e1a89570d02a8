"""Colors of methods and markers of regularizers, the same in all figures of a page."""

from __future__ import annotations

from collections.abc import Iterable

from r2keras.report.figures.svg import MARKERS, SERIES
from r2keras.report.groups import Group


def method_colors(groups: Iterable[Group]) -> dict[str, str]:
    """Returns one color per method, in the order of their first group."""
    return {m: SERIES[i % len(SERIES)] for i, m in enumerate(dict.fromkeys(g.method for g in groups))}


def regularizer_markers(groups: Iterable[Group]) -> dict[str, str]:
    """Returns one marker per regularizer, in the order of their first group."""
    return {r: MARKERS[i % len(MARKERS)] for i, r in enumerate(dict.fromkeys(g.regularizer for g in groups))}
