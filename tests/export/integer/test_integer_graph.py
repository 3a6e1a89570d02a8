"""Files of integer operators: against integer arithmetic in NumPy, against Keras, and errors."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import QuantSpec, Recipe, calibrate
from r2keras.export import LiteRTModel, sizes, to_litert, verify
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import INT4, INT8, INT32, buffer_of
from r2keras.record import broadcast_scales
from tests.export.models import IMAGES as X
from tests.export.models import norm, tiny_gammas, two_layers

pytestmark = pytest.mark.usefixtures("converted_once")


def many_kinds():
    """Every kind of operator with an integer form that Keras' layers lead to."""
    inputs = keras.Input(X.shape[1:], name="in")
    x = layers.ReLU()(norm()(layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)))
    y = layers.Conv2D(8, 3, dilation_rate=2, padding="same")(x)
    x = layers.ReLU()(layers.add([x, y]))
    x = layers.ReLU(6.0)(norm(gamma=tiny_gammas)(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)))
    x = layers.MaxPooling2D()(x)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = layers.Conv2D(8, 3, strides=2, activation="tanh", groups=2)(x)
    y = layers.Conv2D(4, 2, padding="same", activation="leaky_relu")(x)
    x = layers.concatenate([x, layers.Conv2D(4, 1, activation="sigmoid")(x), y])
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    x = layers.Dense(12, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(6, activation="softmax", name="head")(x))


@functools.cache
def quantized(make, bits=8, batch_norm="keep", **options):
    """Returns a model with random weights on grids of 8-bit activations, and its record; tests share both."""
    keras.utils.set_random_seed(1)
    recipe = Recipe([(".*", QuantSpec(num_bits=bits, activation_bits=8, **options))], steps=["reestimate_batch_norm"])
    return calibrate(make(), recipe, X, input_bits=8, batch_norm=batch_norm)


def operators(path):
    """Returns the kinds of a file's operators."""
    file = read(path)
    return [kind_of(file, op) for op in file.subgraphs[0].operators]


def weights(record, name):
    """Returns the integer codes of a kernel, half steps doubled, and their scales per channel."""
    tensor = record.tensors[name]
    scale = broadcast_scales(tensor.scale, tensor.codes.shape).reshape(-1, tensor.codes.shape[-1])[0].astype(np.float64)
    codes = tensor.codes.astype(np.int64)
    return (2 * codes + 1, scale / 2) if np.any(tensor.zero_point) else (codes, scale)


def integers(sums, bias, scales, grid_in, grid_out, relu, twice):
    """Returns the codes of an integer operator's output from its sums: int32 bias, multiplier, rounding."""
    accumulated = sums + np.rint(bias / (grid_in[0] * scales)).astype(np.int64)
    scaled = rounded_twice if twice else lambda values, multiplier: np.rint(values * multiplier)
    codes = scaled(accumulated, grid_in[0] * scales / grid_out[0]) + grid_out[1]
    return np.clip(codes, grid_out[1] if relu else -128, 127).astype(np.int64)


def rounded_twice(values, multiplier):
    """Returns products as fixed-point kernels make them: a 31-bit multiplier, then a shift, each rounded half away."""
    mantissa, exponent = np.frexp(np.broadcast_to(multiplier, values.shape))
    high = np.floor(values * np.rint(mantissa * 2.0**31) / 2.0**31 + 0.5)
    assert exponent.max() <= 0
    shifted = high * 2.0**exponent
    return np.sign(shifted) * np.floor(np.abs(shifted) + 0.5)


def oracle(model, record, codes, grid_out, twice):
    """Returns the outputs' codes of `two_layers` from the inputs' codes; `twice` is about either layer."""
    grid = {name: (a.scale, a.zero_point) for name, a in record.activations.items()}
    kernel, scales = weights(record, "conv/kernel")
    bn = {v.name: v.numpy().astype(np.float64) for v in model.get_layer("norm").weights}
    factor = bn["gamma"] / np.sqrt(bn["moving_variance"] + 1e-3)
    bias = bn["beta"] - bn["moving_mean"] * factor
    patches = np.lib.stride_tricks.sliding_window_view(codes.astype(np.int64) - grid["in"][1], (3, 3), axis=(1, 2))
    sums = np.einsum("nhwcij,ijco->nhwo", patches, kernel)
    hidden = integers(sums, bias, scales * factor, grid["in"], grid["relu"], relu=True, twice=twice[0])
    kernel, scales = weights(record, "head/kernel")
    sums = (hidden - grid["relu"][1]).reshape(len(codes), -1) @ kernel
    return integers(
        sums, model.get_layer("head").bias.numpy(), scales, grid["relu"], grid_out, relu=False, twice=twice[1]
    )


