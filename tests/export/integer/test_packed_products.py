"""Convolutions of few-bit weights as products of patches: the codes of the convolution, at every size and stride."""

import keras
import numpy as np
import pytest

from r2keras import QuantSpec, Recipe, calibrate
from r2keras.export import LiteRTModel, TFLMModel, to_litert
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.subgraph import Subgraph

pytestmark = pytest.mark.usefixtures("converted_once")
# Of nets without batch normalization, this step changes nothing.
NO_REPAIRS = ["reestimate_batch_norm"]
SAVED = "r2keras.export.integer.packed_products.FEWEST_BYTES_SAVED"


def operators(path):
    """The kinds of the operators of a file."""
    graph = Subgraph(read(path))
    return [graph.kind(op) for op in graph.operators]


def conv_layer(kernel, stride, padding, filters=8, name="conv", **options):
    """A convolution with a bias and a ReLU."""
    return keras.layers.Conv2D(
        filters, kernel, strides=stride, padding=padding, activation="relu", bias_initializer="normal", name=name,
        **options,
    )  # fmt: skip


def convolution(size, kernel, stride, padding, channels=16, filters=8, **options):
    """A model of one convolution, and data."""
    keras.utils.set_random_seed(1)
    layer = conv_layer(kernel, stride, padding, filters=filters, **options)
    model = keras.Sequential([keras.Input((*size, channels)), layer, keras.layers.Flatten(), keras.layers.Dense(4)])
    data = np.random.default_rng(2).normal(1, 1, (12, *(d or 9 for d in size), channels)).astype("float32")
    return model, data


def written(model, data, path, bits=4, steps=NO_REPAIRS, **options):
    """Calibrates a model and writes its integer file; returns the model in Keras."""
    spec = QuantSpec(num_bits=bits, **{"granularity": "per_channel", "activation_bits": 8, **options})
    model, record = calibrate(model, Recipe([(".*", spec)], steps=steps), data, integer=True, progress=False)
    to_litert(model, path, record, activations="int8")
    return model


@pytest.fixture
def small_ones_too(monkeypatch):
    """Lets small kernels become products of patches, although these save no bytes."""
    monkeypatch.setattr(SAVED, -(10**6))


CASES = [
    ((8, 8), (3, 3), 1, "same"),
    ((8, 8), (3, 3), 2, "valid"),
    ((8, 8), (5, 2), 2, "same"),
    ((8, 8), (1, 3), 2, "valid"),
    ((9, 7), (3, 3), 2, "same"),
    ((9, 7), (1, 1), 2, "same"),
    ((9, 7), (4, 1), 1, "same"),
]


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    """Returns the expected outputs of each case, those of the file for 12 samples and for one, and the operators."""
    path = tmp_path_factory.mktemp("patches") / "m.tflite"
    keras.utils.set_random_seed(1)
    inputs = {size: keras.Input((*size, 16)) for size in dict.fromkeys(case[0] for case in CASES)}
    outputs = [
        keras.layers.Dense(4)(keras.layers.Flatten()(conv_layer(*case, name=f"conv{i}")(inputs[size])))
        for i, (size, *case) in enumerate(CASES)
    ]
    rng = np.random.default_rng(2)
    data = [rng.normal(1, 1, (12, *size, 16)).astype("float32") for size in inputs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAVED, -(10**6))
        model = written(keras.Model(list(inputs.values()), outputs), data, path)
    found = [LiteRTModel(path).predict(batch) for batch in (data, [part[:1] for part in data])]
    return [keras.ops.convert_to_numpy(y) for y in model(data)], *found, operators(path)


def test_every_convolution_is_a_product_of_patches(branches):
    kinds = branches[-1]
    assert "CONV_2D" not in kinds and kinds.count("FULLY_CONNECTED") == 2 * len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_of_patches_are_the_convolution(case, branches):
    expected, *found = (outputs[CASES.index(case)] for outputs in branches[:-1])
    for outputs in found:
        # XNNPACK rounds once, as Keras does; a tie may fall on the other side.
        assert np.mean(np.abs(outputs - expected[: len(outputs)]) > 1e-5 * np.ptp(expected)) < 0.03


def test_two_bits_lie_in_two_bits(tmp_path, small_ones_too):
    model, data = convolution((8, 8), (3, 3), 1, "same")
    model = written(model, data, tmp_path / "m.tflite", bits=2, levels="mid_tread")
    graph = read(tmp_path / "m.tflite").subgraphs[0]
    INT2 = 19
    assert sum(tensor.type == INT2 for tensor in graph.tensors) == 2
    expected = keras.ops.convert_to_numpy(model(data))
    outputs = LiteRTModel(tmp_path / "m.tflite").predict(data)
    assert np.mean(np.abs(outputs - expected) > 1e-5 * np.ptp(expected)) < 0.03


@pytest.mark.parametrize(
    ("bits", "levels", "sizes", "granularity"),
    [(4, None, (18, 18), "per_channel"), (2, "mid_tread", (20, 20), "per_tensor")],
)
def test_rows_of_other_lengths_end_with_zeros(bits, levels, sizes, granularity, tmp_path):
    keras.utils.set_random_seed(3)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((17,)), dense(17, bias_initializer="normal", activation="relu"), dense(5)])
    data = np.random.default_rng(0).normal(0.2, 1, (256, 17)).astype("float32")
    options = {"bits": bits, "levels": levels, "granularity": granularity, "steps": ()}
    model = written(model, data, tmp_path / "m.tflite", **options)
    tensors = read(tmp_path / "m.tflite").subgraphs[0].tensors
    assert sorted(tuple(t.shape) for t in tensors if t.name and len(t.shape) == 2 and t.type in (17, 19)) == [
        (5, sizes[0]),
        (17, sizes[1]),
    ]
    off = LiteRTModel(tmp_path / "m.tflite").predict(data) - keras.ops.convert_to_numpy(model(data))
    # In rows of an odd number of 4-bit weights, XNNPACK rounds a twentieth of the sums up.
    assert np.mean(np.abs(off) > 1e-5) < 0.005


