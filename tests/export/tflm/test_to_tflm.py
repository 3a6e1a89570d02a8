"""Files for microcontrollers compute what Keras computes, in every form, run by their own interpreter."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, report
from r2keras.export import LiteRTModel, TFLMModel, sizes, tflm_arena, to_tflm, verify
from r2keras.export.tflite.constant_values import kind_of
from r2keras.export.tflite.interpreter import read
from r2keras.export.weights import lookup_forms
from r2keras.export.weights.lookup_table import tabulate
from r2keras.specs import QuantSpec
from tests.export.models import conv_net, norm, random_inputs, shared_layer, small_net
from tests.export.palettize import compress, fitting, spec

pytestmark = pytest.mark.usefixtures("microcontrollers", "converted_once")
OUTPUT_TOLERANCE = 1e-6
OUTSIDE = "one factor per channel after the operator"


def every(chosen):
    """Returns the choice of one spec for every kernel."""
    return fitting(chosen) if isinstance(chosen, PaletteSpec) else lambda name, shape: chosen


def exported(model, chosen, path):
    """Compresses a model, and returns what `checked` does."""
    return checked(model, compress(model, chosen if callable(chosen) else every(chosen)), path)


def checked(model, record, path):
    """Exports a model, asserts that the file computes what Keras does, and returns the rows by name."""
    found = to_tflm(model, path, record, check=False)
    assert verify(model, path, random_inputs(model, 4)).passed(OUTPUT_TOLERANCE)
    assert sizes(record, path).file_bytes == found.file_bytes == path.stat().st_size
    return {row.name: row for row in found.tensors}


def net(shape, *stack):
    """Returns a model of layers in a row, with biases that are not zero."""
    x = inputs = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    model = keras.Model(inputs, x)
    for variable in model.weights:
        if "bias" in variable.path:
            variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    return model


def kinds(path):
    """Returns the names of a file's operators."""
    file = read(path)
    return [kind_of(file, op) for op in file.subgraphs[0].operators]


@pytest.fixture
def always(monkeypatch):
    """Returns a function that makes tables pay for every weight, with factors outside, or with tables of channels."""

    def set_costs(factor_bytes):
        monkeypatch.setattr(lookup_forms, "OPERATOR_BYTES", -(10**7))
        monkeypatch.setattr(lookup_forms, "FACTOR_BYTES", factor_bytes)

    return set_costs


@functools.cache
def compressed(make, specs, start):
    """Returns a model whose kernels take specs in turn, and its record."""
    keras.utils.set_random_seed(0)
    model = make()
    return model, compress(model, in_turn(specs, start))


def in_turn(specs, start):
    """Returns the choice of another spec for each kernel, beginning with that at `start`."""
    left = [*specs[start:], *specs[:start]] * 3
    return lambda name, shape: every(left.pop(0))(name, shape)


@pytest.mark.parametrize(("factor_bytes", "start"), [(0, 0), (10**7, 4)], ids=["outside", "tables"])
def test_palettes_of_1_to_7_bits_in_layers_of_every_kind(start, factor_bytes, always, tmp_path):
    always(factor_bytes)
    rows = checked(*compressed(conv_net, tuple(map(spec, range(1, 8))), start), tmp_path / "mcu.tflite")
    outside = [row for row in rows.values() if OUTSIDE in row.note]
    assert len(outside) == (0 if factor_bytes else 8)
    assert all(row.container_bits == row.num_bits for row in outside)
    assert any("tables of" in row.note for row in rows.values()) == bool(factor_bytes)


SPECS = (
    spec(4, group=4),
    spec(4, channel_scale=True),
    spec(2, dim=2, channel_scale=True),
    spec(4, table_dtype="int8"),
    QuantSpec(num_bits=2),
    QuantSpec(num_bits=3),
    QuantSpec(num_bits=4, symmetric=False),
    QuantSpec(num_bits=2, granularity="per_tensor"),
    QuantSpec(num_bits=4, granularity="per_group", group_size=2),
)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("factor_bytes", [0, 10**7], ids=["outside", "tables"])
def test_groups_scales_vectors_and_uniform_grids(start, factor_bytes, always, tmp_path):
    always(factor_bytes)
    checked(*compressed(small_net, SPECS, start), tmp_path / "mcu.tflite")


