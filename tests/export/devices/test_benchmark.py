"""Files timed in turns: order of rows, ratios, bad input."""

import keras
import pytest

from r2keras.export import benchmark, to_litert
from r2keras.export.devices import benchmark as module


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "m.tflite"
    to_litert(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), file)
    return file


def test_ratios_are_medians_of_rounds(path, monkeypatch):
    seconds = {"a": iter([[1.0, 1.0, 9.0], [2.0, 2.0, 2.0]]), "b": iter([[3.0, 3.0, 3.0], [2.0, 2.0, 50.0]])}
    models = {}

    class Fake:
        def __init__(self, file, *args, **kwargs):
            self.path, self.name = file, "ab"[len(models)]
            models[self.name] = self

        def times(self, runs):
            assert runs == 3
            return next(seconds[self.name])

    monkeypatch.setattr(module, "LiteRTModel", Fake)
    result = benchmark({"a": path, "b": path}, rounds=2, runs=3)
    assert result.rows[0].ratios == (1.0, 1.0, 1.0)
    assert result.rows[1].ratios == (1.5, 2.0, 2.5)
    assert result.rows[1].median_ms == 3.0


def test_files_run(path):
    result = benchmark({"first": path, "second": path}, rounds=2, runs=1, xnnpack=False)
    assert [row.name for row in result.rows] == ["first", "second"]
    assert "built-in kernels" in str(result) and result.to_dict()["rounds"] == 2


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"rounds": 0}, "`rounds`"),
        ({"runs": 0}, "`runs`"),
        ({"num_threads": 0}, "`num_threads`.*from 1 to 1024"),
        ({"num_threads": 100_000}, "`num_threads`.*from 1 to 1024"),
    ],
)
def test_numbers_out_of_range(path, arguments, expected, monkeypatch):
    monkeypatch.setattr(module, "LiteRTModel", lambda *args, **kwargs: pytest.fail("a file was opened"))
    with pytest.raises(ValueError, match=expected):
        benchmark({"a": path}, **arguments)


@pytest.mark.parametrize("files", [["a.tflite"], "a.tflite", None])
def test_files_without_names(files):
    with pytest.raises(TypeError, match=r"`files`.*a dict of paths by name.*Received: files="):
        benchmark(files)


def test_no_files():
    with pytest.raises(ValueError, match="at least one"):
        benchmark({})
