"""The text tables: numbers against NumPy, width, no escape codes."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from r2keras.record import QuantizedActivation, QuantizedTensor, RangeFigures
from r2keras.report import results_table, summarize, to_text, write_html
from r2keras.specs import QuantSpec
from tests.report.samples import file_summary, row, run_rows
from tests.report.samples import record as make_record


def lines_of(rows, width=120):
    return to_text(results_table(rows), width=width).splitlines()


def test_numbers_equal_numpy():
    rows = run_rows()
    lines = [line.replace(" ±", "±").split() for line in lines_of(rows) if "±" in line and "mean" not in line]
    keys = list(dict.fromkeys((r["regularizer"], r["method"], r["num_bits"]) for r in rows))
    assert len(lines) == len(keys) == 14
    for cells in lines:
        bits = 32 if cells[2] == "float" else int(cells[2])
        same = [r for r in rows if (r["regularizer"], r["method"], r["num_bits"]) == (cells[0], cells[1], bits)]
        assert int(cells[3]) == len(same) == 3
        for cell, column in zip(cells[4:7], ("float_accuracy", "accuracy", "file_accuracy"), strict=True):
            values = 100 * np.array([r[column] for r in same])
            mean, spread = map(float, cell.split("±"))
            assert mean == pytest.approx(values.mean(), abs=0.00501)
            assert spread == pytest.approx(values.std(ddof=1), abs=0.00501)
        assert cells[7] == f"{max(r['file_bytes'] for r in same):,}"
        assert float(cells[8]) == pytest.approx(np.mean([r["latency_ms"] for r in same]), rel=0.01)
        assert float(cells[9]) == pytest.approx(np.mean([r["max_over_std"] for r in same]), rel=0.01)


def test_one_seed_has_no_spread_and_none_is_a_dash():
    text = "\n".join(lines_of([row(file_accuracy=None, file_bytes=None, latency_ms=None, max_over_std=None)]))
    assert "±" not in text
    assert text.count("\u2013") == 4


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_fits_its_width(width):
    for text in (to_text(results_table(run_rows()), width=width), to_text(file_summary(), width=width)):
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text or width < 80


def test_no_colour_codes_in_text():
    assert "\x1b" not in to_text(results_table(run_rows()))
    assert "\x1b" not in str(file_summary())


def test_a_terminal_gets_the_same_table():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    console.print(results_table(run_rows()))
    assert "regularizer" in console.file.getvalue()


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", "<b>", "a$b$"])
def test_names_are_no_markup(name):
    assert name in "\n".join(lines_of([row(regularizer=name)], width=140))


def test_no_rows():
    with pytest.raises(ValueError, match="at least one result row"):
        results_table([])


def dynamic_tensor():
    """Returns a tensor whose products round the rows of their input."""
    spec, one = QuantSpec(4, activation_bits=8, activation_method="dynamic"), np.ones((1, 1), np.float32)
    codes, before = np.array([[-2, 1]], np.int8), RangeFigures.of(np.array([-1.0, 0.6]))
    return QuantizedTensor("last/kernel", codes, one, 0 * one, spec, before)


def test_activations_and_remarks_of_the_calibration(tmp_path):
    plain = make_record()
    grid = QuantizedActivation("stem_relu", 0.5, -2, 2)
    record = dataclasses.replace(plain, activations={"stem_relu": grid}, notes={"stem/kernel": "AdaRound: <half>"})
    text = to_text(summarize(record), width=100)
    (line,) = [line for line in text.splitlines() if "stem_relu" in line]
    assert line.split() == ["stem_relu", "2", "0.00", "to", "1.50", "0.500"]
    assert "AdaRound: <half>" in text
    assert "Quantized activations" not in to_text(summarize(plain), width=100)
    tensors = {"last/kernel": dynamic_tensor()}
    rows = to_text(summarize(dataclasses.replace(plain, tensors=tensors)), width=100)
    assert "rows before last/kernel" in rows and "of each row" in rows
    write_html(tmp_path / "a.html", run_rows(), records={"small": record})
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "0.00 to 1.50" in page and "AdaRound: &lt;half&gt;" in page
