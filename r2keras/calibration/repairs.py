"""Repairs of a quantized model that `calibrate` chooses by the error of the outputs on the data."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from r2keras._models import layer_by_layer, values
from r2keras._models.walk import ModelView
from r2keras.calibration import batch_norm as norms
from r2keras.calibration.bias import corrected, corrected_ends
from r2keras.calibration.data_checks import Batch

# Up to this number of batches, compiling a model takes longer than it saves.
EAGER_BATCHES = 4


class Reference:
    """The float model's outputs on the data, with which those of quantized models are compared.

    Args:
        view: the float model.
        data: checked batches.
        measured: the statistics of the model's batch-norm layers on the data; None measures them when needed.
    """

    def __init__(self, view: ModelView, data: list[Batch], measured: norms.Statistics | None = None):
        self.view = view
        self.data = data
        self._measured = measured
        self._outputs: list[np.ndarray] | None = None

    def error(self, small: ModelView) -> float:
        """Returns the squared error of a quantized model's outputs, summed over the data."""
        if self._outputs is None:
            self._outputs = outputs_on(self.view.model, self.data)
        pairs = zip(self._outputs, outputs_on(small.model, self.data), strict=True)
        return sum(float(np.square(expected - output, dtype=np.float64).sum()) for expected, output in pairs)

    def reestimate(self, small: ModelView, mode: str) -> None:
        """Sets the batch-norm statistics of the quantized model by the mode `"replace"`, `"shift"` or `"auto"`."""
        replaced = norms.measure(small, self.data)
        candidates = {"replace": replaced}
        if mode != "replace":
            before = norms.measure(self.view, self.data) if self._measured is None else self._measured
            candidates["shift"] = norms.shifted(small, before, replaced)
        if mode == "auto":
            candidates["keep"] = norms.statistics(small)
            mode = self._nearest(small, candidates)
        norms.set_statistics(small, candidates[mode])

    def _nearest(self, small: ModelView, candidates: Mapping[str, norms.Statistics]) -> str:
        """Returns the name of the statistics with which the outputs are closest to the float model's."""
        errors: dict[str, float] = {}
        for name, statistics in candidates.items():
            norms.set_statistics(small, statistics)
            errors[name] = self.error(small)
        return min(errors, key=errors.__getitem__)


def repaired(
    reference: Reference, small: ModelView, batch_norm: str, *, biases: bool, all_biases: bool
) -> tuple[ModelView, str]:
    """Returns the repaired model whose outputs are closest to the float model's, and the name of the repair.

    Batch norm is re-estimated; then the biases of the layers that no batch normalization follows are corrected, or not.
    (Corrected before, those biases would fit the old statistics: at 2 bits that costs DS-CNN 26 points.)

    Args:
        reference: the float model on the data.
        small: the quantized model; its statistics are changed in place.
        batch_norm: see `calibrate`.
        biases: whether the correction of biases is a candidate.
        all_biases: whether the correction of all biases in place of both is one too.
    """
    candidates: dict[str, ModelView] = {}
    if biases and all_biases and norms.batch_norms(small):
        candidates["correct_bias"] = corrected(reference.view, small, reference.data, None)
    name = "none"
    if norms.batch_norms(small) and batch_norm != "keep":
        reference.reestimate(small, batch_norm)
        name = "reestimate_batch_norm"
    candidates[name] = small
    ends = corrected_ends(reference.view, small, reference.data) if biases else None
    if ends is not None:
        kind = "correct_bias of layers without batch norm" if norms.batch_norms(small) else "correct_bias"
        candidates[kind if name == "none" else f"{name}, then {kind}"] = ends
    if len(candidates) == 1:
        return small, name
    errors = {key: reference.error(candidate) for key, candidate in candidates.items()}
    best = min(errors, key=errors.__getitem__)
    return candidates[best], best


def outputs_on(model: keras.Model, data: list[Batch]) -> list[np.ndarray]:
    """Returns all outputs of a model on all batches in one list."""
    arrays: list[np.ndarray] = []
    for batch in data:
        if len(data) <= EAGER_BATCHES:
            outputs = keras.tree.map_structure(keras.ops.convert_to_numpy, layer_by_layer.run(model, batch)[0])
        else:
            outputs = model.predict_on_batch(values.packed(model, batch))
        arrays += [np.asarray(output, np.float32) for output in keras.tree.flatten(outputs)]
    return arrays
