"""One table of every layer kind in every form of a palettized file, each against Keras and against one another."""

import functools
import struct
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from r2keras import PaletteSpec, Recipe, calibrate
from r2keras.export import bundle, expand, sizes, to_litert, verify
from r2keras.export.tflite.constant_values import kind_of, stored_codes
from r2keras.export.tflite.interpreter import open_interpreter, parse, read
from r2keras.export.tflite.schema import INT8, WIDTHS, constants
from r2keras.export.tflite.writer import write
from r2keras.specs import QuantSpec
from tests.export import bundle_loader
from tests.export.difference import difference
from tests.export.models import IMAGES, dense_net, norm, random_inputs, two_layers
from tests.export.palettize import compress, fitting, spec
from tests.export.quantize import quantize

pytestmark = pytest.mark.usefixtures("converted_once")

ROOT = Path(__file__).resolve().parents[2]
OUTPUT_TOLERANCE = 2e-6
FORMS = ("memory", "size", "latency")
KINDS = {
    "dense": lambda x: layers.Dense(12, name="layer")(layers.Flatten()(x)),
    "dense-norm": lambda x: norm()(layers.Dense(12, name="layer")(layers.Flatten()(x))),
    "conv": lambda x: layers.Conv2D(12, 3, name="layer")(x),
    "conv-norm": lambda x: norm()(layers.Conv2D(12, 3, name="layer", use_bias=False)(x)),
    "grouped": lambda x: norm()(layers.Conv2D(12, 3, groups=2, name="layer")(x)),
    "depthwise-norm": lambda x: norm()(layers.DepthwiseConv2D(3, depth_multiplier=3, name="depthwise")(x)),
    "separable-norm": lambda x: norm()(layers.SeparableConv2D(12, 3, name="separable")(x)),
    "transpose-norm": lambda x: norm()(layers.Conv2DTranspose(12, 3, strides=2, name="transpose")(x)),
    "einsum": lambda x: layers.EinsumDense("abcd,de->abce", output_shape=(None, None, 12), name="layer")(x),
    "embedding": lambda x: layers.Embedding(40, 12, name="embedding")(layers.Flatten()(x)),
}
SPECS = {
    "scalar": spec(4, table_dtype="int8"),
    "vectors": spec(3, dim=5, table_dtype="int8", channel_scale=True),
    "groups": spec(2, dim=2, group=4, table_dtype="int8"),
}


TABLE = [(kind, list(SPECS)[i % len(SPECS)]) for i, kind in enumerate(KINDS)]


def net(kind):
    """Returns a model of one kind of layer."""
    inputs = keras.Input((9, 9, 4), name="tokens" if kind == "embedding" else "in")
    return keras.Model(inputs, layers.Flatten()(KINDS[kind](inputs)))


def outputs(data, inputs):
    """Returns the outputs of a run without XNNPACK; a second run gives the same."""
    runner = open_interpreter(data, "the file")
    details = runner.get_input_details()
    for detail, array in zip(details, inputs, strict=True):
        runner.resize_tensor_input(detail["index"], array.shape)
    runner.allocate_tensors()
    for detail, array in zip(details, inputs, strict=True):
        runner.set_tensor(detail["index"], array)
    found = []
    for _ in range(2):
        runner.invoke()
        found.append([runner.get_tensor(detail["index"]).copy() for detail in runner.get_output_details()])
    np.testing.assert_equal(*found)
    return found[0]


def kinds_of(path, graph=0):
    """Returns the names of a file's operators."""
    file = read(path)
    return [kind_of(file, op) for op in file.subgraphs[graph].operators]


