"""Wrapper for training any layer under palettes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from r2keras._models import values, walk
from r2keras.layers.kernels.compressor import compressor, too_small
from r2keras.layers.kernels.palette import Palette
from r2keras.layers.wrappers.by_spec import SpecifiedWeights
from r2keras.record import PalettizedTensor
from r2keras.specs import PaletteSpec


@keras.saving.register_keras_serializable(package="r2keras")
class Palettize(SpecifiedWeights):
    """Runs a layer with palettized kernels: soft in training, hard in inference, trained with the model.

    Forward in training: each vector `w_i` of `dim` weights becomes `sum_j A_ij c_j`,
    `A_ij = softmax_j(-|w_i - c_j|^2 / tau)`, after a few updates `c_j <- sum_i A_ij w_i / sum_i A_ij`; in inference it
    becomes the nearest `c_j`, as in the file. Gradient: through the weight and through the centroids
    (`r2keras.ops.dkm`). Recurrent kernels are palettized once per call, outside the time loop. The layer's regularizers
    see the latent kernels.

    Args:
        layer: any layer: Dense, convolutions, Embedding, EinsumDense, MultiHeadAttention, LSTM, Bidirectional...
        specs: one `PaletteSpec` for every kernel of the layer, or a mapping from the kernel's name relative to the
            layer (`"kernel"`, `"lstm_cell/recurrent_kernel"`) to its spec. Kernels that are not in the mapping stay
            float, as do kernels smaller than their spec's `min_size`.
        name: the wrapper's name; None uses the layer's.

    Raises:
        TypeError: `layer` is a model or already wrapped; a spec is not a `PaletteSpec`.
        ValueError: a name in `specs` is not a kernel of the layer; the palette's vectors or groups do not fit a kernel;
            the layer writes to its own kernel in `call`.

    Example:

    >>> layer = Palettize(keras.layers.Dense(2, kernel_initializer="ones"), PaletteSpec(num_bits=2, min_size=0))
    >>> keras.ops.convert_to_numpy(layer(keras.ops.ones((1, 3)))).tolist()
    [[3.0, 3.0]]
    >>> [tensor.indices.shape for _, tensor in layer.quantized_tensors("head")]
    [(3, 2)]

    Source: Cho et al., DKM, arXiv 2108.12659, section 3.
    """

    spec_type = PaletteSpec
    unknown_fix = "Biases, norms and statistics stay float: a palette is for kernels"

    def __init__(
        self, layer: keras.Layer, specs: PaletteSpec | dict[str, PaletteSpec], *, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(layer, specs, name=name, **kwargs)
        self.palettes: dict[str, Palette] = {}
        self._finish_build()

    def build_substitutes(self, *, trained: bool) -> None:
        """Creates one palette per kernel that is large enough, and sets its codebook from the weight."""
        kernels = self._kernels()
        for name in self._names(kernels):
            palette = compressor(self._spec(name), self.layer, kernels[name], name=name.replace("/", "_"))
            if palette is not None:
                if not self.starts_later:
                    palette.initialize(kernels[name].value, search=trained)
                self.palettes[name] = palette

    def substitutes(self, training: bool | None) -> list[tuple[keras.Variable, Any]]:
        """Returns the palettized kernels; a frozen kernel has hard values and its codebook does not change."""
        kernels = self._kernels()
        layer_trains = training and self.layer.trainable
        pairs = []
        for name, palette in self.palettes.items():
            variable = kernels[name]
            pairs.append((variable, palette(variable.value, training=layer_trains and variable.trainable)))
        return pairs

    def initialize(self, importance: dict[str, np.ndarray] | None = None) -> None:
        """Sets every codebook again from the layer's current weights.

        Args:
            importance: weight of each squared error, by the kernels' names; None weights all errors equally.

        Raises:
            ValueError: the type of the table cannot hold a kernel's values.
        """
        kernels = self._kernels()
        for name, palette in self.palettes.items():
            palette.initialize(kernels[name].value, importance=(importance or {}).get(name))
            palette.check_table(kernels[name].path)

    def quantized_tensors(self, path: str) -> list[tuple[str, PalettizedTensor]]:
        """Returns the current indices and table of every palettized kernel.

        Args:
            path: the layer's path in its model, the prefix of the tensors' names.

        Returns:
            Pairs `(name relative to the layer, PalettizedTensor)`.

        Raises:
            ValueError: a kernel has NaN or infinite values, or values that the type of its table cannot hold.
        """
        kernels = self._kernels()
        return [
            (name, self._tensor(walk.full_name(path, name), kernels[name], palette))
            for name, palette in self.palettes.items()
        ]

    def gaps(self) -> dict[str, tuple[float, float]]:
        """Returns, for each kernel, the distances of soft values and of weights from the hard values.

        Returns:
            `(|soft - hard| / |weight|, |weight - hard| / |weight|)` by the kernel's name relative to the layer.

        Example:

        >>> layer = Palettize(keras.layers.Dense(2, kernel_initializer="ones"), PaletteSpec(num_bits=1, min_size=0))
        >>> layer.build((None, 3))
        >>> layer.gaps()
        {'kernel': (0.0, 0.0)}
        """
        kernels = self._kernels()
        return {name: palette.gap(kernels[name].value) for name, palette in self.palettes.items()}

    def notes(self, tensors: list[tuple[str, PalettizedTensor]]) -> dict[str, str]:
        """Returns a remark on each kernel: its gaps, and the number of unused entries if there are any."""
        gaps = self.gaps()
        return {name: remark(gaps[name], tensor) for name, tensor in tensors}

    def kept_float(self) -> dict[str, str]:
        """Returns the reasons why kernels with a spec stay float, by their names."""
        kernels = self._kernels()
        without_palette = [name for name in self._names(kernels) if name not in self.palettes]
        return {name: too_small(self._spec(name), kernels[name].shape) for name in without_palette}

    def _tensor(self, path: str, variable: keras.Variable, palette: Palette) -> PalettizedTensor:
        finite = values.finite(path, variable)
        palette.check_table(path)
        return palette.tensor(path, variable.value, finite)


def remark(gap: tuple[float, float], tensor: PalettizedTensor) -> str:
    """Returns the remark on one kernel for the record."""
    text = f"soft and hard palette differ by {gap[0]:.1%} of the weight's norm, weight and hard palette by {gap[1]:.1%}"
    if tensor.used < tensor.spec.entries:
        text += f"; {tensor.used} of {tensor.spec.entries} centroids are used"
    return text
