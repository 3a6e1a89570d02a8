"""Integer files with Huffman codes compute what those without compute, in fewer bytes, on microcontrollers only."""

import functools
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras import PaletteSpec, QuantSpec, Recipe
from r2keras.export import (
    FileSizes,
    LiteRTModel,
    TFLMModel,
    c_array,
    golden,
    inspect,
    sizes,
    tflm_arena,
    to_litert,
    verify,
)
from r2keras.export.integer import huffman_weights
from r2keras.export.runtime.lookup_checks import check_for_microcontrollers
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import FLOAT32
from r2keras.export.tflite.subgraph import Subgraph
from r2keras.export.weights.decode_operator import huffman_codes, is_decode, is_for_microcontrollers
from r2keras.export.weights.huffman import encode

pytestmark = pytest.mark.usefixtures("microcontrollers", "converted_once")
HUFFMAN = re.compile(r"Huffman codes of \d\.\d bits on average")
NORMAL = {"kernel_initializer": "random_normal"}
# Of nets without batch normalization, this step changes nothing.
NO_REPAIRS = ["reestimate_batch_norm"]
X = np.random.default_rng(0).normal(size=(24, 9, 9, 4)).astype("float32")


def net():
    """Returns a net with a stride, a depthwise and two dense layers, and with normally distributed kernels."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 4))
    x = layers.Conv2D(48, 3, strides=2, activation="relu", name="conv", **NORMAL)(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise", depthwise_initializer="random_normal")(x)
    x = layers.Conv2D(40, 1, activation="relu", bias_initializer="normal", name="pointwise", **NORMAL)(x)
    x = layers.Dense(32, activation="relu", use_bias=False, name="hidden", **NORMAL)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(4, name="head", **NORMAL)(x))


def shared():
    """Returns a net that uses a convolution twice."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 4))
    conv = layers.Conv2D(4, 3, padding="same", name="shared", **NORMAL)
    x = layers.GlobalAveragePooling2D()(layers.add([conv(inputs), conv(layers.ReLU()(conv(inputs)))]))
    return keras.Model(inputs, layers.Dense(4, name="head", **NORMAL)(x))


def transposed():
    """Returns a net with a transposed convolution whose channels have very different sizes."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 4))
    layer = layers.Conv2DTranspose(24, 3, strides=2, name="transpose", **NORMAL)
    x = layers.Conv2D(24, 3, activation="relu", name="conv", **NORMAL)(inputs)
    x = layers.GlobalAveragePooling2D()(layer(x))
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel * np.logspace(-2, 1, 24)[:, None].astype("float32"), bias])
    return keras.Model(inputs, layers.Dense(4, name="head", **NORMAL)(x))


@functools.cache
def calibrated(build, spec):
    """Returns a model and its record; tests share both. Repairs take half of the time: some models do without."""
    steps = () if build is shared or spec.num_bits == 3 else NO_REPAIRS
    return r2keras.calibrate(build(), Recipe([(".*", spec)], steps=steps), X, integer=True, progress=False)


class Written(NamedTuple):
    """A model with its record, the sizes of both files, the path of the one with Huffman codes."""

    model: keras.Model
    record: r2keras.CompressionRecord
    plain: FileSizes
    coded: FileSizes
    path: Path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns a function that writes both forms, once, after comparing their outputs and the sizes read from the file.

    `operator_bytes` is what a decoder counts; by default, Huffman codes pay for every weight.
    """

    @functools.cache
    def write(build, spec, against="memory", operator_bytes=-(10**7), io=None):
        small, record = calibrated(build, spec)
        folder = tmp_path_factory.mktemp("files")
        plain, coded = folder / "plain.tflite", folder / "coded.tflite"
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.filterwarnings("ignore", ".*compute in float")
            patch.setattr(huffman_weights, "OPERATOR_BYTES", operator_bytes)
            found = [
                to_litert(small, path, record, target="mcu", optimize=form, **({"io": io} if io else {}))
                for path, form in ((plain, against), (coded, "size"))
            ]
        outputs = TFLMModel(plain).predict(X), TFLMModel(coded).predict(X)
        assert np.ptp(outputs[0].astype(float)) > 0
        np.testing.assert_array_equal(*outputs)
        assert sizes(record, coded).tensors == found[1].tensors
        return Written(small, record, *found, coded)

    return write


def notes(found):
    return {row.name: row.note for row in found.tensors}


@pytest.fixture
def always(monkeypatch):
    """Makes Huffman codes pay for every weight."""
    monkeypatch.setattr(huffman_weights, "OPERATOR_BYTES", -(10**7))