@pytest.mark.parametrize(
    ("make", "axis"),
    [
        (lambda: layers.Dense(6, use_bias=False), 1),
        (lambda: layers.Conv2D(6, 1, use_bias=False), 3),
        (lambda: layers.Conv2DTranspose(6, 1, use_bias=False), 2),
        (lambda: layers.DepthwiseConv2D(1, use_bias=False), 2),
    ],
    ids=["dense", "conv", "transpose", "depthwise"],
)
def test_one_hot_inputs_read_each_channels_own_table(make, axis, always, monkeypatch, tmp_path):
    always(10**7)
    layer, size = make(), 5
    model = net((size,) if isinstance(layer, layers.Dense) else (1, 1, size), layer)
    values = np.random.default_rng(0).choice(np.array([-1.0, 0.3, 0.7], np.float32), layer.kernel.shape)
    channels = [-1 if a == axis else 1 for a in range(values.ndim)]
    layer.kernel.assign(values * np.arange(1, values.shape[axis] + 1, dtype=np.float32).reshape(channels))
    record = compress(model, every(spec(2, channel_scale=True)))
    monkeypatch.setattr(
        lookup_forms, "tabulate", lambda values, axis=None: None if axis is None else tabulate(values, axis)
    )
    assert "tables of" in to_tflm(model, tmp_path / "mcu.tflite", record, check=False).tensors[0].note
    probes = np.eye(size, dtype=np.float32).reshape(size, *model.input_shape[1:])
    found = TFLMModel(tmp_path / "mcu.tflite").predict(probes)
    np.testing.assert_array_equal(found, model(probes))


def test_a_batch_norm_stays_outside_and_one_table_serves(tmp_path):
    """And the activation moves to the last operator; a bias of zeros needs no operator."""
    stack = layers.Conv2D(32, 3, name="conv"), norm(), layers.ReLU(6.0)
    rows = exported(net((6, 6, 16), *stack), spec(4), tmp_path / "mcu.tflite")
    assert rows["conv/kernel"].note == f"4-bit indices into a table of 16, {OUTSIDE}"
    assert kinds(tmp_path / "mcu.tflite") == ["CUSTOM", "CONV_2D", "MUL", "ADD"]
    exported(net((96,), layers.Dense(48, use_bias=False)), QuantSpec(num_bits=2), tmp_path / "dense.tflite")
    assert kinds(tmp_path / "dense.tflite") == ["CUSTOM", "FULLY_CONNECTED", "MUL"]


def test_uniform_grids_of_8_bits_are_integers(tmp_path):
    chosen = in_turn([QuantSpec(), QuantSpec(method="ewgs"), QuantSpec(granularity="per_tensor", symmetric=False)], 0)
    model = net((96,), layers.Dense(48, name="a"), layers.Dense(48, name="b"), layers.Dense(48, name="c"))
    rows = exported(model, chosen, tmp_path / "mcu.tflite")
    assert [row.note for row in rows.values()] == [
        f"8-bit integers, {OUTSIDE}",
        f"16-bit integers, {OUTSIDE}",
        "8-bit integers",
    ]


def test_vector_palettes_are_written_out_where_their_values_fit(tmp_path):
    rows = exported(net((96,), layers.Dense(48, name="head")), spec(4, dim=4), tmp_path / "mcu.tflite")
    assert rows["head/kernel"].note == "6-bit indices into a table of 64"


def test_what_has_too_many_values_stays_float_and_is_named(tmp_path):
    model = net((96,), layers.Dense(48, name="wide"), layers.Dense(3, name="small"))
    with pytest.warns(UserWarning, match=r"1 of 2 recorded weights stay float: 'wide/kernel' \(25\d different values"):
        rows = exported(model, in_turn([spec(8), spec(7)], 0), tmp_path / "mcu.tflite")
    assert rows["wide/kernel"].container_bits == 32
    assert "different values are too many" in rows["wide/kernel"].note
    assert "floats take less" in rows["small/kernel"].note


def test_a_shared_layer_is_decoded_in_front_of_each_use(tmp_path):
    model = shared_layer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = compress(model, every(spec(2)))
        to_tflm(model, tmp_path / "mcu.tflite", record, check=False)
    assert verify(model, tmp_path / "mcu.tflite", random_inputs(model, 4)).passed(OUTPUT_TOLERANCE)


def test_sequences_attention_and_products_of_batches(always, tmp_path):
    always(0)
    x = inputs = keras.Input((8, 6))
    x = norm()(layers.Conv1D(8, 3, name="conv")(x))
    x = layers.SeparableConv1D(8, 3, padding="same", name="separable")(x)
    x = layers.Conv1DTranspose(8, 3, name="transpose")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.EinsumDense("abc,bcd->abd", output_shape=(8, 5), name="batch")(x)
    rows = exported(keras.Model(inputs, x), spec(3), tmp_path / "mcu.tflite")
    assert {row.container_bits for row in rows.values()} == {3}
    assert "BATCH_MATMUL" in kinds(tmp_path / "mcu.tflite")


def test_recurrent_kernels_are_decoded_inside_the_loop(tmp_path, near):
    rows = exported(net((4, 24), layers.GRU(24, name="cell")), spec(3), tmp_path / "mcu.tflite")
    assert {row.container_bits for row in rows.values()} == {3}


def test_sequences_of_recurrent_layers_are_stored_step_by_step(tmp_path, near):
    stack = layers.LSTM(6, return_sequences=True, go_backwards=True), layers.SimpleRNN(5, return_sequences=True)
    model = net((4, 3), *stack)
    to_tflm(model, tmp_path / "mcu.tflite", check=False)
    assert verify(model, tmp_path / "mcu.tflite", random_inputs(model, 4)).passed(OUTPUT_TOLERANCE)
    file = read(tmp_path / "mcu.tflite")
    found = [kind_of(file, op) for graph in file.subgraphs for op in graph.operators]
    assert found.count("DYNAMIC_UPDATE_SLICE") == 2 and "SLICE" not in found


