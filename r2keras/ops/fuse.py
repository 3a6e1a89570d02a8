"""One pass over memory for a chain of elementwise operations, on backends that do not fuse by themselves."""

from __future__ import annotations

from collections.abc import Callable

import keras


def fused(function: Callable) -> Callable:
    """Returns a function of tensors that is compiled to one pass where TensorFlow builds a graph.

    There each operation would write a whole tensor and the next one read it again. JAX fuses what it compiles; eager
    calls and PyTorch run the operations one by one, which gives the same values up to the rounding of the last digit.

    Args:
        function: takes tensors and returns tensors; reads and writes no variable, has no gradient of its own.

    Returns:
        A function of the same tensors. Make it once: each one is compiled for each shape that it meets.

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
