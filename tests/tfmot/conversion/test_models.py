"""Models from Keras 3 to tf_keras and back: equal outputs and structure, and errors that name all obstacles."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from keras import layers

import r2keras
from r2keras import tfmot as r2
from tests import nets

RNG = np.random.default_rng(5)
IMAGE = (8, 8, 4)


def stacked(shape, *parts, dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts], name="stacked")


def residual():
    x = inputs = keras.Input(IMAGE, name="image")
    for place in range(2):
        y = layers.Conv2D(4, 3, padding="same", use_bias=False, kernel_regularizer=r2keras.R2Margin(0.01))(x)
        y = layers.BatchNormalization()(y)
        x = layers.ReLU()(layers.Add()([x, y]) if place else x + y)
    outputs = layers.Dense(3, activation="softmax", name="head")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="residual")


def depthwise():
    return stacked(
        IMAGE,
        layers.DepthwiseConv2D(3, depth_multiplier=2, depthwise_regularizer="l2"),
        layers.BatchNormalization(trainable=False),
        layers.ReLU(6.0),
        layers.SeparableConv2D(
            6, 3, depthwise_regularizer=r2keras.R2Linf(), pointwise_regularizer=r2keras.R2SoftMinMax()
        ),
        layers.LeakyReLU(negative_slope=0.2),
        layers.Conv2DTranspose(3, 3, strides=2, padding="same"),
        layers.GlobalAveragePooling2D(keepdims=True),
    )


def recurrent():
    return stacked(
        (6, 4),
        layers.Conv1D(4, 3, padding="causal"),
        layers.LSTM(4, return_sequences=True, recurrent_regularizer=r2keras.R2Margin(margin=1.5)),
        layers.Bidirectional(layers.GRU(3, return_sequences=True, kernel_regularizer=r2keras.R2Margin())),
        layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)])),
    )


def words():
    return stacked((5,), layers.Embedding(10, 4, mask_zero=True), layers.Bidirectional(layers.LSTM(3)), dtype="int32")


def structured():
    image, state = keras.Input(IMAGE, name="image"), keras.Input((4,), name="state")
    rows = layers.Reshape((16, 16))(image * image)
    last, *states = layers.LSTM(4, return_state=True)(rows, initial_state=[state, state])
    attended = layers.MultiHeadAttention(2, 3)(rows, value=rows)
    return keras.Model({"image": image, "state": state}, {"last": last, "rest": [states[1], attended]})


def half():
    return stacked((6,), layers.Dense(4, dtype="mixed_float16"), layers.Dense(2, dtype="float32"))


MODELS = [residual, depthwise, recurrent, words, structured, half]
MODELS += [nets.plain, nets.branched, nets.nested, nets.reused]


def randomized(model):
    """Returns the model with weights that no initializer makes, and positive variances."""
    for variable in model.weights:
        noise = RNG.uniform(0.0, 0.2, variable.shape)
        variable.assign(keras.ops.convert_to_numpy(variable) + noise.astype("float32"))
    return model


def feed(model):
    def values(tensor):
        shape = (2, *tensor.shape[1:])
        whole = "int" in tensor.dtype
        return RNG.integers(0, 3, shape).astype("int32") if whole else RNG.normal(size=shape).astype("float32")

    return keras.tree.map_structure(values, model.inputs[0] if isinstance(model, keras.Sequential) else model.input)


def outputs(model, inputs):
    return keras.tree.map_structure(np.asarray, model(inputs, training=False))


def assert_close(found, expected):
    keras.tree.assert_same_structure(found, expected)
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


def scalars3(model):
    learned = [v.regularizer for v in model.weights if isinstance(v.regularizer, keras.Layer)]
    return [float(v) for regularizer in learned for v in regularizer.weights]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_outputs_weights_and_structure_survive_there_and_back(build):
    model = randomized(build())
    inputs = feed(model)
    expected = outputs(model, inputs)
    there = r2.from_keras3(model)
    back = r2.to_keras3(there)
    assert isinstance(there, tf_keras.Sequential) == isinstance(model, keras.Sequential)
    assert_close(outputs(there, inputs), expected)
    assert_close(outputs(back, inputs), expected)
    assert {layer.name for layer in back.layers} == {layer.name for layer in there.layers}
    assert len(there.trainable_weights) == len(model.trainable_weights) == len(back.trainable_weights)
    for one, other in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert scalars3(back) == scalars3(model)


def test_regularizers_keep_what_they_learned():
    model = randomized(residual())
    there = r2.from_keras3(model)
    found = [layer.kernel_regularizer for layer in there.layers if isinstance(layer, tf_keras.layers.Conv2D)]
    assert [type(regularizer) for regularizer in found] == [r2.R2Margin] * 2
    assert [float(regularizer.margin) for regularizer in found] == scalars3(model)
    assert float(sum(there.losses)) == pytest.approx(float(sum(model.losses)), rel=1e-6)


def test_shared_layers_stay_shared():
    there = r2.from_keras3(nets.branched())
    assert len(there.get_layer("shared").inbound_nodes) == 2


def test_the_copy_goes_through_tfmot():
    model = randomized(residual())
    quantized = tfmot.quantization.keras.quantize_model(r2.from_keras3(model))
    names = {layer.name for layer in quantized.layers}
    assert "quant_head" in names


def test_a_model_that_tf_keras_loaded_comes_to_keras_3(tmp_path):
    x = inputs = tf_keras.Input(IMAGE)
    x = tf_keras.layers.DepthwiseConv2D(3)(x)
    x = tf_keras.layers.LeakyReLU(0.1)(tf_keras.layers.BatchNormalization()(x))
    x = x + tf_keras.layers.SpatialDropout2D(0.1)(tf_keras.layers.Activation("relu")(x))
    model = randomized(tf_keras.Model(inputs, tf_keras.layers.Flatten()(x)))
    model.save(tmp_path / "model.h5")
    loaded = tf_keras.models.load_model(tmp_path / "model.h5", compile=False)
    values = RNG.normal(size=(2, *IMAGE)).astype("float32")
    back = r2.to_keras3(loaded)
    assert_close(outputs(back, values), outputs(model, values))
    assert isinstance(back, keras.Model)


def test_a_branch_that_no_output_needs_is_left_out():
    x = tf_keras.Input((4,))
    used = tf_keras.layers.Dense(2, name="used")
    y = used(x)
    tf_keras.Model(x, used(tf_keras.layers.Dense(4, name="other")(x)))
    assert [layer.name for layer in r2.to_keras3(tf_keras.Model(x, y)).layers[1:]] == ["used"]


@keras.saving.register_keras_serializable(package="tests")
class Own(keras.layers.Dense):
    pass


def test_every_layer_that_does_not_exist_is_named_at_once():
    block = stacked((4,), layers.RMSNormalization(name="rms"))
    block.name = "block"
    x = inputs = keras.Input((4,))
    x = layers.Dense(4, activation="hard_sigmoid", name="hard")(block(x))
    x = layers.Dense(4, lora_rank=2, name="lora")(Own(4, name="own")(x))
    x = layers.Lambda(lambda x: x, name="function")(layers.Dense(4, activation="glu", name="glu")(x))
    with pytest.raises(ValueError, match=r"layers that tf_keras has too\. Received: the model 'model' with ") as error:
        r2.from_keras3(keras.Model(inputs, keras.ops.exp(x) * 2.0, name="model"))
    expected = [
        "block/rms (tf_keras has no RMSNormalization)",
        "hard (the activation hard_sigmoid is another function in tf_keras)",
        "own (Own is not a layer of Keras 3)",
        "lora (Dense of tf_keras has no lora_rank=2",
        "glu (tf_keras has no activation glu)",
        "function (the function <lambda> is a function of tests.tfmot.conversion.test_models, not of keras)",
        "the operation Exp",
        "the operation Multiply",
    ]
    assert [text for text in expected if text not in str(error.value)] == []


def quantized():
    model = stacked((4,), layers.Dense(2, name="head"))
    model.quantize("int8")
    return model


def ones(shape, dtype=None):
    return keras.ops.ones(shape)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (quantized, "tf_keras has no dtype policy QuantizedDTypePolicy"),
        (
            lambda: stacked((4,), layers.Dense(2, kernel_initializer=ones, name="head")),
            r"the kernel_initializer ones is a function",
        ),
    ],
)
def test_parts_of_a_layer_are_checked(make, reason):
    with pytest.raises(ValueError, match=rf"head \({reason}"):
        r2.from_keras3(make())


def relu(x):
    return 2 * tf.nn.relu(x)


class GlorotUniform(tf_keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return tf.ones(shape, dtype)


class Kurtosis(tf_keras.regularizers.Regularizer):
    def __call__(self, x):
        return tf.reduce_sum(x)

    def get_config(self):
        return {}


class L2(keras.regularizers.Regularizer):
    def __call__(self, x):
        return keras.ops.sum(x)

    def get_config(self):
        return {"l2": 0.1}


class LSTMCell(tf_keras.layers.LSTMCell):
    pass


def in_tf_keras(layer, shape=(4,)):
    return tf_keras.Sequential([tf_keras.Input(shape), layer])


OF_TESTS = r"of tests\.tfmot\.conversion\.test_models, not of"
NAMESAKES = [
    (
        lambda: in_tf_keras(tf_keras.layers.Dense(2, activation=relu)),
        rf"activation relu is a function {OF_TESTS} tf_ker",
    ),
    (
        lambda: in_tf_keras(tf_keras.layers.TimeDistributed(tf_keras.layers.Dense(2, activation=relu)), (3, 4)),
        rf"activation relu is a function {OF_TESTS} tf_keras\.activations",
    ),
    (lambda: in_tf_keras(tf_keras.layers.Dense(2, kernel_regularizer=relu)), rf"function {OF_TESTS} tf_keras\)"),
    (
        lambda: in_tf_keras(tf_keras.layers.Dense(2, bias_initializer=GlorotUniform())),
        rf"bias_initializer GlorotUniform is a class {OF_TESTS} tf_keras",
    ),
    (
        lambda: in_tf_keras(tf_keras.layers.Dense(2, kernel_regularizer=Kurtosis())),
        rf"kernel_regularizer Kurtosis is a class {OF_TESTS} tf_keras",
    ),
    (lambda: in_tf_keras(tf_keras.layers.RNN(LSTMCell(2)), (3, 4)), rf"cell LSTMCell is a class {OF_TESTS} tf_keras"),
    (lambda: stacked((4,), layers.Dense(2, activation=relu)), rf"relu is a function {OF_TESTS} keras\.activations"),
    (lambda: stacked((4,), layers.Dense(2, kernel_regularizer=L2())), rf"kernel_regularizer L2 is a class {OF_TESTS}"),
    (lambda: stacked((4,), layers.Dense(2, activation=keras.ops.gelu)), r"gelu is a function of keras\.src\.ops"),
]


@pytest.mark.parametrize(("make", "reason"), NAMESAKES)
def test_namesakes_of_what_keras_has_are_refused(make, reason):
    model = make()
    with pytest.raises(ValueError, match=reason):
        (r2.to_keras3 if isinstance(model, tf_keras.Model) else r2.from_keras3)(model)


@pytest.mark.parametrize("function", [tf.nn.relu, tf.nn.gelu, keras.ops.silu])
def test_equal_functions_of_libraries_are_accepted(function):
    model = stacked((4,), layers.Dense(3, activation=function))
    values = RNG.normal(size=(2, 4)).astype("float32")
    assert_close(outputs(r2.from_keras3(model), values), outputs(model, values))


def test_parts_of_a_layer_that_both_have_stay():
    penalty = keras.regularizers.OrthogonalRegularizer(0.25)
    there = r2.from_keras3(stacked((4,), layers.Dense(2, kernel_regularizer=penalty, kernel_constraint="max_norm")))
    assert there.layers[0].kernel_regularizer.get_config() == {"factor": 0.25, "mode": "rows"}
    assert type(there.layers[0].kernel_constraint) is tf_keras.constraints.MaxNorm


def test_options_of_tf_keras_are_checked():
    parts = [tf_keras.layers.LSTM(3, time_major=True, name="rnn"), tf_keras.layers.ThresholdedReLU(name="old")]
    model = tf_keras.Sequential([tf_keras.Input((4, 2), batch_size=1), *parts])
    with pytest.raises(
        ValueError, match=r"rnn \(LSTM of Keras 3 has no time_major=True\); old \(Keras 3 has no Thresh"
    ):
        r2.to_keras3(model)


def test_wrappers_are_named_with_the_way_out():
    model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"QuantizeWrapperV2 is not a layer of tf_keras.*through r2keras\.tfmot"):
        r2.to_keras3(tfmot.quantization.keras.quantize_model(model))


class Subclassed3(keras.Model):
    def call(self, x):
        return x


class Subclassed2(tf_keras.Model):
    def call(self, x):
        return x


def keras3_model():
    return stacked((4,), layers.Dense(2))


def tf_keras_model():
    return tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])


DOORS = [
    (r2.from_keras3, tf_keras_model, TypeError, "Expected a Keras 3 model.*r2keras.tfmot.to_keras3"),
    (r2.from_keras3, Subclassed3, TypeError, "subclassed Subclassed3"),
    (r2.from_keras3, lambda: keras.Sequential([layers.Dense(2)]), ValueError, "not built"),
    (r2.from_keras3, lambda: "model.h5", TypeError, "Expected a Keras 3 model"),
    (r2.to_keras3, keras3_model, TypeError, "Expected a tf_keras model.*r2keras.tfmot.from_keras3"),
    (r2.to_keras3, Subclassed2, TypeError, "subclassed Subclassed2"),
    (r2.to_keras3, lambda: tf_keras.Sequential([tf_keras.layers.Dense(2)]), ValueError, "not built"),
    (r2.to_keras3, lambda: "model.h5", TypeError, "Functional or Sequential model of tf_keras"),
]


@pytest.mark.parametrize(("door", "make", "kind", "text"), DOORS)
def test_the_wrong_model_is_told_which_door_to_take(door, make, kind, text):
    with pytest.raises(kind, match=text):
        door(make())
