"""Gradients of functions of tensors on every backend, which Keras itself computes in `fit` only."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops, tree


def gradient_function(function: Callable) -> Callable:
    """Returns a function that computes the gradients of a scalar function, compiled if the backend compiles.

    Args:
        function: `(points, *fixed) -> scalar tensor`, where `points` is a list of tensors. It is traced once: pass
            everything that changes between calls in `fixed`.

    Returns:
        A function of `points`, a list of float arrays, and `fixed`, structures of arrays or tensors. It returns one
        array per point; zeros where the function does not depend on it.

    Raises:
        RuntimeError: a backend other than TensorFlow, JAX and PyTorch.

    Example:

    >>> slopes = gradient_function(lambda points, factor: keras.ops.sum(factor * points[0] ** 2))
    >>> slopes([np.array([1.0, 3.0], "float32")], 2.0)[0].tolist()
    [4.0, 12.0]
    """
    name = keras.backend.backend()
    if name not in _BACKENDS:
        raise RuntimeError(
            f"Gradients need another Keras backend. Expected one of {', '.join(_BACKENDS)}. Received: {name!r}. "
            "Set KERAS_BACKEND before Keras is imported."
        )
    compute = _BACKENDS[name](function)
    return lambda *arguments: [_to_numpy(grad) for grad in compute(*tree.map_structure(_to_tensor, list(arguments)))]


def _to_tensor(value):
    return ops.convert_to_tensor(value)


def _to_numpy(value) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(value))


def _tensorflow(function: Callable) -> Callable:
    """Computes gradients with a tape, in a graph."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def compute(points: list, *fixed):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            value = function(points, *fixed)
        return tape.gradient(value, points, unconnected_gradients="zero")

    return compute


def _jax(function: Callable) -> Callable:
    """Computes gradients with `jax.grad`."""
    import jax

    return jax.jit(jax.grad(function))


def _torch(function: Callable) -> Callable:
    """Computes gradients with autograd."""
    import torch

    def compute(points: list, *fixed):
        points = [point.detach().clone().requires_grad_() for point in points]
        with torch.enable_grad():
            value = function(points, *fixed)
            if not value.requires_grad:
                return [torch.zeros_like(point) for point in points]
            grads = torch.autograd.grad(value, points, allow_unused=True)
        return [torch.zeros_like(p) if grad is None else grad for grad, p in zip(grads, points, strict=True)]

    return compute


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
