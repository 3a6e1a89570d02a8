"""A kernel seen as a matrix gives the layer's outputs, for every layer that is linear in it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from r2keras._models import values, walk
from r2keras.calibration import as_matrix

LAYERS = [
    (lambda: layers.Dense(4), (5,)),
    (lambda: layers.Dense(4), (3, 5)),
    (lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (7, 3)),
    (lambda: layers.Conv2D(4, 3, strides=2, padding="same"), (7, 6, 3)),
    (lambda: layers.Conv2D(6, 3, groups=2), (5, 5, 4)),
    (lambda: layers.Conv3D(2, 2), (4, 4, 4, 2)),
    (lambda: layers.Conv1DTranspose(4, 3, strides=2), (5, 3)),
    (lambda: layers.Conv2DTranspose(4, (3, 2), strides=2, padding="same"), (4, 4, 3)),
    (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (6, 4)),
    (lambda: layers.DepthwiseConv2D((3, 2), depth_multiplier=2, strides=2, padding="same"), (6, 6, 3)),
    (lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, padding="same"), (6, 6, 3)),
    (lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, 4)), (3, 5)),
    (lambda: layers.EinsumDense("...x,xy->...y", output_shape=4), (3, 5)),
    (lambda: layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4)), (3, 5)),
    (lambda: layers.EinsumDense("abde,dec->abc", output_shape=(None, 4)), (3, 2, 5)),
    (lambda: layers.EinsumDense("abh,bhd->abd", output_shape=(3, 4)), (3, 5)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_patches_times_matrix_are_the_outputs(make, shape):
    layer = make()
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    outputs = as_matrix.numpy(layer(x))
    name, variable = walk.kernels(layer)[-1]
    form, kernel = as_matrix.matrix_form(layer, name), values.to_numpy(variable)
    product = np.einsum("ngi,gio->ngo", form.patches(x), form.to_matrix(kernel))
    np.testing.assert_allclose(product.reshape(outputs.shape), outputs, atol=1e-4)
    np.testing.assert_array_equal(form.to_kernel(form.to_matrix(kernel)), kernel)


def test_the_depthwise_part_of_a_separable_layer():
    layer = layers.SeparableConv1D(5, 3, depth_multiplier=2)
    x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype("float32")
    layer(x)
    form, kernel = as_matrix.matrix_form(layer, "depthwise_kernel"), values.to_numpy(layer.depthwise_kernel)
    product = np.einsum("ngi,gio->ngo", form.patches(x), form.to_matrix(kernel))
    twin = layers.DepthwiseConv1D(3, depth_multiplier=2, use_bias=False)
    twin.build(x.shape)
    twin.kernel.assign(kernel)
    np.testing.assert_allclose(product.reshape(2, 5, 6), as_matrix.numpy(twin(x)), atol=1e-5)
    np.testing.assert_array_equal(form.to_kernel(form.to_matrix(kernel)), kernel)


@pytest.mark.parametrize("layer", [layers.LSTM(2), layers.Embedding(3, 2), layers.BatchNormalization(), layers.ReLU()])
def test_other_layers_are_not_linear_in_a_kernel(layer):
    assert not as_matrix.is_linear(layer)


def test_per_output_multiplies_the_outputs():
    for layer, shape in [(make(), shape) for make, shape in LAYERS[:11]]:
        x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
        before = as_matrix.numpy(layer(x))
        factor = np.arange(1, before.shape[-1] + 1, dtype="float32")
        kernel = as_matrix.output_kernel(layer)
        kernel.assign(values.to_numpy(kernel) * as_matrix.per_output(layer, factor))
        np.testing.assert_allclose(as_matrix.numpy(layer(x)), before * factor, atol=1e-4)
        assert as_matrix.output_axis(layer) == -1
        assert isinstance(layer, keras.layers.Layer)