def test_inputs_by_name_are_inputs_in_order(tmp_path):
    model, record = quantized(two_layers, 8)
    for name, data in (("a", X), ("b", {model.inputs[0].name: X})):
        to_litert(model, tmp_path / f"{name}.tflite", record, activations="int8", io="int8", data=data)
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    with pytest.raises(ValueError, match=r"`data`.*a dict with the keys"):
        to_litert(model, tmp_path / "c.tflite", record, activations="int8", data={"other": X})


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_the_file_computes_integer_arithmetic(bits, tmp_path):
    model, record = quantized(two_layers, bits)
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", io="int8", data=X)
    codes = np.random.default_rng(3).integers(-128, 128, (200, *X.shape[1:])).astype(np.int8)
    file = read(tmp_path / "m.tflite")
    last = file.subgraphs[0].tensors[file.subgraphs[0].outputs[0]].quantization
    # XNNPACK rounds once, and runs both layers at every width; the built-in kernels round twice.
    for xnnpack, share in ((True, 0.005), (False, 0.06)):
        twice = (not xnnpack, not xnnpack)
        expected = oracle(model, record, codes, (float(last.scale[0]), int(last.zeroPoint[0])), twice)
        off = np.abs(LiteRTModel(tmp_path / "m.tflite", xnnpack=xnnpack).predict(codes) - expected)
        assert off.max() <= 1
        assert np.mean(off) < share
        assert np.unique(expected).size > 50


def test_nothing_is_float_with_data_and_integer_ends(tmp_path, recwarn):
    model, record = quantized(many_kinds, 2, "auto")
    found = to_litert(model, tmp_path / "m.tflite", record, activations="int8", io="int8", data=X)
    assert not [w for w in recwarn if w.category is UserWarning and "operators" in str(w.message)]
    file = read(tmp_path / "m.tflite")
    kinds = {tensor.type for tensor in file.subgraphs[0].tensors}
    assert kinds == {INT8, INT32, INT4}
    assert "DEQUANTIZE" not in operators(tmp_path / "m.tflite")
    # Kernels of depthwise convolutions and of few input channels are in 8 bits, for which there are fast operators.
    assert {row.container_bits for row in found.tensors} == {4, 8}
    assert sizes(record, tmp_path / "m.tflite") == found
    # The softmax has steps of 1/256, and half a step is lost in any case.
    assert verify(model, tmp_path / "m.tflite", X).steps < 1.6


def test_float_ends_are_quantized_at_the_borders(tmp_path):
    model, record = quantized(many_kinds, 2, "auto")
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", data=X)
    kinds = operators(tmp_path / "m.tflite")
    # Floats are returned: their softmax is not rounded to 256 levels, on which small probabilities are zero.
    assert (kinds[0], *kinds[-2:]) == ("QUANTIZE", "DEQUANTIZE", "SOFTMAX")
    to_litert(model, tmp_path / "i.tflite", record, activations="int8", io="int8", data=X)
    assert operators(tmp_path / "i.tflite") == [*kinds[1:-2], "SOFTMAX"]
    one, two = (LiteRTModel(tmp_path / f"{name}.tflite") for name in "mi")
    np.testing.assert_allclose(one.predict(X), two.dequantized(two.predict(X))[0], atol=1 / 256)
    np.testing.assert_allclose(one.predict(X).sum(-1), 1, atol=1e-5)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_without_data_the_end_stays_float_and_the_file_computes_as_keras(bits, tmp_path):
    model, record = quantized(two_layers, bits)
    to_litert(model, tmp_path / "m.tflite", record, activations="int8")
    assert operators(tmp_path / "m.tflite")[:2] == ["QUANTIZE", "CONV_2D"]
    wanted = keras.ops.convert_to_numpy(model(X))
    differs = np.abs(LiteRTModel(tmp_path / "m.tflite").predict(X) - wanted).max(-1) > 1e-5 * np.ptp(wanted)
    # 216 codes a sample, whose biases lie on the steps of their sums. XNNPACK rounds once: only a tie may fall on
    # either side. The built-in kernel of 4-bit weights rounds twice, to a step of 2^-n of the output's first.
    assert bits < 8 or differs.mean() < 0.05
    assert verify(model, tmp_path / "m.tflite", X).relative_difference < 0.01


