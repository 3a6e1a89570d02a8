"""A copy of the float model in which kernels are replaced and put back, to measure what each option costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from r2keras._models import rebuild, values
from r2keras._models.walk import ModelView, view_of
from r2keras.automatic.options import Choice, Option, bias_shifts
from r2keras.calibration import as_matrix
from r2keras.calibration.rounding.float_inputs import InputStatistics


def with_biases(view: ModelView) -> ModelView:
    """Returns a copy of a model whose linear layers all have a bias, except EinsumDense."""

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        if not as_matrix.is_linear(layer) or isinstance(layer, keras.layers.EinsumDense):
            return None
        return None if layer.get_config()["use_bias"] else as_matrix.with_bias(layer)

    return view_of(rebuild.rebuild(view, replace, carry=as_matrix.carry_kernels))


class WorkingCopy:
    """A model whose layers take on options, with corrected biases, and become float again.

    Args:
        view: the model of `with_biases`; changed, and put back.
        statistics: the inputs of its kernels.
    """

    def __init__(self, view: ModelView, statistics: Mapping[str, InputStatistics]) -> None:
        self.view = view
        self.statistics = statistics
        self._kernels = {kernel.full_name: kernel.variable for kernel in view.kernels}
        self._floats = {name: values.to_numpy(variable) for name, variable in self._kernels.items()}
        biases = {path: getattr(layer, "bias", None) for path, layer in view.layers}
        self._biases = {path: bias for path, bias in biases.items() if isinstance(bias, keras.Variable)}
        self._float_biases = {path: values.to_numpy(bias) for path, bias in self._biases.items()}

    @property
    def model(self) -> keras.Model:
        """The model."""
        return self.view.model

    def take(self, choice: Choice, option: Option) -> None:
        """Gives a layer the values of an option."""
        for name, tensor in option.tensors.items():
            self._kernels[name].assign(tensor.values())
        shift = bias_shifts(choice, option, self.view, self.statistics)
        if shift is not None:
            self._biases[choice.path].assign(self._float_biases[choice.path] - shift)

    def restore(self, choice: Choice) -> None:
        """Makes a layer float again."""
        for kernel in choice.kernels:
            self._kernels[kernel.full_name].assign(self._floats[kernel.full_name])
        if choice.path in self._biases:
            self._biases[choice.path].assign(self._float_biases[choice.path])

    def take_all(self, choices: Sequence[Choice], picked: Sequence[int]) -> None:
        """Gives every layer one of its options, by their indices."""
        for choice, index in zip(choices, picked, strict=True):
            self.take(choice, choice.options[index])

    def restore_all(self, choices: Sequence[Choice]) -> None:
        """Makes all layers float again."""
        for choice in choices:
            self.restore(choice)

    def local_error(self, option: Option) -> float | None:
        """Returns the mean squared error of a layer's own outputs under an option; None if it is unknown."""
        errors = []
        for name, tensor in option.tensors.items():
            known = self.statistics.get(name)
            if known is None or not known.moments.rows:
                return None
            errors.append(known.output_error(tensor.values()))
        return sum(errors)
