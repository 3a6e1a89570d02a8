"""Rows rounded inside layers of Keras, against NumPy; names, masks and errors."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from r2keras._models.row_products import einsum_axes, products, rounded_rows
from r2keras.layers import DynamicInput
from tests.oracles_activations import dynamic_rows

pytestmark = pytest.mark.backends
RNG = np.random.default_rng(5)


def rows(x):
    """Returns an array with rounded rows along its last axis."""
    return dynamic_rows(x.reshape(-1, x.shape[-1]))[0].reshape(x.shape)


def attention(layer, x, values):
    """Returns the output of an attention layer with rounded rows in front of its four projections."""
    weights = [np.array(ops.convert_to_numpy(weight)) for weight in layer.weights]
    queries, keys, parts = (np.einsum("nta,ahd->nthd", rows(a), w) + b for a, w, b in zip(
        (x, values, values), weights[0:6:2], weights[1:6:2], strict=True
    ))  # fmt: skip
    scores = np.einsum("nqhd,nkhd->nhqk", queries, keys) / np.sqrt(queries.shape[-1])
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = np.einsum("nhqk,nkhd->nqhd", shares, parts).astype("float32")
    flat = mixed.reshape(*mixed.shape[:2], -1)
    return rows(flat) @ weights[6].reshape(flat.shape[-1], -1) + weights[7]


def test_attention_rounds_in_front_of_each_projection():
    layer = layers.MultiHeadAttention(2, 4, bias_initializer="random_normal")
    x, values = (RNG.normal(size=(3, n, 8)).astype("float32") for n in (6, 5))
    found = ops.convert_to_numpy(DynamicInput(layer)(x, values))
    np.testing.assert_allclose(found, attention(layer, x, values), atol=1e-5)
    assert np.abs(found - ops.convert_to_numpy(layer(x, values))).max() > 1e-4


@pytest.mark.parametrize("rank", [1, 2])
def test_a_separable_convolution_rounds_between_its_halves(rank):
    kind = (layers.SeparableConv1D, layers.SeparableConv2D)[rank - 1]
    first = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)[rank - 1]
    layer = kind(5, 3, 2, "same", depth_multiplier=2, activation="relu", bias_initializer="random_normal")
    x = RNG.normal(size=(3, *(7,) * rank, 4)).astype("float32")
    found = ops.convert_to_numpy(DynamicInput(layer)(x))
    depthwise = first(3, 2, "same", depth_multiplier=2, use_bias=False)
    depthwise.build(x.shape)
    depthwise.kernel.assign(layer.depthwise_kernel)
    pointwise, bias = (ops.convert_to_numpy(v) for v in (layer.pointwise_kernel, layer.bias))
    middle = rows(np.array(ops.convert_to_numpy(depthwise(x))))
    np.testing.assert_allclose(found, np.maximum(middle @ pointwise.reshape(8, 5) + bias, 0), atol=1e-5)


def test_each_step_of_a_time_distributed_layer():
    layer = layers.TimeDistributed(layers.Dense(5))
    x = RNG.normal(size=(3, 6, 8)).astype("float32")
    found = ops.convert_to_numpy(DynamicInput(layer)(x))
    np.testing.assert_allclose(found, rows(x) @ ops.convert_to_numpy(layer.layer.kernel), atol=1e-5)


@pytest.mark.parametrize("equation", ["abcd,cde->abe", "abcd,dce->abe", "ab...,be->ae..."])
def test_rows_along_all_summed_axes(equation):
    x = RNG.normal(size=(3, 4, 5, 6)).astype("float32")
    layer = layers.EinsumDense(equation, (7, 5, 6) if "..." in equation else (4, 7))
    found = ops.convert_to_numpy(DynamicInput(layer)(x))
    if "..." in equation:
        rounded = np.moveaxis(rows(np.moveaxis(x, 1, -1)), -1, 1)
    else:
        rounded = rows(x.reshape(3, 4, 30)).reshape(x.shape)
    np.testing.assert_allclose(found, np.einsum(equation, rounded, ops.convert_to_numpy(layer.kernel)), atol=1e-5)


def test_equations_that_are_not_products_of_rows():
    assert [einsum_axes(text) for text in ("abc,bcd->abd", "abcd,cde->abde", "abc,cd->ad")] == [None] * 3
    assert einsum_axes("...x,xy->...y") == ((0,), (-1,)) and einsum_axes("ab,bc->ac") == ((0,), (-1,))


def test_some_kernels_alone_and_the_layer_afterwards():
    layer = layers.MultiHeadAttention(2, 4)
    x = RNG.normal(size=(3, 6, 8)).astype("float32")
    plain = ops.convert_to_numpy(layer(x, x))
    found = [ops.convert_to_numpy(DynamicInput(layer, kernels)(x, x)) for kernels in ((), ["value/kernel"], None)]
    np.testing.assert_array_equal(found[0], plain)
    assert len({array.tobytes() for array in found}) == 3
    with pytest.raises(RuntimeError, match="in the call"), rounded_rows(layer):
        raise RuntimeError("in the call")
    assert not any("call" in vars(product.layer) for product in products(layer).values())
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x, x)), plain)


@pytest.mark.slow_elsewhere
def test_masks_reach_the_layer_inside():
    embedding = layers.Embedding(9, 8, mask_zero=True)
    inputs = keras.Input((5,), dtype="int32")
    x = embedding(inputs)
    model = keras.Model(inputs, DynamicInput(layers.MultiHeadAttention(2, 4))(x, x))
    words = np.array([[3, 4, 5, 0, 0]])
    before = ops.convert_to_numpy(model(words))
    embedding.embeddings.assign(np.r_[np.full((1, 8), 0.5), ops.convert_to_numpy(embedding.embeddings)[1:]])
    np.testing.assert_allclose(ops.convert_to_numpy(model(words))[:, :3], before[:, :3], atol=1e-6)


def test_errors_name_the_layer_and_the_kernel():
    with pytest.raises(ValueError, match=r"Received: the layer 'c' \(Conv2D\), which multiplies none"):
        DynamicInput(layers.Conv2D(2, 3, name="c"))(np.ones((1, 5, 5, 2), "float32"))
    with pytest.raises(ValueError, match=r"kernels of 'd' that multiply rows: \['kernel'\]. Received: kernels='bias'"):
        DynamicInput(layers.Dense(2, name="d"), ["bias"])(np.ones((1, 5), "float32"))
    with pytest.raises(TypeError, match="neither a model nor already wrapped"):
        DynamicInput(DynamicInput(layers.Dense(2)))
