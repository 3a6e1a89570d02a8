"""Results as text and as HTML: tables, captions and groups, with everything escaped."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from rich.console import Group

from r2keras import QuantSpec, Recipe
from r2keras._util.display import Tabular, to_html
from r2keras._util.tables import add_row, new_table, pairs_table, text_cell
from r2keras.export import FileSizes, Latency, TFLMSizes, Verification
from r2keras.export.runtime.file_sizes import TensorSize
from r2keras.record import CompressionRecord, QuantizedActivation

ROW = TensorSize("<b>/kernel", (3, 4), 3, 4, 48, 12, 4.5, "3-bit codes & more")
RESULTS = {
    "sizes": FileSizes((ROW,), 52, 1400, 900),
    "sizes for microcontrollers": TFLMSizes((ROW,), 52, 1400, 900, 4096),
    "verification": Verification(2e-6, 8.0, 1.0, 0.75, 0.75, 200, 0.5, 3),
    "latency": Latency(0.25, 0.4),
    "recipe": Recipe([("<edges>", QuantSpec(8)), ("a", None), (".*", QuantSpec(2, method="lsq"))], ["equalize"]),
    "record": CompressionRecord(
        {}, {"<i>/kernel": "no rule"}, 10, "net", {"a": QuantizedActivation("a", 0.1, 0, 8)}, {"x": "a note"}
    ),
}


class Checker(HTMLParser):
    """Collects the text of cells and paragraphs, and checks that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert checker.tags <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td", "br"}
    return checker.texts


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_print_and_notebooks_show_the_same_words(result):
    assert isinstance(result, Tabular)
    printed = " ".join(str(result).split())
    texts = parsed(result._repr_html_())
    assert len(texts) > 2
    for text in texts:
        assert " ".join(text.split()) in printed


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sizes", ["<b>/kernel", "3x4", "3-bit codes & more", "1,400 bytes, 900 after gzip"]),
        ("sizes for microcontrollers", ["4,096 bytes"]),
        ("verification", ["samples", "200", "2.5e-07", "100.00%", "75.00% in Keras", "3 of 200 samples"]),
        ("latency", ["0.250 ms", "0.400 ms"]),
        ("recipe", ["<edges>", "8 bits", "lsq", "float", "Steps: equalize"]),
        ("record", ["<i>/kernel", "no rule", "1 at 8 bits", "x: a note"]),
    ],
)
def test_print_shows_the_figures(name, words):
    shown = str(RESULTS[name])
    assert [word for word in words if word not in shown] == []


def test_html_of_groups_alignment_and_line_breaks():
    table = new_table("T", [("name", False), ("number", True)])
    add_row(table, ["[red]a[/red]", "1"])
    found = to_html(Group(table, text_cell("one\n<two>")))
    assert '<td style="text-align: left">[red]a[/red]</td><td style="text-align: right">1</td>' in found
    assert found.endswith("<p>one<br>&lt;two&gt;</p>")
    assert "<th" not in to_html(pairs_table("", [("a", "b")]))