def test_without_data_an_average_amid_the_operators_is_named(tmp_path):
    def build():
        inputs = keras.Input(X.shape[1:], name="in")
        x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")(inputs)
        gate = layers.Dense(6, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        x = layers.Conv2D(4, 3, activation="relu", name="last")(layers.multiply([x, gate]))
        return keras.Model(inputs, layers.Dense(5, name="head")(layers.Flatten()(x)))

    model, record = quantized(build)
    with pytest.warns(UserWarning, match=r"compute in float: MEAN, its output has no grid"):
        to_litert(model, tmp_path / "m.tflite", record, activations="int8")
    assert verify(model, tmp_path / "m.tflite", X).relative_difference < 0.01


def lowest_code():
    """A kernel with the code -128."""
    model, record = quantized.__wrapped__(two_layers, 8, narrow_range=False)
    tensor = record.tensors["conv/kernel"]
    codes = tensor.codes.copy()
    codes.flat[0] = -128
    record.tensors["conv/kernel"] = dataclasses.replace(tensor, codes=codes)
    model.get_layer("conv").kernel.assign(record.tensors["conv/kernel"].values())
    return model, record


def one_kernel(**options):
    """A convolution with an unusual grid, the dense layer with a usual one."""
    keras.utils.set_random_seed(1)
    recipe = Recipe([("conv|relu", QuantSpec(activation_bits=8, **options)), ("head", QuantSpec(activation_bits=8))])
    return calibrate(two_layers(), recipe, X, input_bits=8)


@pytest.mark.parametrize(
    ("pool", "kind"), [(layers.AveragePooling2D(6), "AVERAGE_POOL_2D"), (layers.GlobalAveragePooling2D(), "MEAN")]
)
def test_averages_over_all_places_have_a_grid_of_their_own_or_none(pool, kind, tmp_path):
    def build():
        net = [layers.Conv2D(6, 3, activation="relu"), pool, layers.Flatten(), layers.Dense(5)]
        return keras.Sequential([keras.Input(X.shape[1:], name="in"), *net])

    model, record = quantized(build)
    to_litert(model, tmp_path / "m.tflite", record, activations="int8")
    assert kind in operators(tmp_path / "m.tflite")
    assert verify(model, tmp_path / "m.tflite", X).relative_difference < 1e-5
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", io="int8", data=X)
    assert {"MEAN", "FULLY_CONNECTED"} <= set(operators(tmp_path / "m.tflite"))
    assert verify(model, tmp_path / "m.tflite", X).steps < 3


def test_with_output_bits_keras_rounds_where_the_file_does(tmp_path):
    keras.utils.set_random_seed(1)
    net = [layers.Conv2D(6, 3, activation="relu"), layers.AveragePooling2D(6), layers.Flatten()]
    model = keras.Sequential([keras.Input(X.shape[1:], name="in"), *net, layers.Dense(5), layers.Softmax()])
    recipe = Recipe([(".*", QuantSpec(activation_bits=8))])
    model, record = calibrate(model, recipe, X, input_bits=8, output_bits=8)
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", io="int8")
    assert {"MEAN", "FULLY_CONNECTED", "SOFTMAX"} <= set(operators(tmp_path / "m.tflite"))
    to_litert(model, tmp_path / "m.tflite", record, activations="int8")
    logits = keras.Model(model.inputs, model.layers[-1].input)
    to_litert(logits, tmp_path / "logits.tflite", record, activations="int8")
    grid = record.activations[model.layers[-2].name.removesuffix("_quantized")]
    found = LiteRTModel(tmp_path / "logits.tflite").predict(X)
    codes = found / grid.scale - keras.ops.convert_to_numpy(logits(X)) / grid.scale
    assert np.mean(np.rint(codes) == 0) > 0.99 and np.abs(np.rint(codes)).max() <= 1
    assert verify(model, tmp_path / "m.tflite", X).agreement > 0.98


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: one_kernel(symmetric=False), "its grid is asymmetric"),
        (lambda: one_kernel(granularity="per_group", group_size=1), "its scales vary within an output channel"),
        (lowest_code, "its codes reach 128, and integer operators take -127 to 127"),
    ],
)
def test_kernels_without_an_integer_form_compute_in_float(make, why, tmp_path):
    model, record = make()
    with pytest.warns(UserWarning, match=f"1 of 3 operators compute in float: CONV_2D of 'conv/kernel', {why}"):
        to_litert(model, tmp_path / "m.tflite", record, activations="int8", data=X)
    assert verify(model, tmp_path / "m.tflite", X).steps < 2.5


