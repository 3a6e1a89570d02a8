"""The comparison of integer operators with exact arithmetic, and of a model with itself under other ties."""

import keras
import numpy as np
import pytest

import r2keras
from benchmarks.matrix_rounding import against_itself
from benchmarks.operator_rounding import codes_off
from r2keras.export import to_litert


@pytest.fixture(scope="module")
def integer_net(tmp_path_factory):
    """A calibrated net, its integer file and its data."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = first = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.Add()([layers.DepthwiseConv2D(3, padding="same")(x), x])
    x = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    data = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=8, granularity="per_channel", activation_bits=8))])
    model, record = r2keras.calibrate(keras.Model(first, x), recipe, data, integer=True, progress=False)
    path = tmp_path_factory.mktemp("net") / "net.tflite"
    to_litert(model, path, record, activations="int8")
    return model, path, data


def test_every_operator_rounds_exact_arithmetic(integer_net):
    _, path, data = integer_net
    rows = codes_off(path, data)
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"} <= set(rows)
    for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MEAN"):
        assert rows[kind]["values"] > 0 and rows[kind]["off"] / rows[kind]["values"] < 2e-3, rows[kind]


def test_another_scale_of_an_output_is_found(integer_net, tmp_path):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    _, path, data = integer_net
    file = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = file.subgraphs[0]
    bias = next(op for op in graph.operators if len(op.inputs) == 3).inputs[2]
    buffer = file.buffers[graph.tensors[bias].buffer]
    # Operators read the codes of a bias and the reference reads its scale as well.
    graph.tensors[bias].quantization.scale = np.asarray(graph.tensors[bias].quantization.scale) * 50
    buffer.data = (np.asarray(buffer.data, np.uint8).view("<i4") + 1000).view(np.uint8)
    wrong = tmp_path / "wrong.tflite"
    wrong.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(file)))
    rows = codes_off(wrong, data)
    assert any(row.get("off", 0) > 0.1 * row.get("values", np.inf) for row in rows.values())


def test_a_model_agrees_with_itself_but_for_ties(integer_net):
    model, _, data = integer_net
    difference, equal = against_itself(model, data)
    assert 0.9 <= equal <= 1 and difference < 0.1 * np.ptp(model.predict(data, verbose=0))
