"""Batch-norm folding: batch normalizations merged into the layers before them."""

from __future__ import annotations

import keras
import numpy as np

from r2keras._models import neighbors, rebuild
from r2keras._models.values import affine_of, check_finite, to_numpy
from r2keras._models.walk import ModelView, full_name, view_of
from r2keras.calibration import as_matrix


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with batch normalizations folded into the layers before them.

    A Dense layer or a convolution (also depthwise, separable or transposed) without an activation, whose only consumer
    is a batch normalization over its output channels, computes `gamma (W x + b - mean) / sqrt(var + eps) + beta`. With
    `f = gamma / sqrt(var + eps)` this is one layer with the kernel `f W` and the bias `f (b - mean) + beta`, which
    replaces the two. The outputs in inference are equal up to float rounding.

    Args:
        model: a built Functional or Sequential model, possibly nested; left untouched.

    Returns:
        A model of the same class without those batch normalizations. All other layers, and batch normalizations after
        any other layer, stay.

    Raises:
        TypeError: `model` is subclassed.
        ValueError: the model is not built, or a weight of a folded layer is not finite.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((3,)), keras.layers.Dense(2, name="head"), keras.layers.BatchNormalization()])
    >>> [layer.name for layer in fold_batch_norm(model).layers]
    ['head']

    Source: Jacob et al., arXiv 1712.05877, section 3.2.
    """
    return folded(view_of(model)).model


def folded(view: ModelView) -> ModelView:
    """Returns the result of `fold_batch_norm` for a view, as a view."""
    norms = _norms(view)

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        return as_matrix.with_bias(layer) if path in norms else None

    copy = view_of(rebuild.rebuild(view, replace, drop=set(norms.values()), carry=as_matrix.carry_kernels))
    for path, norm in norms.items():
        _fold(path, copy.layers_by_path[path], view.layers_by_path[norm])
    return copy


def _norms(view: ModelView) -> dict[str, str]:
    """Returns the path of the batch normalization to fold by the path of the layer before it."""
    nodes = neighbors.nodes(view)
    norms: dict[str, str] = {}
    for path, node in nodes.items():
        follower = nodes.get(node.consumer or "")
        if path in view.tied_sources:
            continue
        if follower is not None and follower.producer == path and _folds(node.layer, follower.layer):
            norms[path] = follower.path
    return norms


def _folds(layer: keras.Layer | None, norm: keras.Layer | None) -> bool:
    """Whether a batch normalization after a layer scales and shifts the layer's output channels."""
    if not isinstance(norm, keras.layers.BatchNormalization) or not as_matrix.is_linear(layer):
        return False
    if isinstance(layer, keras.layers.EinsumDense) or layer.activation is not keras.activations.linear:
        return False
    rank = len(layer.output.shape)
    return norm.axis % rank == as_matrix.output_axis(layer) % rank


def _fold(path: str, layer: keras.Layer, norm: keras.layers.BatchNormalization) -> None:
    """Scales a layer's kernel and bias by the normalization's factors, and adds its offsets to the bias."""
    factor, offset = affine_of(norm)
    kernel = as_matrix.output_kernel(layer)
    values = to_numpy(kernel) * as_matrix.per_output(layer, factor)
    bias = to_numpy(layer.bias) * factor + offset
    for name, array in (("kernel", values), ("bias", bias)):
        check_finite(full_name(path, name), array)
    kernel.assign(values.astype(np.float32))
    layer.bias.assign(bias.astype(np.float32))