def test_a_model_without_any_integer_operator_is_refused(tmp_path):
    keras.utils.set_random_seed(1)
    spec = QuantSpec(activation_bits=8, symmetric=False)
    model, record = calibrate(two_layers(), Recipe([(".*", spec)]), X, input_bits=8)
    with pytest.raises(ValueError, match=r"no operator .* in integers.*CONV_2D of 'conv/kernel', its grid is asym"):
        to_litert(model, tmp_path / "m.tflite", record, activations="int8", data=X)
    assert list(tmp_path.iterdir()) == []


def test_a_shared_layer_and_equal_kernels(tmp_path):
    def build():
        inputs = keras.Input(X.shape[1:], name="in")
        conv = layers.Conv2D(3, 3, padding="same", name="shared")
        x = layers.ReLU()(conv(inputs))
        return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(layers.ReLU()(conv(x)))))

    model, record = quantized(build)
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", data=X)
    assert verify(model, tmp_path / "m.tflite", X).steps < 2.5


def test_zero_gammas_keep_the_bias(tmp_path):
    def build():
        inputs = keras.Input(X.shape[1:], name="in")
        x = norm(gamma="zeros")(layers.Conv2D(4, 3, name="conv")(inputs))
        return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.ReLU()(x))))

    model, record = quantized(build)
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", data=X)
    assert verify(model, tmp_path / "m.tflite", X).steps < 1.5
    file = read(tmp_path / "m.tflite")
    conv = next(t for t in file.subgraphs[0].tensors if t.name == b"conv/kernel")
    assert not buffer_of(file, conv).any()
    assert np.all(np.asarray(conv.quantization.scale) > 0)


def test_verify_counts_steps_and_agreement(tmp_path):
    model, record = quantized(two_layers)
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", io="int8", data=X)
    labels = keras.ops.convert_to_numpy(model(X)).argmax(axis=1)
    found = verify(model, tmp_path / "m.tflite", X, labels=labels)
    assert found.model_accuracy == 1.0
    assert found.file_accuracy == found.agreement > 0.9
    assert 0 < found.steps < 2.5
    assert "steps of the output's grid" in str(found)
    assert not found.passed()
    assert found.passed(min_agreement=0.9)
    assert not found.passed(min_agreement=1.01)
    assert found.to_dict()["steps"] == found.steps


def without_grids():
    model, record = quantized(two_layers)
    return model, dataclasses.replace(record, activations={})


def few_bits():
    recipe = Recipe([(".*", QuantSpec(activation_bits=4))])
    return calibrate(two_layers(), recipe, X, input_bits=8)


def other_grid():
    model, record = quantized(two_layers)
    moved = {name: dataclasses.replace(grid, scale=2 * grid.scale) for name, grid in record.activations.items()}
    return model, dataclasses.replace(record, activations=moved)


def float_input():
    return calibrate(two_layers(), Recipe([(".*", QuantSpec(activation_bits=8))]), X)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (without_grids, {}, "a record without activations.*activation_bits=8"),
        (few_bits, {}, "the activation 'relu' of 4 bits"),
        (other_grid, {}, "does not belong to the model: the grids of the activation 'in'"),
        (float_input, {"io": "int8", "data": X}, "`io`.*the input 'in' has no grid.*input_bits=8"),
        (
            two_bits := lambda: quantized(two_layers, 2),
            {"io": "int8"},
            "`io`.*the output of the model has no grid.*output_bits=8.*data=",
        ),
        (two_bits, {"io": "int4"}, "one of 'float', 'int8'"),
        (two_bits, {"activations": "int4"}, "one of 'float', 'dynamic', 'int8'"),
        (two_bits, {"activations": "float", "data": X}, "`io` or `data`"),
        (two_bits, {"data": X[:0]}, "of one length above 0"),
        (two_bits, {"data": X[..., :2]}, r"the shapes \[\('n', 8, 8, 3\)\]"),
        (two_bits, {"data": X * np.nan}, "NaN or infinite"),
        (two_bits, {"data": {"other": X}}, "a dict with the keys"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*operators compute in float")
def test_what_is_refused(make, options, words, tmp_path):
    model, record = make()
    with pytest.raises(ValueError, match=words):
        to_litert(model, tmp_path / "m.tflite", record, **{"activations": "int8", **options})
    assert list(tmp_path.iterdir()) == []


def test_integers_without_a_record_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a record with activations"):
        to_litert(two_layers(), tmp_path / "m.tflite", activations="int8")
