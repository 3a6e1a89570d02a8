"""The table of flash on an NPU: its plan, its rows over seeds, and crops of training images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import ethos_u, ethos_u_training


@pytest.fixture(autouse=True)
def parsed():
    ethos_u.FLAGS.unparse_flags()
    ethos_u.FLAGS(["ethos_u", "--seeds=0,1"])
    yield
    ethos_u.FLAGS.unparse_flags()


def test_finished_rows_are_not_planned_again():
    plan = ethos_u.missing([])
    assert [key for key in plan if key["method"] == "w8"] == [
        {"net": net, "method": "w8", "seed": 0, "epochs": 0} for net in ethos_u.NETS
    ]
    assert {key["epochs"] for key in plan if key["method"] == "trained2"} == {12, 12 * 36}
    assert ethos_u.missing([{**key, "correct": 1} for key in plan[:-1]]) == plan[-1:]


def test_rows_over_seeds():
    report = {
        "flash_bytes": 2048,
        "sram_bytes": 1024,
        "dram_bytes": 0,
        "npu_operators": 4,
        "cpu_operators": 1,
        "cycles": 9,
    }
    rows = [
        {
            "net": "dscnn",
            "method": "adaround4",
            "seed": seed,
            "epochs": 0,
            "correct": 90 + 2 * seed,
            "samples": 100,
            "file_bytes": 5000,
            "vela": dict.fromkeys(ethos_u.ACCELERATORS, report),
        }
        for seed in (0, 1)
    ]
    line = ethos_u.table(rows).splitlines()[-1]
    assert "| 91.0 ± 1.4 | 5,000 | 2.0 ± 0.0 |" in line and "| 4 of 5 |" in line


def test_the_table_of_the_documents_is_that_of_the_results():
    rows = json.loads(ethos_u.RESULTS.read_text())["rows"]
    page = (ethos_u.RESULTS.parents[2] / "docs" / "results" / "ethos_u.md").read_text("utf-8")
    assert ethos_u.table(rows) in page


def test_crops_move_images_and_keep_their_values():
    images = np.arange(1, 1 + 6 * 4 * 4 * 1, dtype=np.float32).reshape(6, 4, 4, 1)
    crops = ethos_u_training._augmented(images, np.random.default_rng(0))
    assert crops.shape == images.shape
    for crop, image in zip(crops, images, strict=True):
        assert set(crop[crop > 0]) <= set(image.ravel())
