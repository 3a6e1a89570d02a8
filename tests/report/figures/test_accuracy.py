"""Axes of the accuracy plots: ticks at the right positions, points on the right side of a limit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from r2keras.report import group, recommend
from r2keras.report.figures.accuracy import _positions, accuracy_against_bits, accuracy_against_bytes, method_colors
from r2keras.report.figures.axes import accuracy_axis, bytes_axis
from r2keras.report.figures.svg import new_figure, style
from r2keras.report.groups import float_baseline
from tests.report.samples import row, run_rows


def axes():
    with style():
        return new_figure(6, 4).add_subplot()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.98), (0.3, 1.0), (0.5, 0.52), (0.97, 0.985), (0.0, 1.0), (0.9, 0.9)])
def test_accuracy_ticks_stand_at_their_accuracy(low, high):
    groups = group(
        [row(file_accuracy=low, float_accuracy=high), row(method="b", file_accuracy=high, float_accuracy=high)]
    )
    drawn = axes()
    scale = accuracy_axis(drawn, groups, float_baseline(groups))
    values = [float(label.get_text().rstrip("%")) / 100 for label in drawn.get_yticklabels()]
    np.testing.assert_allclose(drawn.get_yticks(), [scale(value) for value in values], atol=1e-9)
    assert len(values) >= 2
    assert len(set(values)) == len(values)
    # The stretched scale has no place above the best accuracy.
    assert high - low <= 0.2 or max(values) <= high
    bottom, top = drawn.get_ylim()
    assert bottom <= scale(low) <= scale(high) <= top


@pytest.mark.parametrize("high", [0.6, 0.9, 1.0])
def test_accuracy_scale_is_strictly_rising(high):
    groups = group([row(file_accuracy=0.05, float_accuracy=high)])
    scale = accuracy_axis(axes(), groups, float_baseline(groups))
    places = [scale(a) for a in np.linspace(0.05, high, 50)]
    assert np.all(np.diff(places) > 0)


@pytest.mark.parametrize("sizes", [(1,), (900, 1100), (27_912, 316_884), (10, 10**9)])
@pytest.mark.parametrize("most", [4, 7])
def test_bytes_ticks_stand_at_their_bytes(sizes, most):
    units = {"B": 1.0, "kB": 1e3, "MB": 1e6}
    groups = group([row(method=str(i), file_bytes=size) for i, size in enumerate(sizes)])
    drawn = axes()
    bytes_axis(drawn, groups, None, most=most)
    told = [label.get_text().split() for label in drawn.get_xticklabels()]
    np.testing.assert_allclose(drawn.get_xticks(), [float(n) * units[unit] for n, unit in told])
    assert 1 <= len(told) <= most
    low, high = drawn.get_xlim()
    assert low < min(sizes) <= max(sizes) < high


@pytest.mark.parametrize("limit", [999, 1000, 1001])
def test_points_that_stand_aside_do_not_cross_the_limit(limit):
    groups = group([row(regularizer=str(i), file_bytes=1000) for i in range(7)])
    drawn = axes()
    advice = recommend([row(file_bytes=1000)], max_accuracy_drop=None, max_bytes=limit)
    bytes_axis(drawn, groups, advice, most=7)
    positions = _positions(drawn, groups, limit).values()
    assert all((x <= limit) == (limit >= 1000) or x == limit for x in positions)
    assert len({round(math.log(x), 9) for x in positions}) > 1


def test_a_method_has_one_colour_in_both_plots():
    groups = group(run_rows())
    colors = method_colors(groups)
    assert len(set(colors.values())) == len(colors) == 3
    by_bytes = accuracy_against_bytes(groups, None, name="a", size=(6, 4))
    by_bits = accuracy_against_bits(groups, name="b", columns=2, width=6)
    for variable in ("var(--s1)", "var(--s2)"):
        assert variable in by_bytes
        assert variable in by_bits
    assert "var(--s0)" in by_bytes
    assert "var(--s0)" not in by_bits


def test_every_regularizer_has_a_panel():
    names = ("none", "l2", "linf", "margin", "a$b$")
    svg = accuracy_against_bits(group(run_rows(regularizers=names)), name="x", columns=3, width=8)
    assert all(f">{name}</text>" in svg for name in names)


def test_nothing_to_draw_is_none():
    assert accuracy_against_bits(group([row(num_bits=32)]), name="x", columns=3, width=8) is None
    assert accuracy_against_bytes(group([row(file_bytes=None)]), None, name="x", size=(6, 4)) is None


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    accuracy_against_bytes(group(run_rows()), None, name="x", size=(6, 4))
    assert dict(matplotlib.rcParams) == before
