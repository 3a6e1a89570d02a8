"""One layer of every kind for the tests of the wrappers, and shared checks."""

import keras
import numpy as np
from keras import layers, ops

from r2keras._models.walk import kernels
from r2keras.layers import FakeQuantize
from r2keras.specs import QuantSpec

BATCH = 4
RNG = np.random.default_rng(11)
SPEC = QuantSpec(num_bits=3)
STILL = QuantSpec(num_bits=3, range="min_max")


@keras.saving.register_keras_serializable(package="tests")
class Scorer(layers.Layer):
    """A layer with a weight name of its own, and a build that wants a tuple."""

    def build(self, input_shape):
        shape = tuple.__add__(input_shape[1:], (5,))
        self.mixing = self.add_weight(name="mixing", shape=shape, initializer="glorot_uniform")

    def call(self, inputs):
        return ops.tanh(ops.matmul(inputs, self.mixing))


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """A composite layer with batch normalization and dropout inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(5, name="dense")
        self.norm = layers.BatchNormalization(momentum=0.5, name="norm")
        self.drop = layers.Dropout(0.25, seed=3, name="drop")

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.norm.build((*input_shape[:-1], 5))

    def call(self, inputs, training=None):
        return self.drop(self.norm(self.dense(inputs), training=training), training=training)


# name -> (how to make the layer, shape of its input without the batch)
LAYERS = {
    "dense": (lambda **o: layers.Dense(4, activation="relu", **o), (6,)),
    "conv1d": (lambda **o: layers.Conv1D(4, 3, padding="causal", **o), (8, 5)),
    "conv2d": (lambda **o: layers.Conv2D(4, 3, strides=2, **o), (7, 7, 3)),
    "conv3d": (lambda **o: layers.Conv3D(3, 2, **o), (3, 3, 3, 2)),
    "transposed": (lambda **o: layers.Conv2DTranspose(4, 3, **o), (4, 4, 3)),
    "depthwise1d": (lambda **o: layers.DepthwiseConv1D(3, depth_multiplier=2, **o), (8, 4)),
    "depthwise2d": (lambda **o: layers.DepthwiseConv2D(3, **o), (7, 7, 3)),
    "separable1d": (lambda **o: layers.SeparableConv1D(4, 3, **o), (8, 5)),
    "separable2d": (lambda **o: layers.SeparableConv2D(4, 3, **o), (7, 7, 3)),
    "embedding": (lambda **o: layers.Embedding(10, 4, **o), None),
    "einsum": (lambda **o: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", **o), (5, 6)),
    "attention": (lambda **o: layers.MultiHeadAttention(2, 3, **o), (5, 6)),
    "lstm": (lambda **o: layers.LSTM(4, dropout=0.2, recurrent_dropout=0.2, seed=1, **o), (5, 3)),
    "gru": (lambda **o: layers.GRU(4, return_sequences=True, **o), (5, 3)),
    "simple_rnn": (lambda **o: layers.SimpleRNN(4, **o), (5, 3)),
    "bidirectional": (lambda **o: layers.Bidirectional(layers.LSTM(3), **o), (5, 3)),
    "distributed": (lambda **o: layers.TimeDistributed(layers.Dense(4), **o), (5, 6)),
    "stacked": (lambda **o: layers.RNN([layers.GRUCell(3), layers.SimpleRNNCell(4)], **o), (5, 3)),
    "custom": (lambda **o: Scorer(**o), (6,)),
    "composite": (lambda **o: Block(**o), (6,)),
}

# The layers whose ranges are searched and stored: a search costs JAX a second for every shape of a kernel.
SEARCHED = ("dense", "conv2d", "embedding", "attention", "bidirectional", "custom", "composite")


def array(tensor):
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def tokens():
    return np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 9, 1], [2, 0, 0, 0, 0]])


def inputs_of(name):
    shape = LAYERS[name][1]
    return tokens() if shape is None else RNG.normal(size=(BATCH, *shape)).astype("float32")


def call(layer, name, x, **options):
    return layer(x, x, **options) if name == "attention" else layer(x, **options)


def symbolic_input(name):
    shape, name = LAYERS[name][1], f"{name}_input"
    return keras.Input((5,), dtype="int32", name=name) if shape is None else keras.Input(shape, name=name)


def student(name, spec=SPEC, **options):
    """A model of one wrapped layer."""
    make, x = LAYERS[name][0], symbolic_input(name)
    return keras.Model(x, call(FakeQuantize(make(name="inner", **options), spec), name, x))


def everything():
    """A model with a branch for every layer: one compilation for all of them."""
    inputs = {name: symbolic_input(name) for name in LAYERS}
    specs = {name: SPEC if name in SEARCHED else STILL for name in LAYERS}
    wrapped = {name: FakeQuantize(make(name=name), specs[name]) for name, (make, _) in LAYERS.items()}
    return keras.Model(fed(inputs), {name: call(wrapped[name], name, inputs[name]) for name in LAYERS})


def fed(x):
    """The inputs of the layers under the names that they have in that model."""
    return {f"{name}_input": value for name, value in x.items()}


def quantized(wrapper):
    """A plain copy of the inner layer that holds the quantized weights."""
    plain = wrapper.layer.__class__.from_config(wrapper.layer.get_config())
    return plain, {name: tensor.values() for name, tensor in wrapper.quantized_tensors("inner")}


def fill(plain, wrapper, values):
    """Copies the weights, the kernels from `values`."""
    names = {id(v): name for name, v in kernels(wrapper.layer)}
    for target, source in zip(plain.weights, wrapper.layer.weights, strict=True):
        value = values[names[id(source)]] if id(source) in names else ops.convert_to_numpy(source)
        target.assign(value)


def plain_output(name, wrapper, x):
    """The output of the plain layer that holds the quantized weights."""
    plain, values = quantized(wrapper)
    call(plain, name, symbolic_input(name))
    fill(plain, wrapper, values)
    return array(call(plain, name, x))
