"""The network, float or quantized, and its perplexity."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import r2keras
from ptb_lib.softmax import full_loss
from r2keras import QuantSpec, Recipe
from r2keras.workloads.text import windows

BATCH, LENGTH = 20, 30
TABLES = "embedding|softmax"
# Losses are clipped here, so that the perplexity of a diverged network stays finite, as JSON requires.
LARGEST_LOSS = 50.0


def build(
    vocabulary: int, units: int, dropout: float, weights: QuantSpec | None = None, states: QuantSpec | None = None
) -> keras.Model:
    """Builds an embedding, an LSTM and a dense layer of logits over the vocabulary.

    Args:
        vocabulary: number of words.
        units: units of the LSTM, and length of an embedding.
        dropout: rate of the dropout before and after the LSTM.
        weights: spec of all four kernels; None leaves them float.
        states: spec of the LSTM's hidden state; None leaves it float.

    Returns:
        A stateful functional model from words, int32 `(20, time)`, to logits.
    """
    words = keras.Input((None,), BATCH, dtype="int32", name="words")
    uniform = keras.initializers.RandomUniform(-0.1, 0.1)
    x = layers.Embedding(vocabulary, units, embeddings_initializer=uniform, name="embedding")(words)
    x = layers.Dropout(dropout, name="input_dropout")(x)
    options = {"return_sequences": True, "stateful": True, "name": "lstm"}
    if weights is None and states is None:
        x = layers.LSTM(units, **options)(x)
    else:
        specs = {"kernel_spec": weights, "recurrent_spec": weights, "state_spec": states}
        x = r2keras.layers.QuantizedLSTM(units, **specs, **options)(x)
    x = layers.Dropout(dropout, name="output_dropout")(x)
    outputs = layers.Dense(vocabulary, kernel_initializer=uniform, name="softmax")(x)
    net = keras.Model(words, outputs, name="language_model")
    return net if weights is None else r2keras.prepare(net, Recipe([(TABLES, weights)]))


def latent_weights(net: keras.Model) -> dict[str, keras.Variable]:
    """Returns the float weights that are trained, by their names in a checkpoint."""
    embedding, lstm, softmax = (_inner(net, name) for name in ("embedding", "lstm", "softmax"))
    return {
        "embedding": embedding.embeddings,
        "kernel": lstm.cell.kernel,
        "recurrent_kernel": lstm.cell.recurrent_kernel,
        "lstm_bias": lstm.cell.bias,
        "softmax": softmax.kernel,
        "softmax_bias": softmax.bias,
    }


def compressors(net: keras.Model) -> dict[str, keras.Layer]:
    """Returns the layer that quantizes each kernel, by the kernel's name in a checkpoint."""
    by_kernel = {}
    for name in ("embedding", "softmax"):
        wrapper = net.get_layer(name)
        parts = getattr(wrapper, "quantizers", None) or getattr(wrapper, "palettes", {})
        if parts:
            (by_kernel[name],) = parts.values()
    lstm_parts = getattr(net.get_layer("lstm"), "parts", None)
    if lstm_parts is not None:
        by_kernel |= lstm_parts.compressors
    return by_kernel


def set_ranges(net: keras.Model) -> None:
    """Sets the ranges of all quantizers from the weights."""
    for layer in net.layers:
        if hasattr(layer, "initialize"):
            layer.initialize()


def start_softmax(net: keras.Model, ids: np.ndarray) -> None:
    """Sets the softmax bias to the log frequency of each word, the best bias of an untrained network."""
    bias = latent_weights(net)["softmax_bias"]
    counts = np.bincount(ids, minlength=bias.shape[0]) + 1
    bias.assign(np.log(counts / counts.sum()))


def perplexity(net: keras.Model, ids: np.ndarray, states: list[list[np.ndarray]] | None = None) -> float:
    """Returns `exp` of the mean negative log likelihood of a word, over all words of the vocabulary, in float32.

    Args:
        net: a network of `build`, or a copy with another batch size. A quantized one is finalized first, so that its
            weights are those on the grid.
        ids: the text.
        states: states of the LSTM at the start of each window; None carries its own state on, starting at zero.
    """
    net = net if plain(net) else r2keras.finalize(net)[0]
    body = keras.Model(net.inputs, net.get_layer("output_dropout").output)
    head = net.get_layer("softmax")
    kernel, bias = (tf.convert_to_tensor(variable) for variable in (head.kernel, head.bias))

    @tf.function(autograph=False, reduce_retracing=True)
    def total_loss(words, following):
        hidden = tf.reshape(body(words, training=False), (-1, kernel.shape[0]))
        return tf.reduce_sum(full_loss(hidden, kernel, bias, tf.reshape(following, (-1,))))

    lstm = net.get_layer("lstm")
    lstm.reset_state()
    loss = count = 0
    for index, pair in enumerate(windows(ids, net.inputs[0].shape[0], LENGTH)):
        if states:
            for variable, value in zip(lstm.states, states[index], strict=True):
                variable.assign(value)
        loss += float(total_loss(*map(tf.constant, pair)))
        count += pair[0].size
    lstm.reset_state()
    return math.exp(min(loss / count, LARGEST_LOSS))


def plain(net: keras.Model) -> bool:
    """Whether no kernel is quantized."""
    return type(net.get_layer("softmax")) is layers.Dense


def _inner(net: keras.Model, name: str) -> keras.Layer:
    """Returns a layer without its wrapper."""
    layer = net.get_layer(name)
    return getattr(layer, "layer", layer)