TWO_BITS = QuantSpec(num_bits=2, activation_bits=8)


@pytest.mark.parametrize(
    "num_bits, granularity",
    [(2, "per_channel"), (3, "per_channel"), pytest.param(8, "per_tensor", marks=pytest.mark.slow)],
)
def test_layers_of_every_kind(num_bits, granularity, written):
    spec = QuantSpec(num_bits=num_bits, granularity=granularity, activation_bits=8)
    found = written(net, spec, "latency" if num_bits == 3 else "memory")
    assert all(HUFFMAN.match(note) for note in notes(found.coded).values())
    file = read(found.path)
    check_for_microcontrollers(file, "it")
    assert is_for_microcontrollers(file)
    assert verify(found.model, found.path, X).steps <= 5
    assert {port.dtype for port in TFLMModel(found.path).inputs} == {"int8"}


def test_only_smaller_forms_are_taken(written):
    spec = QuantSpec(num_bits=3, activation_bits=8)
    _, _, memory, size, _ = written(net, spec, operator_bytes=huffman_weights.OPERATOR_BYTES)
    assert size.file_bytes < memory.file_bytes
    coded = {name for name, note in notes(size).items() if HUFFMAN.match(note)}
    assert {"hidden/kernel", "pointwise/kernel"} <= coded < set(notes(size))
    assert notes(size)["head/kernel"] == "3-bit codes in an 8-bit container"
    rows = zip(memory.tensors, size.tensors, strict=True)
    assert all(b.packed_bytes < a.packed_bytes if b.name in coded else a == b for a, b in rows)
    assert size.packed_bytes < 1.3 * size.ideal_bytes


def test_a_file_without_gain_is_the_other_one(tmp_path):
    small, record = calibrated(shared, QuantSpec(num_bits=8, activation_bits=8))
    for form in ("memory", "size"):
        to_litert(small, tmp_path / form, record, target="mcu", optimize=form)
    assert (tmp_path / "memory").read_bytes() == (tmp_path / "size").read_bytes()
    assert LiteRTModel(tmp_path / "size").predict(X).dtype == np.int8


def test_scales_per_channel_belong_to_the_decoded_codes(written):
    found = written(net, QuantSpec(num_bits=3, activation_bits=8), "latency")
    graph = Subgraph(read(found.path))
    product = next(op for op in graph.operators if graph.kind(op) == "CONV_2D")
    decoded = int(product.inputs[1])
    kernel = found.record.tensors["conv/kernel"]
    np.testing.assert_array_equal(huffman_codes(graph, decoded), kernel.codes.transpose(3, 0, 1, 2))
    scales = graph.tensor(decoded).quantization.scale
    np.testing.assert_allclose(scales, kernel.scale.ravel(), rtol=1e-6)


def test_a_shared_layer_is_decoded_in_front_of_each_use(written):
    graph = Subgraph(read(written(shared, TWO_BITS).path))
    decoders = [is_decode(graph.file, op) for op in graph.operators]
    assert sum(decoders) == 3
    kinds = [graph.kind(op) for op, before in zip(graph.operators[1:], decoders[:-1], strict=True) if before]
    assert kinds == ["CONV_2D"] * 2 + ["FULLY_CONNECTED"]


