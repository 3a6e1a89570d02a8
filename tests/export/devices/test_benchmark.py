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


@pytest.mark.parametrize("arguments, expected", [({"rounds": 0}, "`rounds`"), ({"runs": 0}, "`runs`")])
def test_numbers_below_1(path, arguments, expected):
    with pytest.raises(ValueError, match=expected):
        benchmark({"a": path}, **arguments)


def test_no_files():
    with pytest.raises(ValueError, match="at least one"):
        benchmark({})
