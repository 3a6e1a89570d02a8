"""Plots of accuracy: ticks and points at their true positions, labels that cover nothing, hover text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from r2keras.report import group, recommend
from r2keras.report.figures import scatter
from r2keras.report.figures.accuracy import accuracy_against_bits
from r2keras.report.figures.axes import accuracy_axis, bytes_axis, latency_axis
from r2keras.report.figures.labels import place_labels
from r2keras.report.figures.looks import method_colors
from r2keras.report.figures.scatter import accuracy_against_bytes, accuracy_against_latency
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
    if high - low <= 0.12:  # A linear axis has even ticks.
        assert np.ptp(np.diff(values)) < 1e-9
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


@pytest.mark.parametrize("most", [4, 7])
def test_latency_ticks_stand_at_their_milliseconds(most):
    drawn = axes()
    latency_axis(drawn, [0.02, 0.5, 3.0], "this CPU", most=most)
    assert "on this CPU" in drawn.get_xlabel()
    told = [float(label.get_text().removesuffix(" ms")) for label in drawn.get_xticklabels()]
    np.testing.assert_allclose(drawn.get_xticks(), told)
    assert 2 <= len(told) <= most


@pytest.fixture
def drawn_figures(monkeypatch):
    """The figures that the plots of a test draw."""
    figures = []
    to_svg = scatter.to_svg
    monkeypatch.setattr(
        scatter, "to_svg", lambda figure, *args, **kw: figures.append(figure) or to_svg(figure, *args, **kw)
    )
    return figures


def test_every_point_is_at_its_size_and_accuracy(drawn_figures):
    sizes = [1000, 1000, 1000, 10_300]
    rows = [row(regularizer=str(i), file_bytes=size, file_accuracy=0.9 + i / 100) for i, size in enumerate(sizes)]
    advice = recommend(rows, max_accuracy_drop=0.05, max_bytes=1000)
    accuracy_against_bytes(group(rows), advice, name="a", size=(8, 4))
    [figure] = drawn_figures
    points = [line for line in figure.axes[0].lines if (line.get_gid() or "").startswith("tip")]
    assert [line.get_xdata()[0] for line in points] == sizes
    np.testing.assert_allclose([line.get_ydata()[0] for line in points], [0.90, 0.91, 0.92, 0.93])
    fills = [line.get_markerfacecolor() for line in points]
    assert fills[:2] == ["none", "none"] and "none" not in fills[2:]  # The front is filled.


def test_every_point_has_hover_text():
    rows = [
        row(method="ptq_mse", num_bits=4, latency_ms=0.21, path=None),
        row(method="<b>", seed=0),
        row(method="<b>", seed=1, file_accuracy=0.9),
    ]
    for draw in (accuracy_against_bytes, accuracy_against_latency):
        svg = draw(group(rows), None, name="a", size=(8, 4))
        assert svg.count('<g class="tip"><title>') == 2
        text = "4-bit, post-training (MSE ranges), R2 L-infinity\n96.50 % accuracy\n27,912 bytes\n0.210 ms"
        assert f"<title>{text}</title>" in svg
        assert "2-bit, &lt;b&gt;, R2 L-infinity\n93.25 ±4.60 % accuracy" in svg


def test_labels_cover_neither_points_nor_each_other():
    drawn = axes()
    drawn.set_xlim(0, 10)
    drawn.set_ylim(0, 10)
    points = [(x, y) for x in (2.0, 5.0, 5.2, 8.0) for y in (3.0, 3.4, 7.0)]
    texts = place_labels(drawn, [(point, ["a long label", "short"]) for point in points], points)
    boxes = [text.get_window_extent() for text in drawn.texts]
    assert len(boxes) == len(texts) >= 4
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    pixels = [drawn.transData.transform(point) for point in points]
    assert not any(box.contains(*pixel) for box in boxes for pixel in pixels)


def test_a_label_without_a_place_is_left_out():
    drawn = axes()
    assert place_labels(drawn, [((0.5, 0.5), ["x" * 200])], []) == []
    assert list(drawn.texts) == []


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
    shown = ("no regularizer", "L2", "R2 L-infinity", "R2 margin", "a$b$")
    assert all(f">{name}</text>" in svg for name in shown)


def test_nothing_to_draw_is_none():
    assert accuracy_against_bits(group([row(num_bits=32)]), name="x", columns=3, width=8) is None
    assert accuracy_against_bytes(group([row(file_bytes=None)]), None, name="x", size=(6, 4)) is None
    assert accuracy_against_latency(group([row(latency_ms=None)]), None, name="x", size=(6, 4)) is None


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    accuracy_against_bytes(group(run_rows()), None, name="x", size=(6, 4))
    assert dict(matplotlib.rcParams) == before