def test_a_fixed_number_of_samples(tmp_path, small_ones_too):
    model, data = convolution((8, 8), (3, 3), 2, "same")
    x = inputs = keras.Input((8, 8, 16), batch_size=6)
    for layer in model.layers:
        x = layer(x)
    model = written(keras.Model(inputs, x), data, tmp_path / "m.tflite")
    expected = np.concatenate([keras.ops.convert_to_numpy(model(part)) for part in np.split(data, 2)])
    outputs = np.concatenate([LiteRTModel(tmp_path / "m.tflite").predict(part) for part in np.split(data, 2)])
    assert np.mean(np.abs(outputs - expected) > 1e-5 * np.ptp(expected)) < 0.03


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((8, 8), {"groups": 4, "channels": 64}),
        ((None, None), {}),
        ((8, 8), {"channels": 8}),
    ],
    ids=["groups", "open sizes", "few channels"],
)
def test_other_convolutions_are_in_8_bits(size, options, tmp_path, small_ones_too):
    model, data = convolution((8, 8), (3, 3), 1, "same", **options)
    if size == (None, None):
        x = inputs = keras.Input((None, None, 16))
        x = keras.layers.GlobalAveragePooling2D()(model.get_layer("conv")(x))
        model = keras.Model(inputs, keras.layers.Dense(4)(x))
    model = written(model, data, tmp_path / "m.tflite")
    kinds = operators(tmp_path / "m.tflite")
    assert "CONV_2D" in kinds and "CONCATENATION" not in kinds
    tensors = [t for t in read(tmp_path / "m.tflite").subgraphs[0].tensors if t.shape is not None and len(t.shape) == 4]
    assert not any(tensor.type == 17 for tensor in tensors)
    expected = keras.ops.convert_to_numpy(model(data))
    outputs = LiteRTModel(tmp_path / "m.tflite").predict(data)
    assert np.mean(np.abs(outputs - expected) > 1e-5 * np.ptp(expected)) < 0.05


@pytest.mark.parametrize(
    ("size", "channels", "filters", "is_patched"),
    [((6, 6), 32, 32, True), ((6, 6), 16, 16, False), ((62, 62), 32, 32, False)],
    ids=["large kernel", "small kernel", "large image"],
)
def test_patches_have_to_save_bytes_and_fit_in_memory(size, channels, filters, is_patched, tmp_path):
    model, data = convolution(size, (3, 3), 1, "same", channels=channels, filters=filters)
    model = written(model, data[:3], tmp_path / "m.tflite")
    assert ("CONV_2D" not in operators(tmp_path / "m.tflite")) is is_patched
    expected = keras.ops.convert_to_numpy(model(data[:3]))
    outputs = LiteRTModel(tmp_path / "m.tflite").predict(data[:3])
    assert np.mean(np.abs(outputs - expected) > 1e-5 * np.ptp(expected)) < 0.05


def test_a_kernel_of_two_images(tmp_path):
    """The patches of the larger image do not fit in memory, those of the smaller one do."""
    keras.utils.set_random_seed(1)
    small, large = keras.Input((8, 8, 32)), keras.Input((62, 62, 32))
    shared = keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv")
    pooled = [keras.layers.GlobalAveragePooling2D()(shared(image)) for image in (small, large)]
    model = keras.Model([small, large], keras.layers.Dense(4)(keras.layers.Concatenate()(pooled)))
    data = [np.random.default_rng(2).normal(1, 1, (4, *image.shape[1:])).astype("float32") for image in (small, large)]
    model = written(model, data, tmp_path / "m.tflite", steps=())
    expected = keras.ops.convert_to_numpy(model(data))
    outputs = LiteRTModel(tmp_path / "m.tflite").predict(data)
    assert np.abs(outputs - expected).max() < 0.02 * np.ptp(expected)


def test_microcontrollers_run_the_memory_form(tmp_path, microcontrollers):
    model, data = convolution((8, 8), (3, 3), 2, "same")
    model.pop()
    model.pop()
    spec = QuantSpec(num_bits=4, granularity="per_channel", activation_bits=8)
    model, record = calibrate(model, Recipe([(".*", spec)], steps=NO_REPAIRS), data, integer=True, progress=False)
    to_litert(model, tmp_path / "m.tflite", record, activations="int8", optimize="memory")
    assert operators(tmp_path / "m.tflite") == ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    expected, outputs = keras.ops.convert_to_numpy(model(data)), TFLMModel(tmp_path / "m.tflite").predict(data)
    step = record.activations["conv"].scale
    assert np.abs(outputs - expected).max() < 1.01 * step
    # The packed form is larger, and faster elsewhere.
    to_litert(model, tmp_path / "p.tflite", record, activations="int8")
    assert (tmp_path / "p.tflite").stat().st_size > (tmp_path / "m.tflite").stat().st_size


def test_one_channel_stays_in_4_bits(tmp_path):
    model, data = convolution((8, 8), (4, 3), 2, "same", channels=1)
    written(model, data, tmp_path / "m.tflite")
    assert "CONV_2D" in operators(tmp_path / "m.tflite")
    types = {tuple(t.shape): t.type for t in read(tmp_path / "m.tflite").subgraphs[0].tensors if t.shape is not None}
    assert types[8, 4, 3, 1] == 17
