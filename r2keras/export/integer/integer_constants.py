"""The 8-bit form of float constants: scalars, and slopes."""

from __future__ import annotations

import numpy as np

from r2keras.export.integer.kernel import NotIntegerError
from r2keras.export.tflite.activation_grid import HIGHEST, LOWEST, ActivationGrid, set_grid
from r2keras.export.tflite.schema import FLOAT32, INT8, quantization, values_of
from r2keras.export.tflite.subgraph import Subgraph

FLOAT_CONSTANT = "it computes with a float constant"
LARGEST = 127


def integer_constant(graph: Subgraph, tensor: int, values_allowed: str) -> int:
    """Adds the 8-bit form of a float constant, `scale * code` with codes up to 127; returns the tensor.

    Args:
        graph: the first subgraph.
        tensor: the constant.
        values_allowed: `"one"`, all values are equal and exact in 8 bits, or `"any"`.

    Raises:
        NotIntegerError: the constant has other values.
    """
    if graph.tensor(tensor).type != FLOAT32 or values_allowed == "none":
        raise NotIntegerError(FLOAT_CONSTANT)
    values = values_of(graph.file, graph.tensor(tensor))
    if not np.isfinite(values).all() or (values_allowed == "one" and np.ptp(values)):
        raise NotIntegerError(FLOAT_CONSTANT)
    # Zeros, such as the slopes with which PReLU starts, get a scale in the range of others.
    scale = np.float32((np.abs(values).max(initial=0) or 1) / LARGEST)
    codes = np.rint(values / scale).clip(-LARGEST, LARGEST).astype(np.int8)
    added = graph.add_tensor(codes.shape, INT8, codes)
    graph.tensor(added).quantization = quantization(scale)
    return added


def constant_on(graph: Subgraph, tensor: int, grid: ActivationGrid) -> int:
    """Adds a float constant rounded to a grid, as a bound of values that are rounded to it; returns the tensor."""
    values = values_of(graph.file, graph.tensor(tensor))
    codes = np.rint(values / grid.scale + grid.zero_point).clip(LOWEST, HIGHEST).astype(np.int8)
    added = graph.add_tensor(codes.shape, INT8, codes)
    set_grid(graph.tensor(added), grid)
    return added
