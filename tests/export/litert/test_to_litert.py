"""Export of entire models: the file computes the outputs of Keras for every layer, width and grid."""

import collections
import itertools

import keras
import numpy as np
import pytest
from keras import layers

from r2keras._models.either_keras import read_model
from r2keras.export import LiteRTModel, to_litert
from r2keras.export.conversion import converter
from r2keras.export.tflite.constant_values import kind_of, stored_codes
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import WIDTHS, buffer_of
from r2keras.specs import QuantSpec
from tests.export.difference import difference
from tests.export.models import (
    conv_net,
    dense_net,
    equal_kernels,
    norm,
    random_inputs,
    sequence_net,
    shared_layer,
    small_net,
)
from tests.export.quantize import GRIDS, quantize, specs

OUTPUT_TOLERANCE = 1e-5
SHARINGS = ("per_tensor", "per_channel", "per_group")


def check_file(model, path, record):
    """Exports, and asserts that the file is exact with and without XNNPACK."""
    found = to_litert(model, path, record)
    for xnnpack in (True, False):
        assert difference(model, path, random_inputs(model), xnnpack) < OUTPUT_TOLERANCE
    return found


# Of widths, sharings and grids, every pair.
PAIRS = [
    s for s in specs() if (s.num_bits + SHARINGS.index(s.granularity) + GRIDS.index((s.symmetric, s.levels))) % 3 == 0
]


@pytest.mark.parametrize(("make", "first"), [(conv_net, 0), (sequence_net, 10), (sequence_net, 20)])
def test_every_layer_with_every_spec_is_exact(make, first, tmp_path):
    """Kernels take ten specs of the list in turn, so that three models see all of it.

    Every spec in every place of a kernel: tests/export/weights/test_uniform.py.
    """
    model = make()
    choice = itertools.cycle(PAIRS[first : first + 10])
    record = quantize(model, lambda name: next(choice))
    found = check_file(model, tmp_path / "model.tflite", record)
    assert {row.name for row in found.tensors} == set(record.tensors)


@pytest.mark.parametrize("make", [conv_net, sequence_net])
def test_a_float_file_is_exact(make, tmp_path):
    model = make()
    path = tmp_path / "model.tflite"
    found = check_file(model, path, None)
    assert all(tensor.name for graph in read(path).subgraphs for tensor in graph.tensors)
    assert all(row.num_bits == 32 for row in found.tensors)


def test_the_codes_in_the_file_are_the_record_s(exported):
    _, record, path, _ = exported
    file = read(path)
    stored = {t.name.decode(): t for t in file.subgraphs[0].tensors if t.type in WIDTHS}
    hidden = record.tensors["hidden/kernel"]
    np.testing.assert_array_equal(stored_codes(file, stored["hidden/kernel"]), hidden.codes.T)
    assert len(buffer_of(file, stored["hidden/kernel"])) == hidden.codes.size // 4
    assert WIDTHS[stored["head/kernel"].type] == 4


def zero_gammas():
    inputs = keras.Input((8, 8, 4))
    return keras.Model(inputs, layers.add([inputs, norm(gamma="zeros")(layers.Conv2D(4, 3, padding="same")(inputs))]))


def tiny_kernels():
    inputs = keras.Input((4, 4, 3))
    x = layers.Flatten()(layers.Conv2D(1, 1)(norm()(layers.DepthwiseConv2D(1)(inputs))))
    return keras.Model(inputs, layers.Dense(1)(layers.Dense(8)(layers.Dense(1)(x))))


def volumes():
    inputs = keras.Input((5, 5, 5, 3))
    return keras.Model(inputs, layers.Flatten()(norm()(layers.Conv3D(5, 3)(inputs))))


def attention():
    inputs = keras.Input((10, 16))
    x = layers.MultiHeadAttention(4, 8, name="attention")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(16)(layers.LayerNormalization()(layers.add([inputs, x]))))


def unused_and_repeated_outputs():
    inputs = keras.Input((8,))
    hidden = layers.Dense(4)(inputs)
    return keras.Model(inputs, [hidden, inputs, hidden])


@pytest.mark.parametrize(
    "make",
    [shared_layer, equal_kernels, zero_gammas, tiny_kernels, volumes, attention, unused_and_repeated_outputs],
)
def test_unusual_models_are_exact(make, tmp_path):
    model = make()
    record = quantize(model, lambda name: QuantSpec(num_bits=2))
    found = check_file(model, tmp_path / "model.tflite", record)
    if make is equal_kernels:
        assert "the same tensor as" in "".join(row.note for row in found.tensors)


