"""Means of layer inputs that batch normalisations tell without data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from r2keras import _model
from r2keras.calibration import graph, linear

# What hands every channel's mean on as it is.
SAME_MEAN = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    layers.Identity,
)


def expected_inputs(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the mean of each input channel of the layers whose inputs come from a batch normalisation.

    A batch normalisation's output is taken as normal, `N(beta, gamma^2)`. Behind a ReLU that ends at `m` (infinity for
    a plain one), with `a = -beta / gamma` and `c = (m - beta) / gamma`:
    `E[x] = beta (Phi(c) - Phi(a)) + gamma (phi(a) - phi(c)) + m (1 - Phi(c))`. Dropout and average pooling in between
    change nothing.

    Args:
        model: a built Functional or Sequential model, its batch normalisations not folded.

    Returns:
        Float64 arrays by layer path, for Dense layers and convolutions that are not transposed.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(), keras.layers.ReLU(),
    ...                           keras.layers.Dense(1, name="head")])
    >>> round(float(expected_inputs(model)["head"][0]), 4)
    0.3989

    Source: Nagel et al., arXiv 1906.04721, appendix C.
    """
    nodes = graph.nodes(model)
    found = {}
    for path, node in nodes.items():
        if linear.is_linear(node.layer) and not isinstance(node.layer, (layers.EinsumDense, *linear.TRANSPOSED)):
            means = _mean_before(nodes, node)
            if means is not None:
                found[path] = means
    return found


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
    """The cumulative distribution of the standard normal."""
    return np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))), otypes=[np.float64])(x)


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)


def _mean_before(nodes: dict[str, graph.Node], node: graph.Node) -> np.ndarray | None:
    """Walks back from a layer to a batch normalisation, and returns the mean of what arrives."""
    low, high = -math.inf, math.inf
    for source in _back(nodes, node):
        limits = _clip_of(source.layer)
        if isinstance(source.layer, layers.BatchNormalization):
            deviation, mean = _deviation_and_mean(source.layer)
            return clipped_mean(mean, deviation, low, high)
        if limits is not None and (low, high) == (-math.inf, math.inf):
            low, high = limits
        elif not isinstance(source.layer, SAME_MEAN) or low == 0:
            return None
    return None


def _back(nodes: dict[str, graph.Node], node: graph.Node) -> Iterator[graph.Node]:
    """Yields the single producers of a layer, from the nearest."""
    while node.producer is not None and node.producer in nodes:
        node = nodes[node.producer]
        yield node


def _deviation_and_mean(norm: layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns gamma and beta, ones and zeros where the layer has none."""
    size = norm.moving_mean.shape
    gamma = _model.to_numpy(norm.gamma) if norm.scale else np.ones(size)
    return gamma, _model.to_numpy(norm.beta) if norm.center else np.zeros(size)


def _clip_of(layer: keras.Layer | None) -> tuple[float, float] | None:
    """Returns the limits between which an activation layer is the identity; None for any other layer."""
    if isinstance(layer, layers.ReLU) and not layer.negative_slope and not layer.threshold:
        return 0.0, math.inf if layer.max_value is None else float(layer.max_value)
    if isinstance(layer, layers.Activation):
        activations = keras.activations
        return {activations.relu: (0.0, math.inf), activations.relu6: (0.0, 6.0)}.get(layer.activation)
    return None
