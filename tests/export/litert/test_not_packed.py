"""Reasons why the products of a dynamic file take no recorded weight."""

import re

import keras
import pytest
from keras import layers

from r2keras import PaletteSpec, QuantSpec, Recipe, finalize, prepare
from r2keras.export import to_litert
from r2keras.export.litert.not_packed import grid


@pytest.mark.parametrize(
    ("spec", "reason", "fix"),
    [
        (PaletteSpec(num_bits=4, min_size=0), "a palette of 16 entries", "a palette of 1 or 2 bits, or a QuantSpec"),
        (PaletteSpec(num_bits=2, dim=2, min_size=0), "a palette of vectors of 2", "dim=1 and 1 or 2 bits"),
        (QuantSpec(4, symmetric=False), "an asymmetric grid", "symmetric=True"),
        (QuantSpec(4, granularity="per_group", group_size=4), "a grid per group", "granularity='per_channel'"),
        (QuantSpec(8, levels="mid_rise"), r"codes up to 2\d\d, above 127", "num_bits=7 or levels='mid_tread'"),
        (QuantSpec(4, channel_axis=0), "scales that vary along its inputs", "one scale per output channel"),
    ],
)
def test_reasons_of_grids(spec, reason, fix):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="head")])
    _, record = finalize(prepare(model, Recipe([(".*", spec)])))
    found, remedy = grid(record.tensors["head/kernel"])
    assert re.fullmatch(reason, found) and fix in remedy


@pytest.mark.usefixtures("near")
def test_the_message_names_kernels_and_what_to_do(tmp_path):
    convolutions = [layers.Conv2D(8, 3, name="conv"), layers.Conv2D(8, 2, name="next")]
    convolutions += [layers.Conv2D(4, 1, 2, name="strided"), layers.DepthwiseConv2D(2, name="d")]
    parts = [layers.Flatten(), layers.Dense(8, name="palette")]
    model = keras.Sequential([keras.Input((8, 8, 4)), *convolutions, *parts])
    rules = [("palette", PaletteSpec(num_bits=4, min_size=0)), (".*", QuantSpec(4))]
    small, record = finalize(prepare(model, Recipe(rules)))
    with pytest.raises(ValueError, match="without a matrix product that takes recorded weights") as error:
        to_litert(small, tmp_path / "m.tflite", record, activations="dynamic")
    text = str(error.value)
    named = "'conv/kernel' (a convolution of 3 by 3), 'next/kernel' (a convolution of 2 by 2), "
    named += "'strided/kernel' (a convolution of 1 by 1, stride 2), 'd/kernel' (a depthwise convolution) and 1 more."
    assert f"Received: activations='dynamic' with {named}" in text
    assert text.endswith("Quantize 'palette/kernel' with a palette of 1 or 2 bits, or a QuantSpec.")
    assert not list(tmp_path.iterdir())
