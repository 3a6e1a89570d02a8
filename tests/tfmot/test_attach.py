"""Regularizers added to existing tf_keras models."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras

import r2keras
from r2keras import tfmot as r2


def model():
    inner = [tf_keras.Input((6, 6, 4)), tf_keras.layers.DepthwiseConv2D(3, name="depth")]
    x = inputs = tf_keras.Input((8, 8, 2))
    x = tf_keras.layers.Conv2D(4, 3, kernel_regularizer="l2", name="conv")(x)
    x = tf_keras.layers.BatchNormalization(name="norm")(x)
    x = tf_keras.Sequential(inner, name="block")(x)
    x = tf_keras.layers.Conv2DTranspose(3, 2, name="up")(x)
    x = tf_keras.layers.SeparableConv2D(3, 2, name="sep")(x)
    return tf_keras.Model(inputs, tf_keras.layers.Dense(3, name="head")(x), name="net")


def margins(layer):
    return [variable for variable in layer.weights if variable.name.endswith("/margin:0")]


def test_every_kernel_gets_its_own_copy_and_keeps_its_values():
    old = model()
    new = r2.regularize(old, r2.R2Margin(0.1))
    # conv, depth, up, 2 of sep, head
    assert len(margins(new)) == 6 == len(new.losses)
    for layer in ("conv", "norm", "up", "sep", "head"):
        values = old.get_layer(layer).get_weights()
        for before, after in zip(values, new.get_layer(layer).get_weights(), strict=False):
            np.testing.assert_array_equal(before, after)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    np.testing.assert_array_equal(old(x), new(x))
    assert type(old.get_layer("conv").kernel_regularizer) is tf_keras.regularizers.L2


def test_a_pattern_chooses_and_the_start_comes_from_the_weights():
    old = model()
    kernel = old.get_layer("head").kernel
    new = r2.regularize(old, r2.R2Margin(0.1, margin=50.0), match="head|sep/point")
    assert len(margins(new)) == 2
    values = kernel.numpy()
    expected = np.abs(values).max() / values.std()
    assert float(new.get_layer("head").kernel_regularizer.margin) == pytest.approx(expected, rel=1e-6)
    assert type(new.get_layer("conv").kernel_regularizer) is tf_keras.regularizers.L2


def test_channels_are_the_outputs_of_the_layer():
    new = r2.regularize(model(), r2.R2Linf(granularity="per_channel"))
    separable = new.get_layer("sep")
    found = [
        new.get_layer("conv").kernel_regularizer,
        new.get_layer("block").get_layer("depth").depthwise_regularizer,
        new.get_layer("up").kernel_regularizer,
        separable.depthwise_regularizer,
        separable.pointwise_regularizer,
    ]
    assert [regularizer.channel_axis for regularizer in found] == [-1, (-2, -1), -2, (-2, -1), -1]


def test_what_was_learned_stays_where_the_pattern_does_not_look():
    once = r2.regularize(model(), r2.R2Margin(0.1), match="conv/")
    once.get_layer("conv").kernel_regularizer.margin.assign(0.75)
    twice = r2.regularize(once, r2.R2SoftMinMax(0.1), match="head")
    assert float(twice.get_layer("conv").kernel_regularizer.margin) == 0.75
    assert float(r2.regularize(twice, r2.R2Margin(0.1), match="conv/").get_layer("conv").weights[-1]) != 0.75


def test_recurrent_layers_and_what_is_in_them():
    both = tf_keras.layers.Bidirectional(tf_keras.layers.LSTM(2, return_sequences=True), name="both")
    stack = tf_keras.layers.RNN([tf_keras.layers.GRUCell(2), tf_keras.layers.LSTMCell(2)], name="stack")
    new = r2.regularize(tf_keras.Sequential([tf_keras.Input((4, 3)), both, stack]), r2.R2Margin(), match="/recurrent")
    assert [len(margins(layer)) for layer in new.layers] == [2, 2]
    assert len(new.losses) == 4


def test_embeddings_and_shared_layers():
    words = tf_keras.layers.Embedding(5, 3, name="words")
    first, second = tf_keras.Input((4,)), tf_keras.Input((4,))
    both = tf_keras.Model([first, second], tf_keras.layers.Add()([words(first), words(second)]))
    new = r2.regularize(both, r2.R2Margin(granularity="per_channel"))
    assert new.get_layer("words").embeddings_regularizer.channel_axis == 0
    assert len(new.losses) == 1


def attention():
    x = tf_keras.Input((4, 3))
    return tf_keras.Model(x, tf_keras.layers.MultiHeadAttention(2, 3, name="att")(x, x))


def broken():
    bad = model()
    bad.get_layer("head").kernel.assign(np.full((3, 3), np.nan))
    return bad


def keras3():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("make", "regularizer", "match", "text"),
    [
        (model, r2keras.R2Margin(), ".*", r"for tf_keras.*r2keras\.tfmot\.R2Margin"),
        (model, lambda w: 0.0, ".*", "a regularizer with a config"),
        (model, "l3", ".*", "a Keras regularizer, its name or its serialized form.*'l3'"),
        (model, r2.R2Linf(), "nothing", r"matches a kernel.*block/depth/depthwise_kernel"),
        (model, r2.R2Linf(), "(", "a regular expression"),
        (model, r2.R2Margin(dim=9), "head", "head.*`dim`"),
        (broken, r2.R2Linf(), "head", "head/kernel.*NaN"),
        (attention, r2.R2Margin(), ".*", r"att\. .*one weight"),
        (keras3, r2.R2Linf(), ".*", r"Expected a tf_keras model.*r2keras\.regularize"),
    ],
)
def test_what_cannot_be_is_refused(make, regularizer, match, text):
    with pytest.raises((TypeError, ValueError), match=text):
        r2.regularize(make(), regularizer, match=match)
