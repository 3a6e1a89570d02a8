"""Running files: batches, order, wrong input, and files that are broken."""

import numpy as np
import pytest

from r2keras.export import LiteRTModel, benchmark, c_array, ethos_u, golden, inspect, sizes, web_page
from tests.export.models import random_inputs


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100])
def test_batches_change_nothing(exported, batch_size):
    model, _, path, _ = exported
    inputs = random_inputs(model)
    expected = np.asarray(model(inputs[0]))
    np.testing.assert_allclose(LiteRTModel(path).predict(inputs, batch_size), expected, rtol=1e-5, atol=1e-6)


def test_the_progress_bar_changes_nothing(exported, capsys):
    model, _, path, _ = exported
    inputs = random_inputs(model)
    file = LiteRTModel(path)
    np.testing.assert_array_equal(file.predict(inputs, 8, progress=True), file.predict(inputs, 8))


@pytest.mark.parametrize(
    "x",
    [np.zeros((4, 15)), np.zeros((4, 16, 1)), np.zeros((0, 16)), [np.zeros((4, 16))] * 2, {"other": np.zeros((4, 16))}],
)
def test_wrong_input_is_refused_and_the_next_one_runs(exported, x):
    file = LiteRTModel(exported[2])
    with pytest.raises(ValueError, match="Invalid value for argument `x`"):
        file.predict(x)
    assert file.predict(np.zeros((3, 16))).shape == (3, 4)


def test_batch_size_and_runs_have_to_be_positive(exported):
    with pytest.raises(ValueError, match="batch_size"):
        LiteRTModel(exported[2]).predict(np.zeros((3, 16)), batch_size=0)
    with pytest.raises(ValueError, match="num_runs"):
        LiteRTModel(exported[2]).latency(num_runs=0)


def test_latency_is_positive_and_ordered(exported):
    found = LiteRTModel(exported[2]).latency(num_runs=10)
    assert 0 < found.median_ms <= found.p90_ms


def test_files_cut_anywhere_are_errors_and_no_crash(exported, tmp_path):
    data = exported[2].read_bytes()
    path = tmp_path / "cut.tflite"
    for part in range(24):
        path.write_bytes(data[: len(data) * part // 24])
        with pytest.raises(ValueError, match=r"cut\.tflite is not a readable \.tflite"):
            LiteRTModel(path)


def test_random_bytes_in_a_file_are_errors_or_harmless(exported, tmp_path):
    data, rng = exported[2].read_bytes(), np.random.default_rng(0)
    path = tmp_path / "flipped.tflite"
    refused = 0
    for _ in range(60):
        flipped = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            flipped[place] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        try:
            LiteRTModel(path)
        except ValueError as error:
            refused += "is not a readable .tflite" in str(error)
    assert refused > 10


@pytest.mark.parametrize("place", [0, 4, 16])
def test_identifier_and_offsets_are_checked(exported, tmp_path, place):
    data = bytearray(exported[2].read_bytes())
    data[place : place + 4] = b"\xff\xff\xff\x7f"
    (tmp_path / "bad.tflite").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.tflite is not a readable \.tflite"):
        LiteRTModel(tmp_path / "bad.tflite")
    with pytest.raises(ValueError, match=r"bad\.tflite is not a readable \.tflite"):
        sizes(exported[1], tmp_path / "bad.tflite")


@pytest.mark.parametrize("isolated", [False, True])
def test_too_many_threads_are_refused(exported, isolated):
    with pytest.raises(ValueError, match=r"`num_threads`.*an integer from 1 to 1024.*num_threads=100000"):
        LiteRTModel(exported[2], 100_000, isolated=isolated)


@pytest.mark.parametrize(
    "opened",
    [
        LiteRTModel,
        inspect,
        ethos_u,
        lambda path: golden(None, path, np.ones((1, 16))),
        lambda path: benchmark({"a": path}),
        lambda path: web_page([path], np.ones((1, 16)), path / "page"),
        lambda path: c_array(path, path / "c"),
    ],
)
def test_a_folder_is_called_one(tmp_path, opened):
    with pytest.raises(IsADirectoryError, match=r" is a folder\. Expected a \.tflite file\."):
        opened(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path, exported):
    with pytest.raises(FileNotFoundError, match=r"File not found: .*none\.tflite"):
        LiteRTModel(tmp_path / "none.tflite")
    with pytest.raises(FileNotFoundError, match=r"File not found: .*none\.tflite"):
        sizes(exported[1], tmp_path / "none.tflite")
