"""Hints before anything is quantized: bits in wider containers, and palettes that take more bytes than grids."""

import logging

import keras
import pytest

from r2keras import PaletteSpec, QuantSpec, Recipe, finalize, prepare
from r2keras._models.walk import view_of
from r2keras._util import hints
from r2keras.compression.storage_hints import storage_hints
from r2keras.compression.weight_plan import plan_of


def net(units=32, inputs=64):
    parts = [keras.layers.Dense(units, name="wide"), keras.layers.ReLU(), keras.layers.Dense(8, name="head")]
    return keras.Sequential([keras.Input((inputs,)), *parts])


def found(model, recipe):
    view = view_of(model)
    return storage_hints(view, plan_of(view, recipe))


@pytest.mark.parametrize(
    ("spec", "containers"),
    [
        (QuantSpec(8), []),
        (QuantSpec(4), []),
        (QuantSpec(3), ["3-bit weights in 4-bit containers"]),
        (QuantSpec(6), ["6-bit weights in 8-bit containers"]),
        (QuantSpec(1), ["1-bit weights in 2-bit containers"]),
        (PaletteSpec(num_bits=3, min_size=0), ["3-bit weights in 4-bit containers"]),
        (PaletteSpec(num_bits=3), []),
    ],
)
def test_containers(spec, containers):
    texts, _ = found(net(units=8), Recipe([(".*", spec)]))
    assert len(texts) == len(containers)
    assert all(words in text for words, text in zip(containers, texts, strict=True))


def test_kernels_that_stay_float_are_named_with_their_bytes():
    _, texts = found(net(), Recipe([(".*", PaletteSpec(num_bits=4))]))
    (small,) = [text for text in texts if "min_size" in text]
    # head/kernel: 32 x 8 floats; a grid has half a byte per weight, and 12 bytes per scale.
    assert small.startswith("head/kernel ") and "1,024 bytes" in small and "224" in small and "wide" not in small


def test_palettes_are_named_only_where_tables_do_not_pay_off():
    recipe = Recipe([("wide", PaletteSpec(num_bits=4))])
    small, large = (found(net(units), recipe)[1] for units in (32, 128))
    assert len(small) == 1 and "wide/kernel" in small[0] and large == []


def test_estimated_bytes_are_those_of_files(tmp_path):
    from r2keras.export import to_litert

    model, sizes = net(), {}
    for name, spec in (("palette", PaletteSpec(num_bits=4)), ("grid", QuantSpec(4))):
        small, record = finalize(prepare(model, Recipe([("wide", spec)])))
        sizes[name] = to_litert(small, tmp_path / f"{name}.tflite", record).file_bytes
    (text,) = found(model, Recipe([("wide", PaletteSpec(num_bits=4))]))[1]
    told = [int(word.replace(",", "")) for word in text.replace(", ", " ").split() if word[0].isdigit()]
    assert told[0] - told[1] == pytest.approx(sizes["palette"] - sizes["grid"], abs=48)


def test_prepare_logs_the_palettes_of_a_model_once(caplog):
    hints.forget()
    model = net()
    with caplog.at_level(logging.WARNING, "r2keras"):
        for _ in range(2):
            prepare(model, Recipe([(".*", PaletteSpec(num_bits=4))]))
    (message,) = caplog.messages
    assert "wide/kernel" in message and "head/kernel" in message
