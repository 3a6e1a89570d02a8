"""Public functions read each model once: its layers, and where they need them its calls."""

import collections

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import PaletteSpec, QuantSpec, Recipe, export
from r2keras._models import graph, walk
from r2keras.calibration import AdaRoundOptions
from r2keras.regularizers import R2Margin

FOUR_BITS = Recipe([(".*", QuantSpec(num_bits=4))])
EIGHT_BITS = Recipe([(".*", QuantSpec(num_bits=8, granularity="per_channel", activation_bits=8))])
ALL_STEPS = Recipe([(".*", QuantSpec(num_bits=4))], steps=["fold_batch_norm", "equalize", "adaround", "correct_bias"])
SENSITIVE = Recipe([(".*", PaletteSpec(num_bits=2, min_size=0))], steps=["sensitivity", "reestimate_batch_norm"])
ENDS = {"input_bits": 8, "output_bits": 8}
IMAGES = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32")


def image_net():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(3, 3, use_bias=False)], name="block"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax"),
        ]
    )


def sequence_net():
    return keras.Sequential([keras.Input((4, 3)), layers.LSTM(4), layers.Dense(2)])


class Reads:
    """Counts the readings of every model, and keeps the models so that no two have the same identity."""

    def __init__(self, monkeypatch):
        self.models = []
        self.by_kind = {"layers": collections.Counter(), "calls": collections.Counter()}
        self._patch(monkeypatch, walk, "_collect", "layers")
        self._patch(monkeypatch, graph, "_append_calls", "calls")

    def _patch(self, monkeypatch, module, name, kind):
        original = getattr(module, name)

        def counted(model, prefix, *args):
            # Nested models are read as parts of the outer one.
            if not prefix:
                self.models.append(model)
                self.by_kind[kind][id(model)] += 1
            return original(model, prefix, *args)

        monkeypatch.setattr(module, name, counted)

    def check(self, model):
        assert self.by_kind["layers"][id(model)] == 1
        for counts in self.by_kind.values():
            assert all(count == 1 for count in counts.values())


CALLS = {
    "prepare": lambda model: r2keras.prepare(model, FOUR_BITS),
    "prepare with activations": lambda model: r2keras.prepare(model, EIGHT_BITS, **ENDS),
    "activation_plan": lambda model: r2keras.activation_plan(model, EIGHT_BITS, **ENDS),
    "calibrate": lambda model: r2keras.calibrate(model, FOUR_BITS, IMAGES),
    "calibrate with activations": lambda model: r2keras.calibrate(model, EIGHT_BITS, IMAGES, **ENDS),
    "calibrate with sensitivity": lambda model: r2keras.calibrate(model, SENSITIVE, IMAGES),
    "regularize": lambda model: r2keras.regularize(model, R2Margin(0.01)),
    "footprint": lambda model: r2keras.footprint(model, FOUR_BITS),
    "footprint of a plain model": r2keras.footprint,
    "float file": lambda model: export.to_litert(model, "float.tflite"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_model_is_read_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = image_net()
    reads = Reads(monkeypatch)
    CALLS[name](model)
    reads.check(model)


def test_all_steps_of_calibration_read_each_model_once(monkeypatch):
    layer_list = [keras.Input((6, 6, 2)), layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU()]
    model = keras.Sequential([*layer_list, layers.Conv2D(2, 3)])
    reads = Reads(monkeypatch)
    r2keras.calibrate(model, ALL_STEPS, IMAGES, options=AdaRoundOptions(iterations=2), progress=False)
    reads.check(model)


def test_finalize_reads_the_student_once(monkeypatch):
    student = r2keras.prepare(image_net(), FOUR_BITS)
    reads = Reads(monkeypatch)
    r2keras.finalize(student)
    reads.check(student)


@pytest.mark.parametrize("net", [image_net, sequence_net])
def test_widen_reads_the_model_once(net, monkeypatch):
    model = net()
    reads = Reads(monkeypatch)
    r2keras.widen(model, 2.0)
    reads.check(model)


def test_the_break_even_width_reads_the_model_once_for_all_widths(monkeypatch):
    model = sequence_net()
    reads = Reads(monkeypatch)
    r2keras.break_even_width(4, model)
    reads.check(model)


@pytest.mark.parametrize("options", [{}, {"activations": "int8", "io": "int8"}])
def test_to_litert_reads_the_model_once(options, tmp_path, monkeypatch):
    model, record = r2keras.calibrate(image_net(), EIGHT_BITS, IMAGES, **ENDS)
    reads = Reads(monkeypatch)
    export.to_litert(model, tmp_path / "model.tflite", record, **options)
    reads.check(model)


def test_to_litert_with_fused_lstm_reads_the_model_once(tmp_path, monkeypatch):
    model, record = r2keras.calibrate(sequence_net(), FOUR_BITS)
    reads = Reads(monkeypatch)
    export.to_litert(model, tmp_path / "model.tflite", record, recurrent="fused")
    reads.check(model)


def test_streaming_reads_the_model_once(monkeypatch):
    model = sequence_net()
    reads = Reads(monkeypatch)
    export.streaming(model)
    reads.check(model)
