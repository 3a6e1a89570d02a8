"""Targets: the form that each sets, what it refuses, and files that its own tools run."""

import keras
import numpy as np
import pytest
from keras import layers

import r2keras
from r2keras.export import LiteRTModel, TFLMModel, ethos_u, to_litert, verify
from r2keras.export.devices import ethos_u as ethos_u_module
from r2keras.export.targets.settings import form_for
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.schema import INT2, INT4
from r2keras.specs.targets import TARGETS

pytestmark = pytest.mark.usefixtures("converted_once")
# Of nets without batch normalization, this step changes nothing.
NO_REPAIRS = ["reestimate_batch_norm"]
X = np.random.default_rng(0).normal(size=(32, 8, 8, 4)).astype(np.float32)


def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(x)
    x = layers.Flatten()(layers.Conv2D(16, 1, activation="relu", name="pointwise")(x))
    x = layers.Dense(12, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


@pytest.fixture(scope="module", params=[8, 4, 2])
def integers(request):
    return r2keras.calibrate(
        net(), r2keras.Recipe.uniform(request.param, edges=None, activation_bits=8, steps=NO_REPAIRS), X, integer=True
    )


@pytest.fixture(scope="module")
def floats():
    return r2keras.calibrate(net(), r2keras.Recipe.uniform(4, edges=None), X)


def narrow_types(path):
    return {tensor.type for graph in read(path).subgraphs for tensor in graph.tensors} & {INT4, INT2}


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "any"])
def test_integer_files_of_every_target_compute_what_keras_computes(integers, target, tmp_path):
    model, record = integers
    path = tmp_path / "model.tflite"
    to_litert(model, path, record, target=target)
    runner = LiteRTModel(path)
    takes = "int8" if target in ("ethos-u", "mcu") else "float32"
    assert {port.dtype for port in (*runner.inputs, *runner.outputs)} == {takes}
    assert runner.inputs[0].signature == (1, 8, 8, 4)
    assert verify(model, path, X).steps <= 5
    bits = record.tensors["conv/kernel"].spec.num_bits
    assert bool(narrow_types(path)) == (bits < 8 and target in ("cpu", "mcu"))
    if target == "mcu":
        codes = TFLMModel(path).predict(X[:4]).astype(int)
        assert np.abs(codes - runner.predict(X[:4])).max() <= 5


@pytest.mark.parametrize("target", ["cpu", "browser"])
def test_products_are_packed_without_activations_of_8_bits(floats, target, tmp_path):
    model, record = floats
    for name, arguments in {"a": {"target": target}, "b": {"activations": "dynamic", "batch_size": 1}}.items():
        to_litert(model, tmp_path / name, record, **arguments)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_explicit_arguments_win(floats, tmp_path):
    model, record = floats
    to_litert(model, tmp_path / "a", record, target="cpu", activations="float", batch_size=2)
    to_litert(model, tmp_path / "b", record, batch_size=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert LiteRTModel(tmp_path / "a").inputs[0].signature[0] == 2


def test_a_model_without_products_stays_exact_on_a_cpu(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3), layers.Conv2D(4, 3)])
    small, record = r2keras.calibrate(model, r2keras.Recipe.uniform(4, edges=None), X)
    to_litert(small, tmp_path / "cpu.tflite", record, target="cpu")
    assert verify(small, tmp_path / "cpu.tflite", X).passed()
    with pytest.raises(ValueError, match="product"):
        to_litert(small, tmp_path / "cpu.tflite", record, target="cpu", activations="dynamic")


@pytest.mark.parametrize("activation_bits, expected", [(None, "dynamic"), (8, "float")])
def test_recurrent_nets_on_a_cpu(activation_bits, expected, tmp_path, near):
    model = keras.Sequential([keras.Input((5, 4)), layers.LSTM(8, name="lstm"), layers.Dense(3, name="head")])
    x = np.random.default_rng(0).normal(size=(16, 5, 4)).astype(np.float32)
    recipe = r2keras.Recipe.uniform(4, edges=None, activation_bits=activation_bits)
    small, record = r2keras.calibrate(model, recipe, x)
    # Rows that are rounded on top of rounded activations would make the file another function than its model.
    assert form_of("cpu", record, True).activations == expected
    to_litert(small, tmp_path / "cpu.tflite", record, target="cpu")
    limit = 0.05 if expected == "dynamic" else 1e-5
    assert verify(small, tmp_path / "cpu.tflite", x).relative_difference < limit


@pytest.fixture(scope="module", params=["int8", "float32"])
def palettes(request):
    spec = r2keras.PaletteSpec(num_bits=2, min_size=0, activation_bits=8, table_dtype=request.param)
    return request.param, r2keras.calibrate(net(), r2keras.Recipe([(".*", spec)], steps=NO_REPAIRS), X, integer=True)


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "any"])
def test_palettes_with_rounded_activations(palettes, target, tmp_path):
    table, (small, record) = palettes
    path = tmp_path / "m.tflite"
    if table == "float32" and target in ("mcu", "ethos-u"):
        words = rf"int8 tables for target='{target}'.*float tables of conv/kernel"
        with pytest.raises(ValueError, match=words + (".*to_tflm" if target == "mcu" else "")):
            to_litert(small, path, record, target=target)
        return
    to_litert(small, path, record, target=target)
    result = verify(small, path, X)
    assert result.steps <= 5 if table == "int8" else result.passed()
    assert {port.dtype for port in LiteRTModel(path).inputs} == {"int8" if target in ("mcu", "ethos-u") else "float32"}


