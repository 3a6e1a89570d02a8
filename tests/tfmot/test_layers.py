"""Every kind of layer with kernels trains in TFMOT's wrapper, including those that TFMOT rejects."""

import numpy as np
import pytest
import tf_keras

import r2keras
from r2keras import QuantSpec, Recipe
from r2keras.tfmot import GridActivation, finalize
from tests.tfmot.nets import applied, outputs

layers = tf_keras.layers
RNG = np.random.default_rng(5)
IMAGES, STEPS, WORDS = RNG.normal(size=(4, 5, 5, 3)), RNG.normal(size=(4, 4, 3)), RNG.integers(0, 9, (4, 6))
KINDS = {
    "dense": (lambda: layers.Dense(4, name="it"), STEPS, ["kernel"]),
    "conv1d": (lambda: layers.Conv1D(4, 3, name="it"), STEPS, ["kernel"]),
    "conv2d": (lambda: layers.Conv2D(4, 3, name="it"), IMAGES, ["kernel"]),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, name="it"), IMAGES, ["depthwise_kernel"]),
    "separable": (lambda: layers.SeparableConv2D(4, 3, name="it"), IMAGES, ["depthwise_kernel", "pointwise_kernel"]),
    "transposed": (lambda: layers.Conv2DTranspose(4, 3, name="it"), IMAGES, ["kernel"]),
    "embedding": (lambda: layers.Embedding(9, 4, name="it"), WORDS, ["embeddings"]),
    "lstm": (lambda: layers.LSTM(4, name="it"), STEPS, ["lstm_cell/kernel", "lstm_cell/recurrent_kernel"]),
    "gru": (lambda: layers.GRU(4, name="it"), STEPS, ["gru_cell/kernel", "gru_cell/recurrent_kernel"]),
}
CHANNELS = {
    "dense": (1, 4),
    "conv1d": (1, 1, 4),
    "conv2d": (1, 1, 1, 4),
    "depthwise": (1, 1, 3, 2),
    "separable": (1, 1, 3, 1),
    "transposed": (1, 1, 4, 1),
    "embedding": (9, 1),
    "lstm": (1, 16),
    "gru": (1, 12),
}
FILES = ("separable", "transposed", "embedding", "lstm", "gru")


def model_of(kind):
    make, x, _ = KINDS[kind]
    inputs = layers.Input(x.shape[1:], batch_size=1, dtype="int32" if kind == "embedding" else "float32", name="x")
    return tf_keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(make()(inputs))))


@pytest.fixture(scope="module")
def finished():
    """By kind: the trained model, its latent kernels before, the plain model, the record; made when first asked for."""
    made = {}

    def get(kind):
        if kind not in made:
            x, spec = KINDS[kind][1], QuantSpec(num_bits=4, range="min_max")
            qat = applied(model_of(kind), Recipe([("it", spec)]))
            before = {quantizer.name: v.numpy() for v, quantizer, _ in qat.get_layer("quant_it")._weight_vars}
            qat.compile("sgd", "mse", run_eagerly=True)
            qat.fit(x, np.ones((4, 2)), batch_size=1, verbose=0)
            made[kind] = (qat, before, *finalize(qat))
        return made[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_train_and_land_on_their_grids(kind, finished):
    qat, before, model, record = finished(kind)
    assert list(before) == KINDS[kind][2]
    for variable, quantizer, _ in qat.get_layer("quant_it")._weight_vars:
        assert (variable.numpy() != before[quantizer.name]).any()
    assert list(record.tensors) == [f"it/{name}" for name in KINDS[kind][2]]
    assert record.tensors[f"it/{KINDS[kind][2][0]}"].scale.shape == CHANNELS[kind]
    for x in np.split(KINDS[kind][1], 4):
        np.testing.assert_array_equal(outputs(model, x), outputs(qat, x))


@pytest.mark.parametrize("kind", FILES)
def test_files_hold_their_codes(kind, finished, tmp_path):
    *_, model, record = finished(kind)
    r2keras.export.to_litert(model, tmp_path / "it.tflite", record)
    assert r2keras.export.verify(model, tmp_path / "it.tflite", KINDS[kind][1], batch_size=1).passed()


def test_kernels_of_one_layer_may_differ():
    rules = [("it/lstm_cell/recurrent_kernel", QuantSpec(num_bits=3, method="lsq")), ("it", QuantSpec(num_bits=5))]
    qat = applied(model_of("lstm"), Recipe(rules))
    record = finalize(qat)[1]
    found = {name.rpartition("/")[2]: tensor.spec.num_bits for name, tensor in record.tensors.items()}
    assert found == {"kernel": 5, "recurrent_kernel": 3}


def test_grid_activation_refuses_what_is_no_grid():
    with pytest.raises(ValueError, match="scale"):
        GridActivation(scale=0.0, zero_point=0, num_bits=4)
    with pytest.raises(ValueError, match="zero_point"):
        GridActivation(scale=1.0, zero_point=8, num_bits=4)
    again = GridActivation.from_config(GridActivation(scale=0.5, zero_point=-8, num_bits=4).get_config())
    np.testing.assert_array_equal(again(np.array([-1.0, 0.3, 99.0], "float32")), [0.0, 0.5, 7.5])
