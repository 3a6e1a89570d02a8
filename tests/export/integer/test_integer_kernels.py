"""Integer operators one by one, against arithmetic in NumPy on the codes of their inputs."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras import QuantSpec, Recipe, calibrate
from r2keras._util import optional_packages
from r2keras.export import LiteRTModel, TFLMModel, to_litert
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import FLOAT32, INT8

X = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32")


def calibrated(model, bits=8):
    """Returns the quantized model and its record."""
    recipe = Recipe([(".*", QuantSpec(num_bits=bits, activation_bits=8))])
    return calibrate(model, recipe, X, integer=True, progress=False)


def exported(model, path, bits=8):
    """Writes the integer file of a model; returns the quantized model and its record."""
    small, record = calibrated(model, bits)
    to_litert(small, path, record, activations="int8", io="int8")
    return small, record


def kinds(path, type_code=FLOAT32):
    """Returns the kinds of a file's operators with outputs of a type."""
    file = read(path)
    graph = file.subgraphs[0]
    return [kind_of(file, op) for op in graph.operators if graph.tensors[op.outputs[0]].type == type_code]


def spread(values, kernel, stride):
    """Returns the sums of a transposed convolution without padding; `kernel` is `(height, width, out, in)`."""
    count, height, width, _ = values.shape
    taps_y, taps_x, channels, _ = kernel.shape
    sums = np.zeros((count, (height - 1) * stride + taps_y, (width - 1) * stride + taps_x, channels), values.dtype)
    for y in range(taps_y):
        for x in range(taps_x):
            part = values @ kernel[y, x].T
            sums[:, y : y + height * stride : stride, x : x + width * stride : stride] += part
    return sums


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("bits", [8, 4])
def test_a_transposed_convolution_computes_integer_arithmetic(bits, tmp_path):
    keras.utils.set_random_seed(1)
    up = layers.Conv2DTranspose(5, 3, strides=2, activation="relu", bias_initializer="normal", name="up")
    small, record = exported(keras.Sequential([keras.Input(X.shape[1:], name="in"), up]), path := tmp_path / "m", bits)
    assert kinds(path) == []
    weight = next(tensor for tensor in read(path).subgraphs[0].tensors if tensor.name == b"up/kernel")
    # The kernel of LiteRT takes no 4-bit weights.
    assert weight.type == INT8
    kernel, grids = record.tensors["up/kernel"], record.activations
    codes = np.random.default_rng(3).integers(-128, 128, (20, *X.shape[1:]))
    sums = spread(codes - grids["in"].zero_point, kernel.codes.astype(np.int64), 2)
    step = grids["in"].scale * kernel.scale.astype(np.float64).ravel()
    sums += np.rint(small.get_layer("up").bias.numpy() / step).astype(np.int64)
    expected = np.clip(np.rint(sums * step / grids["up"].scale) + grids["up"].zero_point, -128, 127)
    assert np.unique(expected).size > 100
    # XNNPACK, which rounds once, takes a batch of a fixed size only; LiteRT's built-in kernel rounds twice.
    to_litert(small, tmp_path / "one", record, activations="int8", io="int8", batch_size=1)
    for name, largest in ((path, 0.06), (tmp_path / "one", 0.005)):
        off = np.abs(LiteRTModel(name).predict(codes.astype(np.int8)) - expected)
        assert off.max() <= 1 and off.mean() < largest


FUNCTIONS = {
    "EXP": (ops.exp, np.exp),
    "LOG": (ops.log, np.log),
    "SQRT": (ops.sqrt, np.sqrt),
    "RSQRT": (ops.rsqrt, lambda values: 1 / np.sqrt(values)),
    "ABS": (lambda x: ops.abs(x), np.abs),
    "MUL": (ops.square, np.square),
    "SUM": (lambda x: ops.sum(x, axis=(1, 2)), lambda values: values.sum(axis=(1, 2))),
}


@functools.cache
def of_values():
    """Returns a model whose outputs are positive values, then each function of them."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(X.shape[1:], name="in")
    small, large = keras.initializers.RandomUniform(-0.2, 0.2), keras.initializers.Constant(3.0)
    values = layers.Conv2D(4, 1, activation="relu", kernel_initializer=small, bias_initializer=large)(inputs)
    return keras.Model(inputs, [values, *(function(values) for function, _ in FUNCTIONS.values())])


@pytest.mark.filterwarnings("error::UserWarning")
def test_functions_round_once_and_the_square_root_rounds_down(tmp_path):
    exported(of_values(), path := tmp_path / "m.tflite")
    assert kinds(path) == [] and set(FUNCTIONS) < set(kinds(path, INT8))
    for xnnpack in (True, False):
        file = LiteRTModel(path, xnnpack=xnnpack)
        codes = file.predict(X)
        values, *floats = (output.astype(np.float64) for output in file.dequantized(codes))
        for (kind, (_, function)), received, integers in zip(FUNCTIONS.items(), floats, codes[1:], strict=True):
            step = np.ptp(received) / np.ptp(integers.astype(np.float64))
            off = received / step - function(values) / step
            low, high = (-1, 0) if kind == "SQRT" else (-0.5, 0.5)
            assert low - 1e-3 < off.min() and off.max() < high + 1e-3, kind


def test_a_root_on_a_grid_with_negative_values_stays_float(tmp_path):
    inputs = keras.Input(X.shape[1:], name="in")
    # LiteRT's grid of a tanh spans -1 to 1.
    values = layers.Activation("tanh")(layers.Conv2D(4, 1, activation="relu")(inputs))
    with pytest.warns(UserWarning, match="SQRT, its input may be negative"):
        exported(keras.Model(inputs, ops.sqrt(values) + values), tmp_path / "m")


@pytest.mark.skipif(not optional_packages.has_microcontrollers(), reason="needs tflite-micro")
def test_microcontrollers_compute_some_functions_on_floats(tmp_path):
    small, record = calibrated(of_values())
    with pytest.warns(UserWarning, match="compute in float: .*LOG, it has no integer form on this target") as found:
        to_litert(small, tmp_path / "m.tflite", record, target="mcu")
    assert not [w for w in found if "ABS" in str(w.message) or "SUM" in str(w.message)]
    assert set(kinds(tmp_path / "m.tflite")) - {"DEQUANTIZE"} == {"EXP", "LOG", "SQRT"}
    file, usual = TFLMModel(tmp_path / "m.tflite"), LiteRTModel(tmp_path / "m.tflite", xnnpack=False)
    for one, other in zip(file.predict(X[:4]), usual.predict(X[:1]), strict=True):
        assert np.abs(one[:1].astype(int) - other).max() <= 1
