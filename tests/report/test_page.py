"""The HTML page: complete, self-contained, escaped, reproducible, and with every number."""

from __future__ import annotations

import re

import numpy as np
import pytest

from r2keras.record import CompressionRecord
from r2keras.report import recommend, write_html
from tests.report.page import Page
from tests.report.samples import file_summary, record, row, run_rows

EVIL = "<u>&\"'$x$"
SETTINGS = {"command": "python -m examples.pilot --seeds 0,1,2", "seeds": [0, 1, 2], "versions": {"keras": "3.15.1"}}


def write(path, rows=None, **options):
    rows = run_rows() if rows is None else rows
    write_html(path, rows, **options)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    advice = recommend(run_rows(), max_accuracy_drop=0.5, max_bytes=20_000)
    records = {"linf, 2 bits": file_summary(), "record only": record()}
    return write(path, recommendation=advice, records=records, title="Digits", settings=SETTINGS)


def test_is_well_formed(full):
    page = Page(full)
    assert full.startswith("<!DOCTYPE html>")
    assert page.tags[:2] == ["html", "head"]


def test_needs_nothing_else(full):
    assert "http" not in full
    assert "@import" not in full
    page = Page(full)
    assert not {"link", "iframe", "img", "object", "embed", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert name not in ("src", "srcset", "data", "action")
        assert name != "href" or tag == "a" or value.startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", full))


def test_ids_are_unique_and_found(full):
    page = Page(full)
    assert len(page.ids) == len(set(page.ids))
    targets = set(re.findall(r"url\(#([^)]*)\)", full)) | {v[1:] for _, name, v in page.attributes if name == "href"}
    assert targets <= set(page.ids)
    assert targets


def test_every_colour_is_one_of_the_page(full):
    assert "#f1e0" not in full
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", full))
    light, dark = re.findall(r":root \{(.*?)\}", full, re.DOTALL)
    assert "@media screen and (prefers-color-scheme: dark)" in full  # Printed pages are light.
    for theme in (light, dark):
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", theme))


def test_recommendation_comes_first(full):
    text = Page(full).text
    assert text.index("Use ") < text.index("Accuracy against bytes") < text.index("All runs")
    for sentence in recommend(run_rows(), max_accuracy_drop=0.5, max_bytes=20_000).sentences:
        assert sentence in text


def test_has_every_run_and_every_mean(full):
    text = Page(full).text
    rows = run_rows()
    for one in rows:
        cells = [f"{100 * one[name]:.2f}%" for name in ("float_accuracy", "accuracy", "file_accuracy")]
        assert " ".join([*cells, f"{one['file_bytes']:,}"]) in text
        assert f"{one['latency_ms']:#.3g}" in text
        assert one["path"] in text
    for key in {(r["regularizer"], r["method"], r["num_bits"]) for r in rows}:
        values = 100 * np.array(
            [r["file_accuracy"] for r in rows if (r["regularizer"], r["method"], r["num_bits"]) == key]
        )
        assert f"{values.mean():.2f} ±{values.std(ddof=1):.2f}" in text


def test_has_sizes_ranges_and_reasons(full):
    text = Page(full).text
    for expected in (
        "3-bit codes in a 4-bit container",
        "no rule matches",
        "3,188",
        "8,000",
        "3x3x8x16",
        "stem/ kernel",
    ):
        assert expected in text
    before, after = file_summary().tensors[2].before.max_over_std, file_summary().tensors[2].after.max_over_std
    assert f"{before:.2f} → {after:.2f}" in text


def test_plots_have_words_for_those_who_do_not_see_them(full):
    page = Page(full)
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == page.tags.count("svg") == 2 + 2 + 2 + 3 + 3
    assert all(len(label) > 40 for label in labels)
    weights = record().tensors["dense/kernel"]
    levels = len(np.unique(weights.values()))
    assert f"Weights of dense/kernel: 480 values from {weights.before.low:.2f}" in " ".join(labels)
    assert f"; {levels} levels from" in " ".join(labels)


def test_has_what_is_needed_to_get_the_numbers_again(full):
    text = Page(full).text
    assert SETTINGS["command"] in text
    assert "seeds 0, 1, 2" in text
    assert "versions keras 3.15.1" in text


def test_same_bytes_on_every_run(full, tmp_path):
    advice = recommend(run_rows(), max_accuracy_drop=0.5, max_bytes=20_000)
    records = {"linf, 2 bits": file_summary(), "record only": record()}
    again = write(tmp_path / "b.html", recommendation=advice, records=records, title="Digits", settings=SETTINGS)
    assert again == full


def test_names_are_escaped_everywhere(tmp_path):
    rows = [row(regularizer=EVIL, method=EVIL + "m", path=EVIL, dataset=EVIL, extra=EVIL, num_bits=b) for b in (2, 4)]
    advice = recommend(rows, max_accuracy_drop=0.5, max_bytes=None)
    weights = record().tensors["dense/kernel"]
    object.__setattr__(weights, "name", EVIL + "/kernel")
    evil = CompressionRecord({weights.name: weights}, {EVIL: EVIL}, 1000, EVIL)
    options = {"records": {EVIL: evil}, "title": EVIL, "settings": {EVIL: EVIL, "command": EVIL}}
    text = write(tmp_path / "e.html", rows, recommendation=advice, **options)
    page = Page(text)
    assert "u" not in page.tags
    assert "<u>" not in text
    assert page.text.count(EVIL) >= 12
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert all(EVIL in label for label in labels)


def test_the_recommended_setting_comes_first_then_the_front(tmp_path):
    accuracies = {1: 0.80, 2: 0.95, 3: 0.94, 4: 0.96, 8: 0.955}
    rows = [row(num_bits=bits, file_bytes=1000 * bits, file_accuracy=value) for bits, value in accuracies.items()]
    advice = recommend(rows, max_accuracy_drop=0.02, max_bytes=None)
    text = write(tmp_path / "order.html", rows, recommendation=advice)
    table = text[text.index('id="results"') : text.index("All runs")]
    lines = table.split("<tr")[2:]
    assert [int(re.search(r">(\d)-bit", line)[1]) for line in lines] == [4, 1, 2, 3, 8]
    assert ["&#9670;" in line for line in lines] == [True, True, True, False, False]
    assert ["chosen" in line for line in lines] == [True, False, False, False, False]


def test_constant_columns_are_told_once(full):
    assert "The same in every row: seeds 3." in Page(full).text
    assert ">seeds</th>" not in full
    assert "The same in every run: ideal_bytes 20,000, dataset digits." in Page(full).text


def test_files_are_relative_links(tmp_path):
    (tmp_path / "my files").mkdir()
    file = tmp_path / "my files" / "a.tflite"
    file.write_bytes(b"1")
    rows = [row(path=str(file)), row(num_bits=4, path=str(tmp_path / "absent.tflite"))]
    advice = recommend(rows, max_accuracy_drop=None, max_bytes=None)
    page = Page(write(tmp_path / "links.html", rows, recommendation=advice))
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == ["my%20files/a.tflite"] * 3
    assert "Open the recommended file" in page.text


def test_next_commands_and_default_settings(tmp_path):
    advice = recommend(run_rows(), max_accuracy_drop=0.5, max_bytes=None)
    options = {"commands": [("Check <it>", "r2keras-verify --file=a")], "default_settings": {"epochs": 15}}
    text = write(tmp_path / "c.html", recommendation=advice, **options)
    page = Page(text)
    assert "Check <it>: r2keras-verify --file=a" in page.text
    folded = text[text.index("Settings at their default") :]
    assert "<dt>epochs</dt><dd>15</dd>" in folded and text.count("<details>") == 2


def test_validation_and_noise_are_shown(tmp_path):
    columns = {"float_validation_accuracy": 0.97, "test_samples": 500, "validation_samples": 129}
    rows = [{**one, **columns, "validation_accuracy": one["file_accuracy"]} for one in run_rows()]
    advice = recommend(rows, max_accuracy_drop=0.5, max_bytes=None)
    text = Page(write(tmp_path / "v.html", rows, recommendation=advice)).text
    assert "95% interval of 500 samples" in text
    assert "Chosen on 129 validation samples" in text
    assert "validation %" in text
    assert "checked on validation data" in text


def test_sixty_runs_stay_below_a_megabyte(tmp_path):
    names = ("none", "l2", "linf", "margin", "kurtosis")
    rows = run_rows(regularizers=names, methods=("ptq_mse",), seeds=(0, 1, 2))
    assert len(rows) == 60
    advice = recommend(rows, max_accuracy_drop=0.5, max_bytes=None)
    records = {"a": file_summary(), "b": file_summary()}
    assert len(write(tmp_path / "60.html", rows, recommendation=advice, records=records).encode()) < 1_000_000


def test_nothing_fits(tmp_path):
    advice = recommend(run_rows(), max_accuracy_drop=0.0, max_bytes=1)
    text = Page(write(tmp_path / "n.html", recommendation=advice)).text
    assert "No result meets the limits" in text
    assert advice.sentences[1] in text


@pytest.mark.parametrize(
    "rows",
    [
        [row()],
        [row(file_bytes=None, file_accuracy=None, latency_ms=None, max_over_std=None, path=None)],
        [row(method="float", num_bits=32)],
        [row(float_accuracy=1.0, accuracy=1.0, file_accuracy=1.0), row(seed=1, float_accuracy=1.0, file_accuracy=0.0)],
        [row(num_bits=b, file_bytes=1, file_accuracy=0.0) for b in (1, 2, 3, 4, 5, 6, 7, 8)],
        [row(method=str(i), regularizer=str(i), file_bytes=10**i) for i in range(12)],
    ],
    ids=["one", "no_file", "float_only", "extremes", "same_size", "many"],
)
def test_odd_rows_make_a_page(tmp_path, rows):
    assert Page(write(tmp_path / "odd.html", rows)).text


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one result row"),
        ([{"regularizer": "linf"}], {}, ValueError, "Row 0 of the results lacks the columns 'method'"),
        ([row()], {"recommendation": "take it"}, TypeError, "the result of `recommend`"),
        (
            [row()],
            {"records": {"a": CompressionRecord({}, {"k": "why"}, 1, "m")}},
            ValueError,
            "'a', which has no compressed",
        ),
    ],
    ids=["empty", "missing", "recommendation", "record"],
)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path, rows, options, error, message):
    with pytest.raises(error, match=message):
        write_html(tmp_path / "bad.html", rows, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Could not write"):
        write_html(tmp_path / "file" / "report.html", [row()])
