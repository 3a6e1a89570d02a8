"""Means of layer inputs from the statistics of batch normalizations, without data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from r2keras._models import neighbors, values
from r2keras._models.walk import ModelView, view_of
from r2keras.calibration import as_matrix

# Layers that keep the mean of every channel.
SAME_MEAN = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    layers.Identity,
)


def expected_inputs(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the mean of each input channel of the layers whose inputs come from a batch normalization.

    The output of a batch normalization is assumed to be normal, `N(beta, gamma^2)`. After a ReLU that is clipped at `m`
    (infinity for a plain ReLU), with `a = -beta / gamma` and `c = (m - beta) / gamma`, the mean is
    `E[x] = beta (Phi(c) - Phi(a)) + gamma (phi(a) - phi(c)) + m (1 - Phi(c))`. Dropout and average pooling in between
    keep the mean.

    Args:
        model: a built Functional or Sequential model whose batch normalizations are not folded.

    Returns:
        Float64 arrays by layer path, for Dense layers and convolutions that are not transposed.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(), keras.layers.ReLU(),
    ...                           keras.layers.Dense(1, name="head")])
    >>> round(float(expected_inputs(model)["head"][0]), 4)
    0.3989

    Source: Nagel et al., arXiv 1906.04721, appendix C.
    """
    return expected_inputs_of(view_of(model))


def expected_inputs_of(view: ModelView) -> dict[str, np.ndarray]:
    """Returns the result of `expected_inputs` for a view."""
    nodes = neighbors.nodes(view)
    means_by_path: dict[str, np.ndarray] = {}
    for path, node in nodes.items():
        if as_matrix.is_linear(node.layer) and not isinstance(node.layer, (layers.EinsumDense, *as_matrix.TRANSPOSED)):
            means = _mean_before(nodes, node)
            if means is not None:
                means_by_path[path] = means
    return means_by_path


def clipped_mean(mean: np.ndarray, deviation: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns `E[clip(z, low, high)]` for `z ~ N(mean, deviation^2)`; the limits may be infinite.

    Example:

    >>> float(clipped_mean(np.zeros(1), np.zeros(1), 0.0, 6.0)[0])
    0.0
    """
    mean, deviation = np.broadcast_arrays(np.asarray(mean, np.float64), np.abs(deviation))
    spread = np.where(deviation > 0, deviation, 1.0)
    a, c = (low - mean) / spread, (high - mean) / spread
    inside = mean * (_normal(c) - _normal(a)) + spread * (_density(a) - _density(c))
    ends = sum(limit * share for limit, share in ((low, _normal(a)), (high, 1 - _normal(c))) if math.isfinite(limit))
    return np.where(deviation > 0, inside + ends, np.clip(mean, low, high))


def _normal(x: np.ndarray) -> np.ndarray:
    """Returns the cumulative distribution function of the standard normal distribution."""
    return np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))), otypes=[np.float64])(x)


def _density(x: np.ndarray) -> np.ndarray:
    """Returns the density of the standard normal distribution."""
    return np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)


def _mean_before(nodes: dict[str, neighbors.Node], node: neighbors.Node) -> np.ndarray | None:
    """Returns the mean of a layer's inputs if they come from a batch normalization, else None."""
    low, high = -math.inf, math.inf
    for source in _producers(nodes, node):
        limits = _clip_limits(source.layer)
        if isinstance(source.layer, layers.BatchNormalization):
            deviation, mean = _deviation_and_mean(source.layer)
            return clipped_mean(mean, deviation, low, high)
        if limits is not None and (low, high) == (-math.inf, math.inf):
            low, high = limits
        elif not isinstance(source.layer, SAME_MEAN) or low == 0:
            return None
    return None


def _producers(nodes: dict[str, neighbors.Node], node: neighbors.Node) -> Iterator[neighbors.Node]:
    """Yields the chain of single producers that leads to a layer, starting with the nearest."""
    while node.producer is not None and node.producer in nodes:
        node = nodes[node.producer]
        yield node


def _deviation_and_mean(norm: layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns gamma and beta; ones and zeros if the layer has none."""
    size = norm.moving_mean.shape
    gamma = values.to_numpy(norm.gamma) if norm.scale else np.ones(size)
    beta = values.to_numpy(norm.beta) if norm.center else np.zeros(size)
    return gamma, beta


def _clip_limits(layer: keras.Layer | None) -> tuple[float, float] | None:
    """Returns the limits between which an activation layer is the identity; None for any other layer."""
    if isinstance(layer, layers.ReLU) and not layer.negative_slope and not layer.threshold:
        return 0.0, math.inf if layer.max_value is None else float(layer.max_value)
    if isinstance(layer, layers.Activation):
        activations = keras.activations
        return {activations.relu: (0.0, math.inf), activations.relu6: (0.0, 6.0)}.get(layer.activation)
    return None
