"""Wrapper for quantization-aware training of any layer."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
from keras import ops

from r2keras._models import values, walk
from r2keras._models.row_products import rounded_rows
from r2keras.layers.kernels.compressor import compressor
from r2keras.layers.wrappers.by_spec import SpecifiedWeights
from r2keras.quantizers.base import WeightQuantizer
from r2keras.record import Tensor
from r2keras.specs import QuantSpec
from r2keras.specs.dynamic import is_dynamic


@keras.saving.register_keras_serializable(package="r2keras")
class FakeQuantize(SpecifiedWeights):
    """Runs a layer with fake-quantized kernels, so that training sees the values that the file will contain.

    Forward: `layer(inputs)` with `w_q = scale * (code - zero_point)` in place of each kernel `w`. Gradient: that of the
    spec's method (`r2keras.quantizers`): with `"ste"`, `dL/dw = dL/dw_q` inside the clip range, 0 outside. Recurrent
    kernels are quantized once per call, outside the time loop. The layer's regularizers see the latent float kernels.

    Under `activation_method="dynamic"`, the rows that a kernel multiplies are rounded, as in `layers.DynamicInput`,
    with a gradient of 1 through the rounding.

    Args:
        layer: any layer: Dense, convolutions, Embedding, EinsumDense, MultiHeadAttention, LSTM, Bidirectional...
        specs: one `QuantSpec` for every kernel of the layer, or a mapping from the kernel's name relative to the layer
            (`"kernel"`, `"lstm_cell/recurrent_kernel"`) to its spec; kernels that are not in the mapping stay float.
        name: the wrapper's name; None uses the layer's.

    Raises:
        TypeError: `layer` is a model or already wrapped; a spec is not a `QuantSpec`.
        ValueError: a name in `specs` is not a kernel of the layer; the layer writes to its own kernel in `call`.

    Example:

    >>> layer = FakeQuantize(keras.layers.Dense(2, kernel_initializer="ones"), QuantSpec(num_bits=4))
    >>> ops.convert_to_numpy(layer(ops.ones((1, 3)))).tolist()
    [[3.0, 3.0]]
    >>> [name for name, _ in layer.quantized_tensors("head")]
    ['kernel']

    Source: Jacob et al., arXiv 1712.05877, section 3.
    """

    spec_type = QuantSpec

    def __init__(
        self, layer: keras.Layer, specs: QuantSpec | dict[str, QuantSpec], *, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(layer, specs, name=name, **kwargs)
        self.quantizers: dict[str, WeightQuantizer] = {}
        # Tensors added to quantized kernels, by name. The curvature estimate differentiates the loss by them.
        self.offsets: dict[str, object] = {}
        self._finish_build()

    def build_substitutes(self, *, trained: bool) -> None:
        """Creates one quantizer per kernel and sets its range from the weight."""
        kernels = self._kernels()
        for name in self._names(kernels):
            quantizer = compressor(self._spec(name), self.layer, kernels[name], name=name.replace("/", "_"))
            if not self.starts_later:
                quantizer.initialize(kernels[name], search=trained)
            self.quantizers[name] = quantizer

    def substitutes(self, training: bool | None) -> list[tuple[keras.Variable, Any]]:
        """Returns the fake-quantized kernels; the range of a frozen kernel does not change."""
        kernels = self._kernels()
        layer_trains = training and self.layer.trainable
        pairs = []
        for name, quantizer in self.quantizers.items():
            variable = kernels[name]
            value = quantizer(variable.value, training=layer_trains and variable.trainable)
            if name in self.offsets:
                value = value + ops.cast(self.offsets[name], value.dtype)
            pairs.append((variable, value))
        return pairs

    def call(self, inputs, *args: Any, training: bool | None = None, **kwargs: Any):
        """Runs the layer with quantized kernels, on rounded rows if its specs say so."""
        dynamic = [name for name in self.quantizers if is_dynamic(self._spec(name))]
        with rounded_rows(self.layer, dynamic) if dynamic else contextlib.nullcontext():
            return super().call(inputs, *args, training=training, **kwargs)

    def initialize(self) -> None:
        """Sets every range again from the layer's current weights."""
        kernels = self._kernels()
        for name, quantizer in self.quantizers.items():
            quantizer.initialize(kernels[name])

    def quantized_tensors(self, path: str) -> list[tuple[str, Tensor]]:
        """Returns the current codes and scales of every quantized kernel.

        Args:
            path: the layer's path in its model, the prefix of the tensors' names.

        Returns:
            Pairs `(name relative to the layer, QuantizedTensor or PalettizedTensor)`.

        Raises:
            ValueError: a kernel has NaN or infinite values.
        """
        kernels = self._kernels()
        return [
            (name, self._tensor(walk.full_name(path, name), kernels[name], quantizer))
            for name, quantizer in self.quantizers.items()
        ]

    def _tensor(self, path: str, variable: keras.Variable, quantizer: WeightQuantizer) -> Tensor:
        return quantizer.tensor(path, variable.value, values.finite(path, variable))
