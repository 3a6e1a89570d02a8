"""Comparison of files: the figures are those of the files."""

from __future__ import annotations

import gzip

import keras
import pytest

from r2keras.report import compare_routes


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    from r2keras.export import to_litert

    folder = tmp_path_factory.mktemp("routes")
    for name, units in (("small", 4), ("large", 400)):
        to_litert(keras.Sequential([keras.Input((64,)), keras.layers.Dense(units)]), folder / f"{name}.tflite")
    return {name: folder / f"{name}.tflite" for name in ("small", "large")}


def test_figures_are_those_of_the_files(files):
    found = compare_routes(files, num_runs=20)
    assert [row.name for row in found.rows] == ["small", "large"]
    for row in found.rows:
        data = files[row.name].read_bytes()
        assert row.file_bytes == len(data)
        assert row.gzip_bytes == len(gzip.compress(data, 6, mtime=0))
        assert 0 < row.median_ms <= row.p90_ms
        assert row.peak_bytes is None or row.peak_bytes > 2**16
    assert found.to_dict()["rows"][1]["name"] == "large"


def test_the_table_shows_every_file(files):
    text = str(compare_routes(files, num_runs=2, memory=False))
    for name, path in files.items():
        assert name in text
        assert f"{path.stat().st_size:,}" in text


def test_no_files_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at least one \.tflite"):
        compare_routes({})
    with pytest.raises(FileNotFoundError, match="none"):
        compare_routes({"exact": tmp_path / "none.tflite"})


@pytest.mark.parametrize("files", [["a.tflite"], "a.tflite"])
def test_files_without_names(files):
    with pytest.raises(TypeError, match=r"`files`.*a dict of paths by name"):
        compare_routes(files)


def test_too_many_threads_are_refused():
    with pytest.raises(ValueError, match=r"`num_threads`.*from 1 to 1024"):
        compare_routes({"a": "none.tflite"}, num_threads=100_000)