def test_embeddings_run_without_the_operator_that_is_missing(tmp_path):
    model = net((7,), layers.Embedding(40, 64, name="words"))
    record = compress(model, every(spec(3)))
    assert to_tflm(model, tmp_path / "mcu.tflite", record, check=False).tensors[0].container_bits == 3
    words = np.array([[0, 39, 5, -1, -40, 2, 1]], np.float32)
    assert verify(model, tmp_path / "mcu.tflite", words).max_abs_difference == 0


def test_several_inputs_and_outputs_come_in_keras_order(tmp_path):
    first, second = keras.Input((4,), name="zeta"), keras.Input((3,), name="alpha")
    outputs = [layers.Dense(2)(second), layers.Dense(5)(layers.concatenate([first, second]))]
    model, path = keras.Model([first, second], outputs), tmp_path / "mcu.tflite"
    to_tflm(model, path, check=False)
    inputs = random_inputs(model, 3)
    runner = TFLMModel(path)
    by_name = runner.predict({"alpha": inputs[1], "zeta": inputs[0]}, progress=True)
    for found, listed, expected in zip(by_name, runner.predict(inputs), model(inputs), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_array_equal(found, listed)


def test_the_arena_is_the_least_that_works(tmp_path):
    model, path = net((5, 5, 4), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)), tmp_path / "mcu.tflite"
    found = to_tflm(model, path)
    assert found.arena_bytes == tflm_arena(path) == found.to_dict()["arena_bytes"]
    x = random_inputs(model, 2)[0]
    np.testing.assert_array_equal(TFLMModel(path, found.arena_bytes).predict(x), TFLMModel(path).predict(x))
    for size in (found.arena_bytes - 16, found.arena_bytes - 1, 0, 2**40):
        with pytest.raises(ValueError, match="Invalid value for argument `arena_bytes`"):
            TFLMModel(path, size)


def test_small_tables_are_packed_like_the_wheels_own(microcontrollers):
    from tflite_micro.tensorflow.lite.micro.compression import lut
    from tflite_micro.tensorflow.lite.micro.compression import spec as modes

    class Tensor:
        array: np.ndarray
        shape: tuple[int, ...]

    rng = np.random.default_rng(0)
    for axis, entries in ((None, 2), (None, 128), (0, 3), (3, 5), (3, 33)):
        Tensor.array = rng.choice(rng.normal(size=entries).astype(np.float32), (7, 3, 5, 9))
        Tensor.shape = Tensor.array.shape
        ours = tabulate(Tensor.array, axis)
        mode = modes.PerTensor() if axis is None else modes.PerChannel(axis=axis)
        theirs = lut.LutCompressor().compress(Tensor, modes.LookUpTableCompression(index_bitwidth=ours.bits, mode=mode))
        assert ours.packed().tobytes() == theirs.encoded_data
        assert ours.ancillary().tobytes() == theirs.ancillary_data


@pytest.mark.parametrize(
    "x",
    [np.zeros((4, 6, 7, 4)), np.zeros((7, 7, 4)), np.zeros((0, 7, 7, 4)), {"other": np.zeros((4, 7, 7, 4))}],
)
def test_wrong_input_is_refused_and_the_next_one_runs(x, small):
    with pytest.raises(ValueError, match="Invalid value for argument `x`"):
        small.predict(x)
    assert small.predict(np.zeros((3, 7, 7, 4))).shape == (3, 8)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Returns a running file of `small_net`."""
    path = tmp_path_factory.mktemp("tflm") / "mcu.tflite"
    model = small_net()
    to_tflm(model, path, compress(model, every(spec(2))), check=False)
    return TFLMModel(path)


def test_the_phone_runtime_refuses_the_file_in_one_sentence(small):
    with pytest.raises(ValueError, match="LiteRT for Microcontrollers"):
        LiteRTModel(small.path)


@pytest.mark.parametrize(
    ("stack", "operator"),
    [((layers.Dense(3, activation="gelu"),), "GELU"), ((layers.Reshape((2, 2, 2, 2)), layers.Conv3D(3, 1)), "CONV_3D")],
)
def test_operators_that_microcontrollers_lack_are_named(stack, operator, tmp_path):
    with pytest.raises(ValueError, match=f"cannot run the model .*{operator}"):
        to_tflm(net((16,), *stack), tmp_path / "mcu.tflite")
    assert list(tmp_path.iterdir()) == []


def test_the_summary_reads_the_file(tmp_path):
    model = small_net()
    record = compress(model, every(spec(3)))
    found = to_tflm(model, tmp_path / "mcu.tflite", record, check=False)
    text = str(report.summarize(record, tmp_path / "mcu.tflite"))
    assert f"{found.file_bytes:,}" in text
