"""The table of targets: its cells, and files of some features on the runtimes at hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import targets


def test_refusals_are_no_and_the_oldest_version_is_named():
    names = ("LiteRT", "oldest", "LiteRT.js", "microcontrollers", "Ethos-U")
    first = ("runs", "1.2.0", "runs", "refused: why", "3 of 5")
    second = ("refused: x", "-", "wrong", "runs", "runs")
    rows = {"a": dict(zip(names, first, strict=True)), "b": dict(zip(names, second, strict=True))}
    lines = targets.table(rows).splitlines()
    assert lines[2] == "| a | 1.2.0 | yes | no | 3 of 5 |"
    assert lines[3] == "| b | no | wrong | yes | yes |"


def test_the_table_of_the_documents_is_that_of_the_results():
    import json

    rows = json.loads(targets.RESULTS.read_text())
    assert list(rows) == list(targets.features())
    assert not [row for row in rows.values() if any(cell.startswith("wrong") for cell in row.values())]
    page = (targets.RESULTS.parents[2] / "docs" / "deploy" / "index.md").read_text("utf-8")
    assert targets.table(rows) in page


@pytest.mark.parametrize("feature", ["integers, 4 bits for microcontrollers", "look-up tables of 3 bits (to_tflm)"])
def test_files_of_microcontrollers(feature, tmp_path):
    from r2keras.export import golden

    path = tmp_path / "model.tflite"
    x = targets.write(feature, path)
    assert targets.on_tflm(path, x, golden(None, path, x), "tables" in feature) == "runs"


def test_what_a_runtime_refuses_is_told(tmp_path):
    path = tmp_path / "model.tflite"
    x = targets.write("exact, 2 bits", path)
    assert np.shape(x) == (4, 8, 8, 16)
    assert targets.attempt(lambda: targets.on_npu(path)).startswith("refused: Invalid value for argument `path`")