@pytest.mark.parametrize(("kind", "chosen"), TABLE)
def test_every_form_of_every_layer_computes_what_keras_computes(kind, chosen, tmp_path):
    model = net(kind)
    record = compress(model, fitting(SPECS[chosen]))
    inputs = random_inputs(model)
    for form in FORMS:
        path = tmp_path / f"{form}.tflite"
        assert to_litert(model, path, record, optimize=form) == sizes(record, path)
        plain = {"plain": expand(path), "loaded": bundle_loader.load(bundle(path))}
        for name, data in plain.items():
            (tmp_path / f"{form}_{name}.tflite").write_bytes(data)
            np.testing.assert_equal(outputs(data, inputs), outputs(path.read_bytes(), inputs))
    for path in tmp_path.glob("*.tflite"):
        # Without XNNPACK, the plain files compute what the others do.
        for xnnpack in (True, False) if path.stem in FORMS else (True,):
            assert difference(model, path, inputs, xnnpack) <= OUTPUT_TOLERANCE, path.name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns `(model, record, folder)` with a file of each form of two layers, one of them a palette."""
    keras.utils.set_random_seed(0)
    model, folder = dense_net(), tmp_path_factory.mktemp("forms")
    record = compress(
        model,
        lambda name, shape: spec(4, table_dtype="int8") if name.startswith("hidden") else QuantSpec(num_bits=2),
    )
    for form in FORMS:
        to_litert(model, folder / f"{form}.tflite", record, optimize=form)
    to_litert(model, folder / "float.tflite")
    return model, record, folder


def test_size_is_the_default_and_decodes_in_a_subgraph_of_its_own(made, tmp_path):
    model, record, folder = made
    to_litert(model, tmp_path / "m.tflite", record)
    assert (tmp_path / "m.tflite").read_bytes() == (folder / "size.tflite").read_bytes()
    main = kinds_of(folder / "size.tflite")
    assert main[:3] == ["CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE"]
    assert not {"GATHER", "CAST"} & set(main)
    decoded = ["DEQUANTIZE", "CAST", "GATHER", "VAR_HANDLE", "ASSIGN_VARIABLE"]
    assert kinds_of(folder / "size.tflite", 1) == decoded
    assert len(read(folder / "memory.tflite").subgraphs) == 1


def test_latency_holds_every_weight_as_int8_codes(made):
    _, record, folder = made
    file = read(folder / "latency.tflite")
    stored = {t.name.decode(): t for t in file.subgraphs[0].tensors if t.type in WIDTHS}
    assert {t.type for t in stored.values()} == {INT8}
    tensor = record.tensors["hidden/kernel"]
    found = stored_codes(file, stored["hidden/kernel"])
    np.testing.assert_array_equal(found, tensor.codebook[0, :, 0][tensor.indices].T)
    np.testing.assert_array_equal(stored["hidden/kernel"].quantization.scale, tensor.table_scale)
    assert "ADD" not in kinds_of(folder / "latency.tflite")
    hidden, head = sizes(record, folder / "latency.tflite").tensors
    assert (hidden.note, hidden.container_bits) == ("8-bit centroids in place, from a table of 16", 8)
    assert (head.note, head.packed_bytes) == ("2-bit codes in an 8-bit container", 4 * (24 + 4))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_latency_refuses_tables_of_floats(dtype, tmp_path):
    model = dense_net()
    record = compress(model, fitting(spec(4, table_dtype=dtype)))
    words = rf"'hidden/kernel' \({dtype}\).* Train or calibrate with PaletteSpec\(table_dtype='int8'\)"
    with pytest.raises(ValueError, match=words):
        to_litert(model, tmp_path / "m.tflite", record, optimize="latency")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`optimize`.*Did you mean 'latency'"):
        to_litert(dense_net(), tmp_path / "m.tflite", optimize="latenc")


@pytest.mark.parametrize(
    "chosen",
    [
        QuantSpec(num_bits=2),
        QuantSpec(num_bits=4, levels="mid_rise"),
        QuantSpec(num_bits=3, symmetric=False),
        QuantSpec(num_bits=4, granularity="per_group", group_size=3),
    ],
)
def test_grids_expand_too(chosen, tmp_path):
    model = net("conv-norm")
    record = quantize(model, lambda name: chosen)
    inputs = random_inputs(model)
    for form in ("size", "latency"):
        path = tmp_path / f"{form}.tflite"
        to_litert(model, path, record, optimize=form)
        plain = expand(path)
        assert "DEQUANTIZE" not in [kind_of(parse(plain), op) for op in parse(plain).subgraphs[0].operators]
        for data in (plain, bundle_loader.load(bundle(path))):
            np.testing.assert_equal(outputs(data, inputs), outputs(path.read_bytes(), inputs))
        assert difference(model, path, inputs, True) <= OUTPUT_TOLERANCE


def test_integer_operators_take_int8_palettes(tmp_path):
    keras.utils.set_random_seed(1)
    rules = [
        ("conv|relu", QuantSpec(activation_bits=8)),
        ("head", PaletteSpec(num_bits=4, min_size=0, table_dtype="int8")),
    ]
    model, record = calibrate(two_layers(), Recipe(rules), IMAGES, input_bits=8)
    path = tmp_path / "m.tflite"
    to_litert(model, path, record, activations="int8", data=IMAGES, optimize="latency")
    file = read(path)
    (dense,) = (op for op in file.subgraphs[0].operators if kind_of(file, op) == "FULLY_CONNECTED")
    assert file.subgraphs[0].tensors[dense.inputs[1]].type == INT8
    assert verify(model, path, IMAGES).relative_difference < 0.02


def test_expanded_weights_are_those_of_keras_and_nothing_else_is_left(made):
    model, record, folder = made
    float_bytes = (folder / "float.tflite").read_bytes()
    for form in FORMS:
        file = parse(expand(folder / f"{form}.tflite"))
        found = {values.shape: values for _, _, values in constants(file)}
        for name, tensor in record.tensors.items():
            np.testing.assert_array_equal(found[tensor.values().T.shape], tensor.values().T, name)
        assert abs(len(expand(folder / f"{form}.tflite")) - len(float_bytes)) < 200
        assert len(file.subgraphs) == 1
    assert model.name == record.model_name


def test_expand_takes_bytes_and_paths_and_leaves_floats_alone(made):
    small = made[2] / "size.tflite"
    plain = expand(small)
    assert expand(small.read_bytes()) == expand(str(small)) == plain
    assert expand(plain) == plain
    assert expand(made[2] / "float.tflite") == (made[2] / "float.tflite").read_bytes()


@pytest.mark.parametrize("make", [expand, bundle])
def test_bad_files_are_refused(make, made, tmp_path):
    whole = (made[2] / "size.tflite").read_bytes()
    for data in (b"", b"no model", whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match=r"not a readable \.tflite"):
            make(data)
    with pytest.raises(FileNotFoundError, match="File not found"):
        make(tmp_path / "none.tflite")
    with pytest.raises(TypeError, match="`small`"):
        make(3)


def test_variables_of_the_model_s_own_stay(made):
    file = read(made[2] / "size.tflite")
    for graph in file.subgraphs:
        for op in graph.operators:
            if kind_of(file, op) == "VAR_HANDLE":
                op.builtinOptions.container = b"another"
    plain = parse(expand(write(file)))
    assert [kind_of(plain, op) for op in plain.subgraphs[0].operators][:3] == [
        "CALL_ONCE",
        "VAR_HANDLE",
        "READ_VARIABLE",
    ]
    inputs = random_inputs(made[0])
    np.testing.assert_equal(outputs(write(plain), inputs), outputs(write(file), inputs))


def test_the_bundle_is_as_documented(made):
    data = bundle(made[2] / "size.tflite")
    magic, count, skeleton, size, expanded = struct.unpack_from("<8s4I", data)
    assert (magic, count, expanded % 16, skeleton % 16) == (b"R2KBNDL1", 2, 0, 0)
    records = [struct.unpack_from("<20I", data, 24 + 80 * row) for row in range(count)]
    assert sorted((r[2], r[5]) for r in records) == [(24 * 4, 2), (16 * 24, 4)]
    assert all(r[0] % 16 == 0 and r[0] >= size for r in records)
    document = (ROOT / "docs" / "deploy" / "bundle_layout.md").read_text(encoding="utf-8")
    assert str(magic, "ascii") in document
    assert "bundle_loader.py" in document


def test_what_does_not_fit_32_bits_is_refused(made, monkeypatch):
    monkeypatch.setattr("r2keras.export.install.bundle_file.RECORD", struct.Struct("<20B"))
    with pytest.raises(ValueError, match="takes 4 GiB or more"):
        bundle(made[2] / "size.tflite")


def test_a_loader_refuses_other_bytes(made):
    with pytest.raises(ValueError, match="not a bundle"):
        bundle_loader.load((made[2] / "size.tflite").read_bytes())


# A process with NumPy and LiteRT alone: packages without their __init__, so that Keras is not imported either.
ALONE = """
import importlib.machinery, json, sys, types
from pathlib import Path

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = {"tensorflow", "tf_keras", "keras", "jax", "torch"}
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
for name in ("r2keras", "r2keras.export"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(Path(sys.argv[1]).joinpath(*name.split(".")))]
from r2keras.export.install.bundle_file import bundle
from r2keras.export.install.expand_file import expand
Path("plain.tflite").write_bytes(expand(sys.argv[2]))
Path("small.bundle").write_bytes(bundle(sys.argv[2]))
"""


def test_expanding_needs_neither_tensorflow_nor_keras(made, tmp_path):
    small = made[2] / "size.tflite"
    command = [sys.executable, "-c", ALONE, ROOT, small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plain.tflite").read_bytes() == expand(small)
    assert (tmp_path / "small.bundle").read_bytes() == bundle(small)


@functools.cache
def recurrent():
    """Returns a model whose weights are in the body of a loop, and its record."""
    inputs = keras.Input((6, 8), batch_size=1)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.LSTM(12, name="lstm")(inputs)))
    return model, compress(model, fitting(spec(4, table_dtype="int8")))


@pytest.mark.parametrize("form", FORMS)
def test_weights_in_a_loop_are_decoded_before_it(form, tmp_path, near):
    model, record = recurrent()
    inputs = [np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)]
    path = tmp_path / "m.tflite"
    to_litert(model, path, record, optimize=form)
    for data in (expand(path), bundle_loader.load(bundle(path))):
        np.testing.assert_equal(outputs(data, inputs), outputs(path.read_bytes(), inputs))
    for xnnpack in (True, False):
        assert difference(model, path, inputs, xnnpack) <= OUTPUT_TOLERANCE