def test_equal_codes_count_once(written):
    codes = calibrated(shared, TWO_BITS)[1].tensors["shared/kernel"].codes
    saved = codes.size // 2 - encode(2 * codes + 1).num_bytes
    for operator_bytes, pays in ((saved // 3, True), (2 * saved // 3, False)):
        found = written(shared, TWO_BITS, operator_bytes=operator_bytes)
        assert bool(HUFFMAN.match(notes(found.coded)["shared/kernel"])) is pays


@pytest.mark.parametrize(
    "options",
    [
        {"num_bits": 8},
        {"num_bits": 4, "symmetric": False},
        {"num_bits": 2, "granularity": "per_tensor"},
    ],
    ids=str,
)
def test_weights_of_float_operators(options, always, tmp_path):
    spec, own = (QuantSpec(activation_bits=8, **chosen) for chosen in ({"num_bits": 8}, options))
    # The output of the first convolution has no grid, so that the second one computes in float.
    recipe = Recipe([("conv", QuantSpec(num_bits=8)), ("transpose", own), (".*", spec)], steps=NO_REPAIRS)
    model, record = r2keras.calibrate(transposed(), recipe, X, integer=True, progress=False)
    files = {}
    for form in ("memory", "size"):
        with pytest.warns(UserWarning, match="TRANSPOSE_CONV of 'transpose/kernel'"):
            size = to_litert(model, tmp_path / form, record, target="mcu", optimize=form)
        files[form] = TFLMModel(tmp_path / form)
    np.testing.assert_array_equal(*(file.predict(X) for file in files.values()))
    assert HUFFMAN.match(notes(size)["transpose/kernel"])
    assert notes(size)["transpose/kernel"].endswith("its operator computes in float")
    # The runtime has one scale for a whole tensor, and ignores others without a word.
    expected = keras.ops.convert_to_numpy(model(X))
    off = np.abs(files["memory"].dequantized(files["memory"].predict(X))[0] - expected)
    assert off.max() <= 10 * record.activations["head"].scale


@pytest.mark.parametrize(
    ("build", "options"),
    [pytest.param(net, {"num_bits": 4}, marks=pytest.mark.slow), (shared, {"num_bits": 3, "dim": 2})],
    ids=["scalars", "vectors"],
)
def test_palettes_with_int8_tables(build, options, written):
    spec = PaletteSpec(table_dtype="int8", activation_bits=8, min_size=0, **options)
    found = written(build, spec, "latency")
    assert all(HUFFMAN.match(note) for note in notes(found.coded).values())
    assert verify(found.model, found.path, X).steps <= 5


@pytest.mark.parametrize("form", ["size", "latency"])
def test_palettes_of_floats_are_refused(form, tmp_path):
    small, record = calibrated(shared, PaletteSpec(num_bits=2, activation_bits=8, min_size=0))
    with pytest.raises(ValueError, match=r"int8 tables for target='mcu'.*shared/kernel.*to_tflm\("):
        to_litert(small, tmp_path / "m.tflite", record, target="mcu", optimize=form)
    assert list(tmp_path.iterdir()) == []


def test_float_inputs_and_outputs(written):
    assert TFLMModel(written(shared, TWO_BITS, io="float").path).predict(X).dtype == np.float32


def test_other_tools_take_the_file(written, tmp_path):
    small, record, _, coded, path = written(net, TWO_BITS)
    assert coded.arena_bytes == tflm_arena(path)
    with pytest.raises(ValueError, match=r"file for LiteRT for Microcontrollers.*TFLMModel"):
        LiteRTModel(path)
    found = inspect(path)
    assert [op.kind for op in found.operators].count("DECODE") == 5
    assert found.runtimes["LiteRT"].startswith("no")
    assert found.runtimes["LiteRT for Microcontrollers"].startswith("yes")
    assert "Huffman codes" in str(r2keras.report.summarize(record, path))
    values = golden(small, path, X[:2])
    assert values.verification["output_step"] > 0
    sources = c_array(path, tmp_path / "firmware", golden=values)
    assert {"DECODE", "CONV_2D"} <= set(sources.operators)
    assert "AddDecode" in (tmp_path / "firmware" / "model_ops.h").read_text()


def damage(path, change):
    """Returns a file with a changed weight: the decoded tensor, its codewords and its tables."""
    file = read(path)
    graph = file.subgraphs[0]
    decoder = next(op for op in graph.operators if is_decode(file, op))
    packed, ancillary = (file.buffers[graph.tensors[i].buffer] for i in decoder.inputs[:2])
    change(graph.tensors[decoder.outputs[0]], packed, ancillary)
    return file


def retype(tensor, packed, ancillary):
    tensor.type = FLOAT32


def reshape(tensor, packed, ancillary):
    tensor.shape = 2 * tensor.shape


def shorten(tensor, packed, ancillary):
    packed.data = packed.data[:8]


def cut_table(tensor, packed, ancillary):
    ancillary.data = ancillary.data[:18]


def drop_scales(tensor, packed, ancillary):
    tensor.quantization = None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (retype, "types that do not fit|another type"),
        (reshape, "weights of shape"),
        (shorten, "too few codewords"),
        (cut_table, "beyond its tables"),
        (drop_scales, "without a positive scale"),
    ],
)
def test_damage_is_found_before_a_run(change, words, written):
    with pytest.raises(ValueError, match=words):
        check_for_microcontrollers(damage(written(net, TWO_BITS).path, change), "it")


def test_a_wrong_code_is_found_before_the_file_is_written(always, tmp_path, monkeypatch):
    small, record = calibrated(net, TWO_BITS)
    encode = huffman_weights.encode
    monkeypatch.setattr(huffman_weights, "encode", lambda codes: encode(np.roll(codes, 1)))
    with pytest.raises(RuntimeError, match="codes differ"):
        to_litert(small, tmp_path / "m.tflite", record, target="mcu", optimize="size")
    assert list(tmp_path.iterdir()) == []
