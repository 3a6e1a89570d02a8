"""Occupancy and entropy of palettes against plain counting, in figures, tables, the page and its plots."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest

from r2keras.record import CompressionRecord
from r2keras.report import Route, Routes, summarize, write_html
from r2keras.report.figures.occupancy import Clusters, occupancy
from r2keras.specs import PaletteSpec, QuantSpec
from tests.export.palettize import palettize_tensor
from tests.report.page import Page
from tests.report.samples import run_rows, tensor

SPECS = {
    "scalar": PaletteSpec(num_bits=4, min_size=0),
    "vectors": PaletteSpec(num_bits=3, dim=4, min_size=0),
    "groups": PaletteSpec(num_bits=2, dim=2, granularity="per_group", group_size=8, min_size=0),
    "wide": PaletteSpec(num_bits=8, min_size=0, table_dtype="int8"),
}

GRID = QuantSpec(num_bits=4, granularity="per_tensor")


def palette(name):
    """Returns a palettized dense kernel."""
    weights = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)
    return palettize_tensor(f"{name}/kernel", weights, SPECS[name])


def plain_entropy(tensor):
    """Returns bits an index, counted table by table."""
    bits = []
    for group in tensor.layout.split_indices(tensor.indices, np):
        counts = Counter(group.tolist())
        bits.append(-sum(n / len(group) * math.log2(n / len(group)) for n in counts.values()))
    return sum(bits) / len(bits)


@pytest.mark.parametrize("name", SPECS)
def test_figures_are_those_of_counting(name):
    made = palette(name)
    found = Clusters.of(made)
    groups = [Counter(group.tolist()) for group in made.layout.split_indices(made.indices, np)]
    assert list(found.counts) == [counter[j] for counter in groups for j in range(made.spec.entries)]
    assert found.used == sum(map(len, groups))
    assert found.largest == max(max(counter.values()) for counter in groups) / made.indices.size
    assert found.entropy == pytest.approx(plain_entropy(made))
    assert found.entropy <= made.spec.num_bits
    assert found.entropy_bytes == pytest.approx(plain_entropy(made) * made.indices.size / 8)


@pytest.mark.parametrize(("counts", "bits"), [([4, 4], 1.0), ([8, 0], 0.0), ([1] * 16, 4.0), ([3, 1], 0.8112781)])
def test_entropy_of_known_shares(counts, bits):
    assert Clusters.of_counts(counts, entries=len(counts), dim=1).entropy == pytest.approx(bits)


@pytest.fixture(scope="module")
def summary():
    made = [palette(name) for name in SPECS] + [tensor("conv/kernel", (3, 3, 4, 8), GRID)]
    return summarize(CompressionRecord({t.name: t for t in made}, {}, 4 * 384 + 288, "small"))


def test_the_text_shows_palettes_alone(summary):
    text = str(summary)
    lines = text[text.index("Palettes") :].splitlines()
    shown = {line.split()[0]: line for line in lines if "/kernel" in line}
    assert set(shown) == {f"{name}/kernel" for name in SPECS}
    assert "2 of 4 x 2" in shown["groups/kernel"]
    found = {t.name: t for t in summary.tensors}["scalar/kernel"]
    assert f"{found.clusters.entropy:.2f} of 4 bits" in shown["scalar/kernel"]
    assert "gzip" not in text


def test_a_record_without_palettes_has_no_such_table():
    made = tensor("conv/kernel", (3, 3, 4, 8), GRID)
    assert "Palettes" not in str(summarize(CompressionRecord({made.name: made}, {}, 288, "small")))


def test_to_dict_is_plain_json(summary):
    plain = {t["name"]: t for t in json.loads(json.dumps(summary.to_dict()))["tensors"]}
    assert plain["conv/kernel"]["clusters"] is None
    assert plain["vectors/kernel"]["clusters"]["entropy"] == pytest.approx(plain_entropy(palette("vectors")))
    assert sum(plain["scalar/kernel"]["clusters"]["counts"]) == 384


@pytest.mark.parametrize("name", SPECS)
def test_the_plot_says_what_it_shows(name):
    svg = str(occupancy(palette(name), name="c0"))
    found = Clusters.of(palette(name))
    assert svg == str(occupancy(palette(name), name="c0"))
    assert f"{found.used} of {len(found.counts)} are used" in svg
    assert f"{found.entropy:.2f} bits per index" in svg


def test_the_page_shows_palettes_and_files(summary, tmp_path):
    files = Routes((Route("size", 40288, 37613, 0.34, 0.4, 5 * 2**20), Route("<b>", 73184, 44708, 0.1, 0.2)))
    path = tmp_path / "report.html"
    write_html(path, run_rows(), records={"student": summary}, routes={"Forms & files": files})
    page = Page(path.read_text(encoding="utf-8"))
    assert "Palettes" in page.text
    assert "2 of 4 x 2" in page.text
    assert "Forms & files" in page.text
    assert "40,288 37,613 0.340 0.400 5,120" in page.text
    assert "<b> 73,184" in page.text
    assert len(page.ids) == len(set(page.ids))
    # A histogram for each tensor, occupancy for each palette.
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert sum(label.startswith("Entries of the palette of") for label in labels) == len(SPECS)
    assert sum(label.startswith("Weights of") for label in labels) == len(SPECS) + 1
