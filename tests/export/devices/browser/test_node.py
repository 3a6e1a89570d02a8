"""Files on LiteRT.js in Node, by the worker of the page: which run, and how near they come to the outputs here."""

import json

import numpy as np
import pytest

from r2keras.export import web_page
from tests.export.devices.browser.forms import FORMS, X
from tests.litert_js import NODE, run_in_node

pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")


@pytest.fixture
def page(small_files, litert_js, tmp_path):
    """Returns a page of all forms: its folder and its entries."""
    folder = web_page([small_files[form] for form in FORMS], X, tmp_path / "page").parent
    return folder, json.loads((folder / "page.json").read_text())["files"]


def test_every_form_runs_and_passes(page):
    folder, entries = page
    answers = run_in_node(folder, entries)
    assert [answer.get("error") for answer in answers] == [None] * len(FORMS)
    for entry, answer in zip(entries, answers, strict=True):
        assert (answer["sha256"], answer["bytes"], answer["passed"]) == (entry["sha256"], entry["bytes"], True)
        assert answer["max_difference"] <= entry["outputs"][0]["tolerance"] == answer["tolerance"]
        assert answer["runs"] >= len(answer["times"]) > 0 and min(answer["times"]) > 0


def test_wrong_outputs_and_refused_files_are_told_and_the_others_go_on(page, small_files):
    folder, (first, second, third, *_) = page
    expected = folder / first["outputs"][0]["url"]
    values = np.fromfile(expected, "<f4")
    (values + np.float32(0.5)).tofile(expected)
    (folder / second["url"]).write_bytes(small_files["int8 io"].read_bytes())
    wrong, refused, fine = run_in_node(folder, [first, second, third])
    assert not wrong["passed"] and wrong["max_difference"] == pytest.approx(0.5, abs=1e-5)
    assert refused["error"] == "Element type INT8 is not supported."
    assert refused["sha256"] != second["sha256"]
    assert fine["passed"]


def test_outputs_that_are_not_finite_never_pass(page):
    folder, (first, *_) = page
    expected = folder / first["outputs"][0]["url"]
    np.full(5 * 4, np.nan, "<f4").tofile(expected)
    (answer,) = run_in_node(folder, [first])
    assert answer["passed"] is False and answer["max_difference"] is None
