"""The comparison of LiteRT.js with x86: its plan, its rows and tables, its results file; slow: files of every form."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from benchmarks import browser, browser_files, browser_table
from benchmarks.arm_files import FORMS, NETS, File
from benchmarks.common import Rows
from r2keras.export import Golden, GoldenTensor
from tests import litert_js
from tests.chromium import BINARY

REFUSED_FORMS = {"integer, int8 io", "integer, memory, int8 io", "fused", "open batch"}


def test_every_form_takes_part_and_finished_rows_are_not_planned_again():
    files = browser_files.files()
    assert {file.form for file in files} == {*FORMS, "open batch"}
    assert {file.net for file in files} == set(NETS)
    plan = browser.planned(["dense-W4-exact", "dense-W4-dynamic"], ["node", "chromium"], [])
    assert [file.name for file in plan] == ["dense-W4-exact", "dense-W4-dynamic"]
    rows = [{"file": "dense-W4-exact", "engine": engine} for engine in ("node", "chromium")]
    rows.append({"file": "dense-W4-dynamic", "engine": "node"})
    missing = browser.planned(["dense-W4-exact", "dense-W4-dynamic"], ["node", "chromium"], rows)
    assert missing == {File("dense", "W4", "dynamic"): ["chromium"]}


def test_rows_have_shares_of_the_range_or_a_refusal():
    file = File("dense", "W4", "exact")
    outputs = (GoldenTensor("y", np.array([[-1.0], [3.0]], np.float32), tolerance=0.1),)
    values = Golden("m.tflite", "", "", (), outputs)
    row = browser.row_of(file, values, {"passed": True, "max_difference": 0.02, "error": None})
    assert (row["passed"], row["difference"]) == (True, pytest.approx(0.005))
    row = browser.row_of(file, values, {"error": "no"})
    assert row["refused"] == "no" and "passed" not in row


def test_tables_count_files_and_refusals():
    same = {"net": "dense", "weights": "W4", "engine": "node", "version": "v20"}
    ran = {**same, "form": "exact", "passed": True, "difference": 1e-7}
    rows = [{**ran, "file": "a"}, {**ran, "file": "b", "difference": 0.5, "passed": False}]
    rows.append({**same, "file": "c", "form": "fused", "refused": "no variables"})
    text = browser_table.tables(rows)
    assert "| exact, W4 | 1/2, 5.0e-01 |  |" in text
    assert "| fused | 1 refused |  |" in text
    assert "- Node: `no variables` (1 fused)" in text


def test_the_results_are_complete_and_every_file_that_runs_passes():
    rows = json.loads(browser.RESULTS.read_text())
    names = {file.name for file in browser_files.files()}
    for engine in browser.ENGINES:
        assert {row["file"] for row in rows if row["engine"] == engine} == names
    run = [row for row in rows if row["engine"] in browser.ENGINES]
    assert {row["form"] for row in run if "refused" in row} == REFUSED_FORMS
    assert [row["file"] for row in run if "refused" not in row and not row["passed"]] == []
    assert {row["net"] for row in rows if row["engine"] == "timed"} == set(browser_files.TIMED)


def test_the_document_has_the_tables_of_the_results():
    page = (browser.RESULTS.parents[2] / "docs" / "results" / "browser.md").read_text("utf-8")
    tables = re.findall(r"(?:^\|.*\n?)+", browser_table.tables(json.loads(browser.RESULTS.read_text())), re.MULTILINE)
    assert len(tables) == 2
    assert [table for table in tables if table.strip() not in page] == []


@pytest.mark.slow
@pytest.mark.skipif(litert_js.NODE is None or BINARY is None, reason="Node or Chromium is not installed")
def test_every_form_runs_as_the_results_say(tmp_path, near):
    try:
        litert_js.packages()
    except litert_js.Unavailable as error:
        pytest.skip(str(error))
    patterns = ["lstm-W2-*", "lstm-palette_2-*", "lstm-alternating_2-*", "conv-W4-*", "dense-W2_mid_tread-*"]
    patterns += ["dense-W4-open_batch", "embedding-W8-*", "dense-float-*"]
    store = Rows(tmp_path / "rows.json", browser.KEYS)
    browser.run(store, patterns, ["node", "chromium"])
    assert {row["form"] for row in store.rows} == {*FORMS, "open batch"}
    assert {row["form"] for row in store.rows if "refused" in row} == REFUSED_FORMS
    assert [row["file"] for row in store.rows if "refused" not in row and not row["passed"]] == []
