"""Outcome of a search: the Pareto front, the recommendation, the plot."""

from __future__ import annotations

import json

import pytest

from r2keras.search import Outcome
from r2keras.search.outcome import _compare


def outcome(search, values, metric="accuracy", **counts):
    """An outcome of `(method, bits, width, bytes, value)`; value None: given up."""
    rows = []
    for index, (method, bits, width, size, value) in enumerate(values):
        state = "given up" if value is None else "complete"
        row = {
            "trial": index,
            "label": f"{method} {bits} x{width:g}",
            "method": method,
            "num_bits": bits,
            "width": width,
        }
        row |= {"state": state, "epochs": 2, "seed": 0, metric: value, "drop": None, "bytes": size, "path": None}
        rows.append(row | {"container_bytes": size, "counted": "", "on_front": False, "seconds": 1.0, "reason": ""})
    _compare(search, rows)
    return Outcome(search, tuple(rows), **({"over_budget": 0, "undefined": 0, "left": 0} | counts))


ACCURACIES = [
    ("float", 32, 1.0, 1000, 0.90),
    ("float", 32, 2.0, 3000, 0.92),
    ("ste", 2, 1.0, 100, 0.80),
    ("ste", 4, 1.0, 180, 0.895),
    ("lsq", 2, 2.0, 190, 0.88),
    ("ste", 8, 1.0, 300, 0.91),
    ("ste", 3, 1.0, 140, None),
]


def test_front_is_what_nothing_beats(search):
    found = outcome(search(), ACCURACIES)
    assert [row["label"] for row in found.front] == ["ste 2 x1", "ste 4 x1", "ste 8 x1"]
    assert [round(row["drop"], 3) for row in found.front] == [0.1, 0.005, -0.01]


@pytest.mark.parametrize(
    ("limits", "label"),
    [
        ({"max_drop": 0.01}, "ste 4 x1"),
        ({"max_drop": 0.0}, "ste 8 x1"),
        ({"max_drop": 0.1}, "ste 2 x1"),
        ({"max_bytes": 200}, "ste 4 x1"),
        ({"max_bytes": 90}, None),
        ({}, None),
    ],
)
def test_smallest_within_the_drop_or_best_within_the_bytes_is_taken(search, limits, label):
    chosen = outcome(search(**limits), ACCURACIES).chosen
    assert (chosen and chosen["label"]) == label


def test_text_says_what_to_take_and_what_is_missing(search):
    text = outcome(search(max_drop=0.01), ACCURACIES, over_budget=3, left=2).text
    assert text == (
        "Use ste 4 x1: accuracy 89.50% in 180 bytes, 5.6 times smaller than float 32 x1 (90.00%), 0.50 points below. "
        "The float model of the same width has 90.00% in 1,000 bytes. "
        "Candidates without a result: 3 over the budget, 1 stopped early, 2 not trained yet."
    )
    assert "No result meets the limits" in outcome(search(max_drop=0.0), ACCURACIES[:4]).text
    assert outcome(search(max_drop=0.0), []).text == "No candidate is finished yet."


def test_perplexity_is_better_when_it_is_less(search):
    values = [("float", 32, 1.0, 1000, 100.0), ("ste", 2, 1.0, 100, 120.0), ("ste", 4, 1.0, 150, 101.0)]
    values += [("ste", 8, 1.0, 300, 130.0)]
    found = outcome(search(metric="perplexity", max_drop=0.01), values, "perplexity")
    assert [row["label"] for row in found.front] == ["ste 2 x1", "ste 4 x1"]
    assert "perplexity 101 in 150 bytes" in found.text
    assert "1.00% above its perplexity" in found.text


@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_plot_shows_candidates_front_and_controls(search, tmp_path, suffix, metric):
    values = [(*v[:4], v[4] and (v[4] if metric == "accuracy" else 100 / v[4])) for v in ACCURACIES]
    found = outcome(search(metric=metric, max_drop=0.01, max_bytes=400), values, metric)
    found.plot(path := tmp_path / f"front.{suffix}")
    data = path.read_bytes()
    if suffix == "png":
        assert data.startswith(b"\x89PNG")
    else:
        legend = ("float, widened", "Pareto front", "width 2", "lsq", "limits", "recommended")
        title = f"{metric.capitalize()} against bytes of the weights"
        words = (*legend, f"validation {metric}", "8 bits", "\u00d72", title)
        assert [word for word in words if word not in data.decode()] == []
        assert b"#f1e0" not in data


def test_table_and_json_hold_every_row(search, tmp_path):
    found = outcome(search(), ACCURACIES)
    text = str(found)
    assert all(row["label"] in text for row in found.rows)
    assert "stopped early" in text
    found.save(tmp_path / "results.json")
    config = json.loads((tmp_path / "results.json").read_text())
    assert [row["bytes"] for row in config["rows"]] == [v[3] for v in ACCURACIES]
    assert config["front"] == ["ste 2 x1", "ste 4 x1", "ste 8 x1"]


def test_mistakes_are_told(search, tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.png or \.svg"):
        outcome(search(), ACCURACIES).plot(tmp_path / "front.pdf")
    with pytest.raises(ValueError, match="at least one finished candidate"):
        outcome(search(), []).plot(tmp_path / "front.svg")