def form_of(target, record, has_loops):
    nothing = dict.fromkeys(("activations", "io", "optimize", "recurrent", "batch_size"))
    return form_for(target, record, has_loops, **nothing)


@pytest.mark.parametrize(
    "target, arguments, expected",
    [
        ("phone", {}, r"`target`.*'any', 'cpu', 'browser', 'ethos-u', 'mcu'"),
        (["cpu"], {}, r"`target`.*'any', 'cpu'.*Received: target=\['cpu'\]"),
        ({}, {}, "`target`.*'any', 'cpu'.*Received: target={}"),
        (None, {}, "`target`.*'any', 'cpu'.*Received: target=None"),
        ("any", {"activations": np.ones(2)}, "`activations`.*'float', 'dynamic', 'int8'.*Received: activations="),
        ("any", {"optimize": {}}, "`optimize`.*'size', 'memory', 'latency'.*Received: optimize={}"),
        ("browser", {"recurrent": "fused"}, "`recurrent`.*'loop' for target='browser'"),
        ("browser", {"io": "int8"}, "`io`.*'float' for target='browser'"),
        ("ethos-u", {"optimize": "size"}, "`optimize`.*'latency' for target='ethos-u'"),
        ("ethos-u", {"activations": "float"}, "`activations`.*'int8' for target='ethos-u'"),
        ("ethos-u", {"batch_size": 4}, "`batch_size`.*1 for target='ethos-u'"),
        ("mcu", {"recurrent": "fused"}, "`recurrent`.*'loop' for target='mcu'"),
        ("cpu", {"batch_size": 0}, "`batch_size`"),
        ("ethos-u", {}, "record without activations of 8 bits.*activation_bits=8"),
        ("mcu", {}, r"record without activations of 8 bits.*to_tflm\(model, path, record\)"),
    ],
)
def test_contradictions_are_refused_and_nothing_is_written(floats, target, arguments, expected, tmp_path):
    model, record = floats
    with pytest.raises(ValueError, match=expected):
        to_litert(model, tmp_path / "model.tflite", record, target=target, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_of_the_models_own(tmp_path):
    model = keras.Sequential([keras.Input((4,), batch_size=3), layers.Dense(2)])
    to_litert(model, tmp_path / "cpu.tflite", target="cpu")
    assert LiteRTModel(tmp_path / "cpu.tflite").inputs[0].signature[0] == 3
    with pytest.raises(ValueError, match=r"an open batch size or 1.*take 3 samples"):
        to_litert(model, tmp_path / "b.tflite", batch_size=1)


def test_open_inputs_take_the_batch_of_fixed_ones(tmp_path):
    inputs = [keras.Input((4,), batch_size=2, name="a"), keras.Input((4,), name="b")]
    model = keras.Model(inputs, layers.Dense(2)(layers.Add()(inputs)))
    to_litert(model, tmp_path / "cpu.tflite", target="cpu")
    assert {port.signature for port in LiteRTModel(tmp_path / "cpu.tflite").inputs} == {(2, 4)}
    inputs = [keras.Input((4,), batch_size=size, name=f"input{size}") for size in (2, 3)]
    other = keras.Model(inputs, [layers.Dense(2)(tensor) for tensor in inputs])
    with pytest.raises(ValueError, match=r"one batch size.*take 2 and 3 samples"):
        to_litert(other, tmp_path / "b.tflite", target="cpu")


def test_vela_is_told_apart_by_its_arguments(tmp_path, floats):
    with pytest.raises(ValueError, match=r"`accelerator`.*'ethos-u55-128'.*Received: accelerator='u55'"):
        ethos_u(tmp_path / "none.tflite", "u55")
    with pytest.raises(FileNotFoundError, match="none"):
        ethos_u(tmp_path / "none.tflite")
    to_litert(*floats[:1], tmp_path / "cpu.tflite", floats[1])
    with pytest.raises(ValueError, match=r"weights of 4 or 2 bits.*target='ethos-u'"):
        ethos_u(tmp_path / "cpu.tflite")


def test_a_path_and_an_accelerator_of_the_wrong_kind(tmp_path):
    with pytest.raises(TypeError, match=r"`output`.*a path.*Received: output=5"):
        ethos_u(tmp_path / "none.tflite", output=5)
    with pytest.raises(ValueError, match=r"`accelerator`.*'ethos-u55-128'.*Received: accelerator=array"):
        ethos_u(tmp_path / "none.tflite", np.ones(2))


def test_a_missing_vela_names_the_extra(monkeypatch):
    monkeypatch.setattr(ethos_u_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ethos-u-vela.*r2keras\[npu\]"):
        ethos_u_module.require_vela()


def test_vela_compresses_few_bits(integers, tmp_path):
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed")
    model, record = integers
    to_litert(model, tmp_path / "npu.tflite", record, target="ethos-u")
    report = ethos_u(tmp_path / "npu.tflite", output=tmp_path / "compiled.tflite")
    assert (report.cpu_operators, report.npu_share) == (0, 1.0)
    assert report.file_bytes == (tmp_path / "compiled.tflite").stat().st_size
    bits = record.tensors["conv/kernel"].spec.num_bits
    values = sum(tensor.codes.size for tensor in record.tensors.values())
    # Vela's code takes the entropy of the codes, and biases, scales and padding beside it.
    assert report.flash_bytes < values * (bits / 8 + 0.5) + 1000
    assert "operators on the NPU" in str(report)
