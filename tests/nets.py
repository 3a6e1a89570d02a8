"""Tiny models of every shape that r2keras rebuilds, and inputs for them."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops


def plain():
    """A Sequential model with batch normalisation."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dense(4, name="head"),
        ],
        name="plain",
    )


def branched():
    """Two inputs, two outputs, a layer that is used twice."""
    first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    shared = layers.Dense(5, activation="tanh", name="shared")
    joined = layers.Concatenate(name="join")([shared(first), shared(second)])
    outputs = [layers.Dense(3, name="left")(joined), layers.Dense(2, name="right")(joined)]
    return keras.Model([first, second], outputs, name="branched")


def nested():
    """Two levels: a Sequential in a Functional in a Sequential, whose layer names repeat."""
    core = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="dense")], name="core")
    x = keras.Input((6,))
    block = keras.Model(x, layers.Add(name="add")([x, core(layers.Dense(6, name="dense")(x))]), name="block")
    return keras.Sequential([keras.Input((6,)), block, layers.Dense(4, name="dense")], name="nested")


def reused():
    """A nested model that is used twice."""
    block = keras.Sequential([keras.Input((6,)), layers.Dense(6, activation="tanh", name="dense")], name="block")
    x = keras.Input((6,))
    return keras.Model(x, layers.Add(name="add")([block(x), block(block(x))]), name="reused")


def text():
    """Words through an embedding with a mask and a recurrent layer that runs both ways."""
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(10, 4, mask_zero=True, name="words"),
            layers.Bidirectional(layers.LSTM(3, name="lstm"), name="both"),
        ],
        name="text",
    )


KERNELS = {
    plain: ["conv/kernel", "head/kernel"],
    branched: ["shared/kernel", "left/kernel", "right/kernel"],
    nested: ["block/dense/kernel", "block/core/dense/kernel", "dense/kernel"],
    reused: ["block/dense/kernel"],
    text: [
        "words/embeddings",
        "both/forward_lstm/lstm_cell/kernel",
        "both/forward_lstm/lstm_cell/recurrent_kernel",
        "both/backward_lstm/lstm_cell/kernel",
        "both/backward_lstm/lstm_cell/recurrent_kernel",
    ],
}


def inputs_of(model, samples=8):
    """Random inputs that fit a model: an array, or a list of them."""
    rng = np.random.default_rng(4)
    made = [
        rng.integers(0, 10, (samples, *x.shape[1:])) if "int" in x.dtype else rng.normal(size=(samples, *x.shape[1:]))
        for x in model.inputs
    ]
    made = [x.astype("int32" if x.dtype.kind == "i" else "float32") for x in made]
    return made if len(made) > 1 else made[0]


def arrays(outputs):
    """The outputs of a model as a list of float32 arrays."""
    parts = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [np.array(ops.convert_to_numpy(ops.cast(part, "float32"))) for part in parts]


def outputs(model, x):
    """What a model predicts, with a compiled call on JAX only: elsewhere that is most of the time of a small model."""
    if keras.backend.backend() == "jax":
        return np.asarray(model.predict(x, verbose=0))
    return np.array(ops.convert_to_numpy(model(x, training=False)))


def weights_of(model):
    """All weights of a model with their paths, as copies."""
    return {w.path: np.array(ops.convert_to_numpy(w)) for w in model.weights}


def shaken(model):
    """Gives every float weight, statistics too, a positive value of its own."""
    rng = np.random.default_rng(5)
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            spread = np.abs(rng.normal(size=weight.shape)) + 0.1
            signs = rng.choice([-1.0, 1.0], weight.shape) if len(weight.shape) > 1 else 1.0
            weight.assign(0.5 * signs * spread)
    return model
