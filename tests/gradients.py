"""Gradients on whichever backend runs, and finite differences to compare them with."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np


def gradients(function: Callable, *arrays: np.ndarray) -> list[np.ndarray]:
    """Returns the gradient of a scalar function with respect to each of its array arguments.

    Args:
        function: takes one tensor for each array, returns a scalar tensor.
        *arrays: the points, in the type the function shall see.
    """
    backend = keras.backend.backend()
    compute = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[backend]
    return [np.asarray(gradient) for gradient in compute(function, arrays)]


def finite_differences(function: Callable, *arrays: np.ndarray, step: float = 1e-5) -> list[np.ndarray]:
    """Returns central differences of a NumPy function, in float64."""
    points = [np.asarray(array, np.float64) for array in arrays]
    return [_difference(function, points, place, step) for place in range(len(points))]


def _difference(function: Callable, points: list[np.ndarray], place: int, step: float) -> np.ndarray:
    """Returns the differences with respect to one of the arrays."""
    result = np.zeros(points[place].shape)
    for index in np.ndindex(result.shape):
        moved = [points[place].copy(), points[place].copy()]
        moved[0][index] += step
        moved[1][index] -= step
        values = [function(*points[:place], array, *points[place + 1 :]) for array in moved]
        result[index] = (values[0] - values[1]) / (2 * step)
    return result


def _tensorflow(function: Callable, arrays: tuple) -> list:
    """Takes the gradients with a tape."""
    import tensorflow as tf

    points = [tf.convert_to_tensor(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(points)
        value = function(*points)
    return tape.gradient(value, points, unconnected_gradients="zero")


def _jax(function: Callable, arrays: tuple) -> list:
    """Takes the gradients with jax.grad."""
    import jax

    points = [jax.numpy.asarray(array) for array in arrays]
    return list(jax.grad(function, argnums=tuple(range(len(points))))(*points))


def _torch(function: Callable, arrays: tuple) -> list:
    """Takes the gradients with autograd."""
    import torch

    points = [torch.tensor(array, requires_grad=True) for array in arrays]
    found = torch.autograd.grad(function(*points), points, allow_unused=True)
    pairs = zip(found, points, strict=True)
    return [(torch.zeros_like(point) if grad is None else grad).numpy() for grad, point in pairs]
