"""What a quantized recurrent layer computes with: its input and its kernels, quantized once a call."""

from __future__ import annotations

import keras
from keras import ops

from r2keras.layers.compressor import compressor
from r2keras.layers.recurrent_specs import RecurrentSpecs
from r2keras.layers.rounder import Rounder

KERNELS = ("kernel", "recurrent_kernel")


class RecurrentParts(keras.layers.Layer):
    """Holds what compresses the kernels of a recurrent layer, and what rounds its input and its state.

    Args:
        specs: the layer's specs.
        cell: the layer's cell; built.
        bounds: the range that the state never leaves, or None without `specs.state`.
    """

    def __init__(self, specs: RecurrentSpecs, cell: keras.Layer, bounds: tuple[float, float] | None, **kwargs):
        # Latent weights are read in their own precision, whatever the layer computes in.
        super().__init__(autocast=False, dtype=cell.variable_dtype, **kwargs)
        self.compressors: dict[str, keras.Layer] = {}
        for name, spec in zip(KERNELS, (specs.kernel, specs.recurrent), strict=True):
            made = spec and compressor(spec, cell, getattr(cell, name), name=name)
            if made is not None:
                self.compressors[name] = made
        self.initialize(cell, search=False)
        self.inputs = specs.inputs and Rounder(specs.inputs, name="inputs")
        self.state = specs.state and Rounder(specs.state, bounds, name="state")
        self.supports_masking = True
        self.built = True

    def initialize(self, cell: keras.Layer, *, search: bool = True) -> None:
        """Sets the range, or the codebook, of every kernel from the cell's present weights."""
        for name, part in self.compressors.items():
            part.initialize(getattr(cell, name), search=search)

    def call(self, sequences, cell=None, training=None):
        """Returns the input, the kernel and the recurrent kernel to compute with."""
        if self.inputs is not None:
            sequences = self.inputs(sequences, training=training)
        learns = training and cell.trainable
        return sequences, *(self._kernel(name, getattr(cell, name), learns) for name in KERNELS)

    def _kernel(self, name: str, variable: keras.Variable, learns):
        if name not in self.compressors:
            return ops.convert_to_tensor(variable)
        return self.compressors[name](variable.value, training=learns and variable.trainable)
