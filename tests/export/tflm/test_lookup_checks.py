"""Look-up tables in a file for microcontrollers: an index or a size that does not fit is refused before it runs."""

import numpy as np
import pytest

from r2keras.export import TFLMModel, inspect, tflm_arena, to_litert, to_tflm
from r2keras.export.runtime.lookup_checks import check_for_microcontrollers
from r2keras.export.tflite.interpreter import read
from r2keras.export.weights.decode_operator import is_decode
from r2keras.specs import QuantSpec
from tests.export.models import dense_net
from tests.export.quantize import quantize


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Returns the path of a file with look-up tables."""
    model, path = dense_net(), tmp_path_factory.mktemp("tables") / "m.tflite"
    to_tflm(model, path, quantize(model, lambda name: QuantSpec(num_bits=2)), check=False)
    return path


@pytest.fixture
def file(path):
    return read(path)


def constant(file, position):
    """Returns the buffer of an input of the first look-up: 0 for indices, 1 for header and tables."""
    graph = file.subgraphs[0]
    operator = next(op for op in graph.operators if is_decode(file, op))
    return file.buffers[graph.tensors[operator.inputs[position]].buffer]


def test_a_whole_file_passes(file):
    check_for_microcontrollers(file, "it")


def changed(place, value):
    def change(file):
        data = constant(file, 1).data.copy()
        data[place] = value
        constant(file, 1).data = data

    return change


def cut(position, size):
    def change(file):
        constant(file, position).data = constant(file, position).data[:size]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(0, 9), "unknown kind of table"),
        (changed(5, 0), "unknown kind of table"),
        (changed(5, 0xF7), "too few indices"),
        (changed(6, 1), "bytes of tables instead of"),
        (changed(6, 0), "bytes of tables instead of"),
        (cut(0, 3), "too few indices"),
        (cut(1, 10), "no table"),
        (cut(1, 20), "bytes of tables instead of"),
    ],
)
def test_a_broken_table_is_named(file, change, words):
    change(file)
    with pytest.raises(ValueError, match=f"^it is not a readable .*{words}"):
        check_for_microcontrollers(file, "it")


def test_an_index_beyond_its_table_is_named(file):
    """Three entries instead of four: an index of 3 has none."""
    indices, ancillary = constant(file, 0), constant(file, 1)
    entries, axis = int(ancillary.data[6]), int(ancillary.data[5]) >> 4
    tables = ancillary.data[16:].view("<f4").reshape(-1, entries)
    data = np.concatenate([ancillary.data[:16], np.ascontiguousarray(tables[:, :1]).view(np.uint8).ravel()])
    data[6] = 1
    ancillary.data = data
    indices.data = np.full_like(indices.data, 0xFF)
    assert axis == 15 or len(tables) > 1
    with pytest.raises(ValueError, match="index beyond its table"):
        check_for_microcontrollers(file, "it")


def test_several_scales_of_a_float_operator_are_refused(tmp_path, microcontrollers):
    """The runtime would apply the first one to all channels."""
    path, model = tmp_path / "m.tflite", dense_net()
    to_litert(model, path, quantize(model, lambda name: QuantSpec(num_bits=8)), batch_size=1)
    for run in (TFLMModel, tflm_arena):
        with pytest.raises(ValueError, match=r"cannot run .*m.tflite \(DEQUANTIZE of .* 24 scales.*target='mcu'"):
            run(path)
    assert "24 scales" in inspect(path).runtimes["LiteRT for Microcontrollers"]
    to_litert(model, path, quantize(model, lambda name: QuantSpec(num_bits=8, granularity="per_tensor")), batch_size=1)
    assert TFLMModel(path).predict(np.ones((2, 16))).shape == (2, 4)
