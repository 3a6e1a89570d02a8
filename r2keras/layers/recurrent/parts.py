"""Quantization of a recurrent layer's input and kernels, once per call, outside the time loop."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from r2keras.layers.kernels.compressor import compressor
from r2keras.layers.recurrent.rounder import Rounder
from r2keras.layers.recurrent.specs import RecurrentSpecs

CELL_KERNELS = ("kernel", "recurrent_kernel")


class RecurrentParts(keras.layers.Layer):
    """Holds the layers that compress the kernels of a recurrent layer and round its input and its state.

    Args:
        specs: the layer's specs.
        cell: the layer's cell, built.
        bounds: the range that the state never leaves; None without `specs.state`.
    """

    def __init__(
        self, specs: RecurrentSpecs, cell: keras.Layer, bounds: tuple[float, float] | None, **kwargs: Any
    ) -> None:
        # Latent weights are read in their own precision, whatever precision the layer computes in.
        super().__init__(autocast=False, dtype=cell.variable_dtype, **kwargs)
        self.compressors: dict[str, keras.Layer] = {}
        for name, spec in zip(CELL_KERNELS, (specs.kernel, specs.recurrent), strict=True):
            if spec is None:
                continue
            kernel_compressor = compressor(spec, cell, getattr(cell, name), name=name)
            if kernel_compressor is not None:
                self.compressors[name] = kernel_compressor
        self.initialize(cell, search=False)
        self.inputs = None if specs.inputs is None else Rounder(specs.inputs, name="inputs")
        self.state = None if specs.state is None else Rounder(specs.state, bounds, name="state")
        self.supports_masking = True
        self.built = True

    def initialize(self, cell: keras.Layer, *, search: bool = True) -> None:
        """Sets the range, or the codebook, of every kernel from the cell's current weights."""
        for name, kernel_compressor in self.compressors.items():
            kernel_compressor.initialize(getattr(cell, name), search=search)

    def call(self, sequences, cell: keras.Layer, training: bool | None = None):
        """Returns the quantized input, kernel and recurrent kernel."""
        if self.inputs is not None:
            sequences = self.inputs(sequences, training=training)
        cell_trains = training and cell.trainable
        return sequences, *(self._kernel(name, getattr(cell, name), cell_trains) for name in CELL_KERNELS)

    def _kernel(self, name: str, variable: keras.Variable, cell_trains: bool | None):
        if name not in self.compressors:
            return ops.convert_to_tensor(variable)
        return self.compressors[name](variable.value, training=cell_trains and variable.trainable)
