"""Bytes of a model under a recipe: the figures of the method, of a record and of a file on disk."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import PaletteSpec, QuantSpec, Recipe, break_even_width, footprint, prepare, widen
from r2keras.record import table_bytes
from tests import nets


def language_model(units, vocabulary=10_000):
    words = keras.Input((None,), dtype="int32")
    x = layers.Embedding(vocabulary, units, name="words")(words)
    x = layers.LSTM(units, return_sequences=True, name="lstm")(x)
    return keras.Model(words, layers.Dense(vocabulary, name="softmax")(x), name="ptb")


def whole(num_bits):
    return Recipe([(".*", QuantSpec(num_bits=num_bits, granularity="per_tensor"))])


@pytest.mark.parametrize(
    ("units", "num_bits", "megabytes"),
    [(300, None, 26.92), (300, 4, 3.40), (300, 2, 1.72), (600, 4, 7.49), (600, 2, 3.77)],
)
def test_figures_of_the_language_model(units, num_bits, megabytes):
    model = language_model(300)
    model = model if units == 300 else widen(model, units / 300, match="words|lstm")
    found = footprint(model, whole(num_bits) if num_bits else None)
    assert round(found.bytes / 1e6, 2) == pytest.approx(megabytes, abs=0.0051)
    # The formula itself: four kernels packed, biases float, four scales (and half steps at 2 bits).
    kernels, biases = 2 * 10_000 * units + 8 * units**2, 4 * units + 10_000
    tables = 4 * 4 * (2 if num_bits == 2 else 1) if num_bits else 0
    assert found.bytes == kernels * (num_bits or 32) // 8 + 4 * biases + tables
    assert found.float_bytes == 4 * (kernels + biases)


SPECS = [
    QuantSpec(num_bits=8),
    QuantSpec(num_bits=3, granularity="per_tensor"),
    QuantSpec(num_bits=2),
    QuantSpec(num_bits=4, granularity="per_group", group_size=2),
    PaletteSpec(num_bits=2, min_size=0),
    PaletteSpec(num_bits=3, dim=2, min_size=0, table_dtype="int8"),
    PaletteSpec(
        num_bits=2, min_size=0, channel_scale=True, granularity="per_group", group_size=2, table_dtype="float16"
    ),
    PaletteSpec(num_bits=4),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}{spec.num_bits}{spec.granularity}")
def test_rows_are_those_of_the_record(spec):
    layers_ = [keras.Input((6, 6, 2)), layers.Conv2D(4, 3, name="conv"), layers.Flatten(), layers.Dense(4, name="head")]
    model, recipe = keras.Sequential(layers_), Recipe([(".*", spec)])
    student = prepare(model, recipe)
    _, record = r2keras.finalize(student)
    found = footprint(model, recipe)
    summary = r2keras.report.summarize(record)
    rows = {t.name: (t.num_bits, t.scale_bytes, math.ceil(t.ideal_bytes)) for t in summary.tensors}
    assert {t.name: (t.num_bits, t.scale_bytes, t.code_bytes) for t in found.tensors if t.num_bits < 32} == rows
    assert found.float_bytes == summary.float_bytes
    assert footprint(student) == found


@pytest.mark.parametrize("num_bits", [2, 4, 8])
def test_rows_are_the_bytes_of_the_file(tmp_path, num_bits):
    model = nets.plain()
    recipe = Recipe([(".*", QuantSpec(num_bits=num_bits))])
    small, record = r2keras.finalize(prepare(model, recipe))
    sizes = r2keras.export.to_litert(small, tmp_path / "m.tflite", record)
    sizes = sizes or r2keras.export.sizes(record, tmp_path / "m.tflite")
    in_file = {row.name: row.packed_bytes for row in sizes.tensors}
    counted = {t.name: t.container_bytes + t.scale_bytes for t in footprint(model, recipe).tensors if t.num_bits < 32}
    assert counted == in_file


def test_three_bits_need_wider_containers():
    found = footprint(nets.plain(), whole(3))
    head = next(t for t in found.tensors if t.name == "head/kernel")
    assert (head.code_bytes, head.container_bytes) == (math.ceil(192 * 3 / 8), 192 // 2)
    assert found.container_bytes > found.bytes


def test_kernels_that_stay_float_are_named_and_regularizers_not_counted():
    model = r2keras.regularize(nets.plain(), r2keras.R2Margin(0.01))
    found = footprint(model, Recipe([("head", None), (".*", QuantSpec(num_bits=4))]))
    assert found.counted == "all weights, 1 kernel compressed, float: head/kernel"
    assert found.float_bytes == 4 * nets.plain().count_params()
    text = str(found)
    assert "conv/kernel" in text
    assert "6 biases and statistics" in text
    assert found.to_dict()["tensors"][0]["shape"] == [3, 3, 2, 3]


def test_break_even_of_recurrent_kernels():
    assert [round(break_even_width(bits), 2) for bits in (2, 3, 4, 8)] == [4.0, 3.27, 2.83, 2.0]


def test_break_even_of_a_whole_model_is_where_its_bytes_cross(units=20):
    model = language_model(units, vocabulary=50)
    limit = footprint(model).bytes
    for match in (None, "lstm|words"):
        width = break_even_width(4, model, match=match)
        below, above = math.floor(width * units) / units, math.ceil(width * units) / units
        sizes = [footprint(widen(model, m, match=match), whole(4)).bytes for m in (below, above)]
        assert sizes[0] <= limit < sizes[1]


def test_break_even_without_a_recurrent_kernel_is_found_too():
    model = keras.Sequential([keras.Input((30,)), layers.Dense(8, name="in"), layers.Dense(10, name="head")])
    width = break_even_width(8, model)
    assert footprint(widen(model, math.floor(8 * width) / 8), whole(8)).bytes <= footprint(model).bytes
    assert footprint(widen(model, math.ceil(8 * width + 0.01) / 8), whole(8)).bytes > footprint(model).bytes


def no_smaller():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="in"), layers.Dense(2, name="head")])
    return break_even_width(8, model, recipe=Recipe([("in", QuantSpec(granularity="per_group", group_size=1))]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: break_even_width(9), "`num_bits`. Expected an integer from 1 to 8"),
        (lambda: break_even_width(2, match="lstm"), "`match`. Expected None without a model"),
        (lambda: footprint(prepare(nets.plain(), whole(4)), whole(4)), "compressed already"),
        (lambda: footprint(nets.plain(), Recipe([("lstm", QuantSpec())])), "'lstm', which matches nothing"),
        (no_smaller, "not smaller than the float model at width 1"),
    ],
)
def test_mistakes_are_told(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_values_are_not_looked_at():
    model = nets.plain()
    before = nets.weights_of(model)
    footprint(model, whole(2))
    assert all(np.array_equal(value, before[path]) for path, value in nets.weights_of(model).items())


@pytest.mark.parametrize("method", ["ste", "alternating", "balanced"])
def test_recurrent_layers_with_specs_of_their_own_cost_what_their_record_does(method):
    spec = r2keras.QuantSpec(num_bits=3, method=method)
    inputs = keras.Input((6, 5))
    x = r2keras.layers.QuantizedLSTM(
        4, kernel_spec=spec, recurrent_spec=spec, state_spec=r2keras.QuantSpec(num_bits=3), name="lstm"
    )(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    found = {t.name: t for t in r2keras.footprint(model).tensors}
    _, record = r2keras.finalize(model)
    for name, tensor in record.tensors.items():
        assert found[name].num_bits == 3
        assert found[name].code_bytes == math.ceil(tensor.ideal_bits / 8)
        assert found[name].scale_bytes == table_bytes(tensor)
    assert set(found) == {*record.tensors, "lstm/lstm_cell/bias", "head/kernel", "head/bias"}
