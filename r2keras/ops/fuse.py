"""Fusion of a chain of elementwise operations into one pass over memory, on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

import keras


def fused(function: Callable) -> Callable:
    """Returns a function of tensors that XLA compiles to one pass over memory when TensorFlow builds a graph.

    Without it, each operation in the graph would write a whole tensor that the next one reads. JAX fuses anyway. Eager
    calls and PyTorch run the operations one by one, with the same values up to rounding in the last digit.

    Args:
        function: takes tensors and returns tensors; it reads and writes no variables and defines no gradient.

    Returns:
        A function of the same tensors. Create it once and reuse it: each one is compiled for every new shape.

    Example:

    >>> double = fused(lambda x: 2.0 * x)
    >>> float(double(keras.ops.convert_to_tensor(1.5)))
    3.0
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    compiled = tf.function(function, autograph=False, jit_compile=True, reduce_retracing=True)
    return lambda *tensors: (function if tf.executing_eagerly() else compiled)(*tensors)