@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_along_a_vocabulary_are_transposed_on_the_device(symmetric, tmp_path):
    model = sequence_net()
    spec = QuantSpec(num_bits=4, granularity="per_group", group_size=4, symmetric=symmetric)
    record = quantize(model, lambda name: spec if name.startswith("embedding") else None)
    assert record.tensors["embedding/embeddings"].scale.shape == (10, 8)
    check_file(model, tmp_path / "model.tflite", record)
    shapes = [list(t.shape) for t in read(tmp_path / "model.tflite").subgraphs[0].tensors if t.type in WIDTHS]
    assert shapes == [[80, 4]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_all_zero_and_constant_kernels_are_exported(symmetric, tmp_path):
    model = dense_net()
    model.get_layer("hidden").kernel.assign(np.zeros((16, 24)))
    model.get_layer("hidden").bias.assign(np.linspace(-1, 1, 24))
    model.get_layer("head").kernel.assign(np.full((24, 4), 0.25))
    record = quantize(model, lambda name: QuantSpec(num_bits=4, symmetric=symmetric))
    to_litert(model, tmp_path / "model.tflite", record)
    inputs = random_inputs(model)
    expected = np.asarray(model(inputs[0]))
    np.testing.assert_allclose(LiteRTModel(tmp_path / "model.tflite").predict(inputs), expected, rtol=1e-6)


def test_sequential_dict_and_fixed_batch(tmp_path):
    first, second = keras.Input((6,), name="zeta"), keras.Input((4,), name="alpha")
    x = layers.concatenate([first, second])
    model = keras.Model({"zeta": first, "alpha": second}, {"b": layers.Dense(3)(x), "a": layers.Dense(2)(second)})
    to_litert(model, tmp_path / "dict.tflite", quantize(model, lambda name: QuantSpec(num_bits=4)))
    rng = np.random.default_rng(0)
    inputs = {"zeta": rng.normal(size=(5, 6)).astype("f"), "alpha": rng.normal(size=(5, 4)).astype("f")}
    file = LiteRTModel(tmp_path / "dict.tflite")
    expected = keras.tree.flatten(model(inputs))
    for actual, y in zip(file.predict(inputs), expected, strict=True):
        np.testing.assert_allclose(actual, y, rtol=1e-5, atol=1e-6)
    assert file.input_names == ["alpha", "zeta"]

    fixed = keras.Sequential([keras.Input((6,), batch_size=4), layers.Dense(3)])
    to_litert(fixed, tmp_path / "fixed.tflite", quantize(fixed, lambda name: QuantSpec(num_bits=4)))
    x = rng.normal(size=(10, 6)).astype("f")
    expected = x @ fixed.layers[0].kernel.numpy()
    np.testing.assert_allclose(LiteRTModel(tmp_path / "fixed.tflite").predict(x), expected, rtol=1e-5, atol=1e-6)


def test_weights_outside_the_record_stay_float(tmp_path):
    model = dense_net()
    record = quantize(model, lambda name: QuantSpec(num_bits=4) if name.startswith("head") else None)
    found = check_file(model, tmp_path / "model.tflite", record)
    assert [row.name for row in found.tensors] == ["head/kernel"]


class Counting(layers.Layer):
    """Assigns to a variable at every call."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x * self.count


class Branching(layers.Layer):
    """Uses its kernel inside a branch."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x):
        return keras.ops.cond(keras.ops.sum(x) > 0, lambda: x @ self.kernel, lambda: x[:, :4] + 0.0)


class Reading(layers.Layer):
    """Uses what variables have and tensors have not."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x):
        return x @ self.kernel.value.read_value()


@pytest.mark.parametrize("layer", [Counting, Branching, Reading])
def test_layers_that_need_variables_are_converted_with_variables(layer, tmp_path):
    model = keras.Sequential([keras.Input((8,), batch_size=1), layer()])
    assert converter._frozen_inference(model, None) is None
    to_litert(model, tmp_path / "m.tflite")
    x = random_inputs(model)[0][:1]
    expected = x if layer is Counting else np.asarray(model(x))
    np.testing.assert_allclose(LiteRTModel(tmp_path / "m.tflite").predict(x), expected, rtol=1e-6)


@pytest.mark.parametrize("make", [small_net, attention])
def test_constants_and_variables_give_the_same_operators(make, monkeypatch):
    source = read_model(make())
    assert converter._frozen_inference(source.model, None) is not None
    frozen = converter.convert(source)
    monkeypatch.setattr(converter, "_frozen_inference", lambda *_: None)
    assert operands(frozen) == operands(converter.convert(source))


def operands(file):
    """Returns the kinds of a file's operators with the bytes of their constants, in any order, which may differ."""
    return collections.Counter(
        (kind_of(file, op), *(buffer_of(file, graph.tensors[i]).tobytes() for i in op.inputs if i >= 0))
        for graph in file.subgraphs
        for op in graph.operators
    )


def test_the_converter_is_silent_and_leaves_streams_and_loggers_alone(tmp_path, capfd):
    import logging

    levels = [logging.getLogger(name).level for name in ("absl", "tensorflow")]
    model = dense_net()
    to_litert(model, tmp_path / "model.tflite")
    LiteRTModel(tmp_path / "model.tflite").predict(random_inputs(model))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert [logging.getLogger(name).level for name in ("absl", "tensorflow")] == levels
