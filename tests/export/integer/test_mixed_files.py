"""Integer files in which recurrent and dense layers round the rows of their input at run time."""

import warnings

import keras
import numpy as np
import pytest

from r2keras import QuantSpec, Recipe, calibrate
from r2keras.export import LiteRTModel, sizes, streaming, to_litert
from r2keras.export.tflite.interpreter import read
from r2keras.export.tflite.subgraph import Subgraph

pytestmark = pytest.mark.usefixtures("near")

layers = keras.layers
X = np.random.default_rng(0).normal(size=(8, 16, 16, 1)).astype("float32")
ON_GRIDS = QuantSpec(num_bits=4, granularity="per_channel", activation_bits=8)
# Of nets without batch normalization, this step changes nothing.
NO_REPAIRS = ["reestimate_batch_norm"]
BY_ROW = QuantSpec(num_bits=4, granularity="per_channel", activation_bits=8, activation_method="dynamic")
RECURRENT = {
    "lstm": lambda: layers.LSTM(12, name="cell"),
    "bidirectional": lambda: layers.Bidirectional(layers.GRU(6, name="half"), name="cell"),
}


def speech_net(cell):
    """Convolutions over a spectrogram, a recurrent layer over time, and a head."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 1), batch_size=1)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="point")(x)
    x = cell()(layers.Reshape((8, 64))(x))
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def compressed(model, recurrent=BY_ROW):
    recipe = Recipe([("conv|point", ON_GRIDS), ("cell", recurrent), ("head", BY_ROW)], steps=NO_REPAIRS)
    return calibrate(model, recipe, X, input_bits=8, progress=False)


@pytest.mark.parametrize("kind", [pytest.param("lstm", marks=pytest.mark.slow), "bidirectional"])
def test_convolutions_on_integers_and_recurrent_layers_by_row(kind, tmp_path):
    model, record = compressed(speech_net(RECURRENT[kind]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        to_litert(model, tmp_path / "m.tflite", record, activations="int8")
    file = read(tmp_path / "m.tflite")
    graph = Subgraph(file)
    kinds = [graph.kind(op) for op in graph.operators]
    assert "DEPTHWISE_CONV_2D" not in kinds and kinds.count("DEQUANTIZE") == 1
    FLOAT32, INT4 = 0, 17
    assert all(t.type == INT4 for g in file.subgraphs for t in g.tensors if t.name and b"kernel" in bytes(t.name))
    assert graph.tensor(graph.outputs[0]).type == FLOAT32
    notes = {row.name: row.note for row in sizes(record, tmp_path / "m.tflite").tensors}
    assert notes["head/kernel"] == "packed" and notes["point/kernel"] == ""
    expected = model.predict(X, batch_size=1, verbose=0)
    off = np.abs(LiteRTModel(tmp_path / "m.tflite").predict(X) - expected) / np.ptp(expected)
    # One code of an activation, where 4-bit kernels round twice, is about 1 % after the recurrent layer.
    assert np.median(off) < 2e-3 and off.max() < 0.03


def test_streams_too(tmp_path):
    x = inputs = keras.Input((4, 6), batch_size=1)
    x = layers.Conv1D(8, 1, activation="relu", name="point")(x)
    x = layers.LSTM(12, return_sequences=True, name="cell")(x)
    model = keras.Model(inputs, layers.Dense(5, name="head")(x))
    data = np.random.default_rng(0).normal(size=(8, 4, 6)).astype("float32")
    recipe = Recipe([("point", ON_GRIDS), (".*", BY_ROW)], steps=NO_REPAIRS)
    model, record = calibrate(model, recipe, data, input_bits=8, progress=False)
    to_litert(streaming(model), tmp_path / "s.tflite", record, activations="int8")
    file = read(tmp_path / "s.tflite")
    assert len(file.subgraphs) == 1
    graph = Subgraph(file)
    kinds = [graph.kind(op) for op in graph.operators]
    assert (kinds.count("CONV_2D"), kinds.count("FULLY_CONNECTED")) == (1, 3)


def test_models_that_round_all_rows_are_dynamic_files(tmp_path):
    model = keras.Sequential([keras.Input((3, 6), batch_size=1), layers.LSTM(12), layers.Dense(5)])
    data = np.random.default_rng(0).normal(size=(4, 3, 6)).astype("float32")
    for options, words in (({}, "need none: pass"), ({"input_bits": 8}, "belong in a file with")):
        small, record = calibrate(model, Recipe([(".*", BY_ROW)], steps=NO_REPAIRS), data, progress=False, **options)
        with pytest.raises(ValueError, match=f"{words} activations='dynamic'"):
            to_litert(small, tmp_path / "m.tflite", record, activations="int8")


def test_a_layer_whose_output_has_no_grid_asks_for_data(tmp_path):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="only")])
    data = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    small, record = calibrate(model, Recipe([("only", QuantSpec(num_bits=4))]), data, input_bits=8, progress=False)
    with pytest.raises(ValueError, match="Pass data="):
        to_litert(small, tmp_path / "m.tflite", record, activations="int8")
    to_litert(small, tmp_path / "m.tflite", record, activations="int8", data=data)


def test_recurrent_layers_on_float_rows_are_refused_with_the_way_out(tmp_path):
    model, record = compressed(speech_net(RECURRENT["lstm"]), QuantSpec(num_bits=4))
    with pytest.raises(ValueError, match=r"'cell' is recurrent.*activation_method='dynamic'"):
        to_litert(model, tmp_path / "m.tflite", record, activations="int8")
    assert not list(tmp_path.iterdir())
