"""Grids of 8-bit activations: reading and writing them, and measuring them on data where the record has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2keras.export.tflite.schema import INT8, quantization
from r2keras.export.tflite.subgraph import Subgraph, inputs_of

if TYPE_CHECKING:
    from r2keras.export.tflite.schema import ModelT, TensorT

# Inputs without labels: one array, one for each input in order, or one by input name.
Data = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]

LOWEST, HIGHEST = -128, 127


@dataclasses.dataclass(frozen=True)
class ActivationGrid:
    """An 8-bit grid, `x = scale * (code - zero_point)`.

    Args:
        scale: positive.
        zero_point: the code of zero, in `[-128, 127]`.

    Example:

    >>> ActivationGrid(0.5, -128).low, ActivationGrid(0.5, -128).high
    (0.0, 127.5)
    """

    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        """The lowest value."""
        return self.scale * (LOWEST - self.zero_point)

    @property
    def high(self) -> float:
        """The highest value."""
        return self.scale * (HIGHEST - self.zero_point)

    @classmethod
    def over(cls, low: float, high: float) -> ActivationGrid:
        """Returns the finest grid that spans a range and zero.

        >>> ActivationGrid.over(1.0, 127.5)
        ActivationGrid(scale=0.5, zero_point=-128)
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (HIGHEST - LOWEST) or 1.0
        return cls(scale, int(np.clip(np.rint(LOWEST - low / scale), LOWEST, HIGHEST)))


def grid_of(tensor: TensorT) -> ActivationGrid:
    """Returns the grid of an int8 tensor."""
    return ActivationGrid(float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0]))


def set_grid(tensor: TensorT, grid: ActivationGrid) -> None:
    """Sets the grid of a tensor."""
    tensor.quantization = quantization(grid.scale, grid.zero_point)


def output_steps(file: ModelT) -> list[float | None]:
    """Returns the step size of each output of a file, or of the integers that it is dequantized from; None if float."""
    graph = Subgraph(file)
    return [_output_step(graph, output) for output in graph.outputs]


def _output_step(graph: Subgraph, output: int) -> float | None:
    """Returns the step size of one output."""
    source, producer = output, graph.producer(output)
    if graph.tensor(output).type != INT8 and producer is not None and len(inputs_of(producer)) == 1:
        source = inputs_of(producer)[0]
    tensor = graph.tensor(source)
    is_integer = tensor.type == INT8 and tensor.quantization is not None and not graph.is_constant(source)
    return grid_of(tensor).scale if is_integer else None
