"""Files for microcontrollers with Huffman codes compute what those with tables compute, in fewer bytes."""

import functools
import re

import keras
import numpy as np
import pytest
from keras import layers

from r2keras.export import TFLMModel, c_array, sizes, to_tflm, verify
from r2keras.export.runtime.lookup_checks import check_for_microcontrollers
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import FLOAT32
from r2keras.export.weights import lookup_forms
from r2keras.export.weights.decode_operator import is_decode
from r2keras.specs import PaletteSpec, QuantSpec
from tests.export.models import conv_net, norm, random_inputs, shared_layer
from tests.export.palettize import compress

pytestmark = pytest.mark.usefixtures("converted_once")
HUFFMAN = re.compile(r"Huffman codes of \d\.\d bits on average")


@pytest.fixture
def always(monkeypatch):
    """Makes Huffman codes pay for every weight on a uniform grid."""
    monkeypatch.setattr(lookup_forms.HuffmanIntegers, "num_bytes", -(10**7))


@functools.cache
def compressed(spec):
    """Returns a net with a large kernel, whose weights are normally distributed, and its record; tests share both."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 16))
    x = layers.Conv2D(64, 3, name="conv", kernel_initializer="random_normal", use_bias=False)(inputs)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(norm()(x)))
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    return model, compress(model, lambda name, shape: spec)


def written(model, spec, folder):
    """Compresses a model, and returns what `both` does."""
    return both(model, compress(model, lambda name, shape: spec), folder)


def both(model, record, folder):
    """Returns the sizes of both forms, after comparing their outputs."""
    memory, size = folder / "memory.tflite", folder / "size.tflite"
    found = to_tflm(model, memory, record, check=False), to_tflm(model, size, record, optimize="size", check=False)
    x = random_inputs(model, 3)
    outputs = TFLMModel(memory).predict(x), TFLMModel(size).predict(x)
    for a, b in zip(*(keras.tree.flatten(output) for output in outputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.ptp(b))
    assert verify(model, size, x).passed(1e-6)
    assert sizes(record, size).tensors == found[1].tensors
    return found


@pytest.mark.parametrize("num_bits", [2, 4, 5])
def test_the_file_is_smaller_and_computes_the_same(num_bits, tmp_path, microcontrollers):
    memory, size = both(*compressed(QuantSpec(num_bits=num_bits)), tmp_path)
    assert size.file_bytes < memory.file_bytes
    conv = next(row for row in size.tensors if row.name.startswith("conv"))
    assert HUFFMAN.match(conv.note)
    assert conv.note.endswith("one factor per channel after the operator")
    assert not any(HUFFMAN.match(row.note) for row in memory.tensors)


@pytest.mark.parametrize(
    "spec",
    [
        QuantSpec(num_bits=4, symmetric=False),
        QuantSpec(num_bits=2, granularity="per_tensor"),
        pytest.param(QuantSpec(num_bits=8), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_layers_of_every_kind(spec, always, tmp_path, microcontrollers):
    _, size = written(conv_net(), spec, tmp_path)
    assert sum(bool(HUFFMAN.match(row.note)) for row in size.tensors) >= 8


def test_a_shared_layer_is_decoded_in_front_of_each_use(always, tmp_path, microcontrollers):
    written(shared_layer(), QuantSpec(num_bits=4), tmp_path)
    file = read(tmp_path / "size.tflite")
    assert sum(is_decode(file, op) for op in file.subgraphs[0].operators) == 2


def test_loops(always, tmp_path, near, microcontrollers):
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, layers.LSTM(8, name="lstm")(inputs))
    _, size = written(model, QuantSpec(num_bits=4, granularity="per_tensor"), tmp_path)
    assert any(HUFFMAN.match(row.note) for row in size.tensors)


def test_palettes_keep_their_tables(tmp_path, microcontrollers):
    memory, size = both(*compressed(PaletteSpec(num_bits=3, min_size=0)), tmp_path)
    assert memory.file_bytes == size.file_bytes


@pytest.fixture
def path(tmp_path):
    """Returns the path of a file with Huffman codes."""
    model, record = compressed(QuantSpec(num_bits=4))
    to_tflm(model, tmp_path / "size.tflite", record, optimize="size", check=False)
    return tmp_path / "size.tflite"


def test_codes_become_c_arrays(path, tmp_path, microcontrollers):
    assert {"DECODE", "DEQUANTIZE"} <= set(c_array(path, tmp_path / "firmware").operators)


def broken(file, change):
    graph = file.subgraphs[0]
    decode = next(op for op in graph.operators if is_decode(file, op))
    packed, ancillary = (file.buffers[graph.tensors[i].buffer] for i in decode.inputs[:2])
    change(graph.tensors[decode.outputs[0]], packed, ancillary)


def retype(tensor, packed, ancillary):
    tensor.type = FLOAT32


def shorten(tensor, packed, ancillary):
    packed.data = packed.data[:8]


def cut_table(tensor, packed, ancillary):
    ancillary.data = ancillary.data[:18]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (retype, "another type|not of the type|has a result"),
        (shorten, "too few codewords"),
        (cut_table, "beyond its tables"),
    ],
)
def test_damage_is_found_before_a_run(change, words, path):
    file = read(path)
    check_for_microcontrollers(file, "it")
    broken(file, change)
    with pytest.raises(ValueError, match=words):
        check_for_microcontrollers(file, "it")


def test_another_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`optimize`. Expected one of 'memory', 'size'".replace(".", r"\.")):
        to_tflm(shared_layer(), tmp_path / "m.tflite", optimize="latency", check=False)
