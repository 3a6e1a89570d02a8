"""AdaRound: rounds each weight up or down to minimize the error of the layer's outputs instead of its weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

import keras
import numpy as np

from r2keras._models import rebuild, values, walk
from r2keras._models.row_products import rounding_layers, without_rounding
from r2keras._models.walk import Kernel, ModelView, view_of
from r2keras._util.errors import invalid, invalid_part
from r2keras._util.progress import progress_bar
from r2keras.calibration import as_matrix
from r2keras.calibration.checkpoints import LayerStore
from r2keras.calibration.data import Data, kept_batches
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.frontier import Frontier
from r2keras.calibration.rounding.coordinate_descent import KernelGrid, refine
from r2keras.calibration.rounding.moments import Moments
from r2keras.calibration.rounding.up_or_down import AdaRoundOptions, optimize
from r2keras.calibration.taps import Tapped
from r2keras.compression.dynamic_twin import with_rounding_at
from r2keras.record import CompressionRecord, QuantizedTensor, broadcast_scales

# Bytes of a layer's second moments in float64, above which it keeps nearest rounding.
MEMORY_LIMIT = 2**30
FOLD_BOTH = "Fold batch norm in both models or in neither"


def adaround(
    model: keras.Model,
    small: keras.Model,
    record: CompressionRecord,
    data: Data,
    *,
    options: AdaRoundOptions | None = None,
    batch_size: int = 64,
    max_samples: int | None = None,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[keras.Model, CompressionRecord]:
    """Learns whether to round each weight of a quantized model up or down, then refines codes and scales.

    Layers are rounded in their order in the model. `x` are the inputs of a layer when the layers before it are already
    quantized, `t` its inputs in the float model. The codes `floor(w / s) + h` with `h` 0 or 1 are chosen to minimize
    `E |x W_q - t W|^2`, the error of the outputs before the activation (`up_or_down.optimize`). This error is a
    quadratic form of `W_q` with the second moments of the inputs as coefficients. The moments are summed over all
    samples once, so that every optimization step uses all data and no activations are stored. Then scales and codes are
    refined in alternation, where a code may move to any point of the grid (`coordinate_descent.refine`).
    `AdaRoundOptions(rounds=0)` leaves this out and keeps the scales, as in the paper.

    Args:
        model: the float model; left untouched.
        small: the quantized model that `finalize` or `calibrate` made from it; left untouched.
        record: the codes and scales of `small`.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches;
            500 to a few thousand samples.
        options: settings of the optimization; None uses the defaults.
        batch_size: samples per batch; the data's own batches have no effect.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but of an iterable that does not say how many batches it has 16,384, and of one kept in memory 1 GiB.
        folder: a folder for finished layers, one `.npz` each, from which an interrupted run continues. None stores
            nothing.
        progress: whether to show a progress bar, in terminals and notebooks.

    Returns:
        `(small, record)`, both new. `record.notes` has the improvement of every kernel, or the reason why it keeps
        nearest rounding. AdaRound supports Dense, EinsumDense, and convolutions (grouped, depthwise, separable,
        transposed).

    Raises:
        TypeError: a model is subclassed, or an argument has another type.
        ValueError: the models do not belong together; the data are empty, not finite or of another shape; the folder
            has the layers of another run.

    Example:

    >>> import r2keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> recipe = r2keras.Recipe([("head", r2keras.QuantSpec(num_bits=3))])
    >>> small, record = r2keras.finalize(r2keras.prepare(model, recipe))
    >>> small, record = adaround(model, small, record, np.random.default_rng(0).random((64, 4), "float32"))
    >>> record.notes["head/kernel"]
    'AdaRound: output error ... of nearest rounding'

    Source: Nagel et al., arXiv 2004.10568, sections 3.3 and 3.4. The paper draws mini-batches; the moments and the
    refinement are ours.
    """
    options = _checked(options)
    view = view_of(model)
    quantized = view_of(small, "small")
    rounding = rounding_layers(quantized)
    check_pair(view, record)
    checked = kept_batches(view, data, batch_size, max_samples)
    result, record = rounded(view, without_rounding(quantized), record, checked, options, folder, progress)
    return (with_rounding_at(result, rounding) if rounding else result).model, record


def rounded(
    view: ModelView,
    small: ModelView,
    record: CompressionRecord,
    data: list[Batch],
    options: AdaRoundOptions | None,
    folder: str | os.PathLike | None,
    progress: bool,
) -> tuple[ModelView, CompressionRecord]:
    """Returns the results of `adaround` for views and checked batches."""
    options = _checked(options)
    run = _Run(view, small, record, data, options)
    store = LayerStore(folder, run.fingerprint()) if folder is not None else None
    tensors: dict[str, Any] = dict(record.tensors)
    notes = dict(record.notes)
    with progress_bar(progress, len(tensors), "AdaRound") as update:
        for number, kernel in enumerate(run.kernels):
            full = kernel.full_name
            update(number, f"AdaRound {full}")
            stored = None if store is None else store.load(full, tensors[full])
            if stored is not None:
                tensors[full], notes[full] = stored
            else:
                tensors[full], notes[full] = run.round(kernel, tensors[full])
                if store is not None:
                    store.save(full, tensors[full].codes, tensors[full].scale, notes[full])
            run.assign(kernel, tensors[full])
        update(len(tensors), "AdaRound")
    for full, note in record.notes.items():
        if notes[full] != note:
            notes[full] = f"{notes[full]}; {note}"
    return run.result(tensors), dataclasses.replace(record, tensors=tensors, notes=notes)


class _Run:
    """One run of AdaRound: the float kernels, and tapped copies of the float model and the quantized one.

    Args:
        view: the float model.
        small: the quantized model.
        record: the codes and scales of `small`.
        data: checked batches.
        options: settings of the optimization.
    """

    def __init__(
        self, view: ModelView, small: ModelView, record: CompressionRecord, data: list[Batch], options: AdaRoundOptions
    ):
        self.small = small
        self.record = record
        self.data = data
        self.options = options
        self.weights = {kernel.full_name: values.to_numpy(kernel.variable) for kernel in view.kernels}
        # The recorded kernels, in the order of the model's layers.
        self.kernels = [k for k in small.kernels if isinstance(record.tensors.get(k.full_name), QuantizedTensor)]
        layers = {kernel.path: small.layers_by_path[kernel.path] for kernel in self.kernels}
        self.unsupported = {path: _reason(layer) for path, layer in layers.items() if not as_matrix.is_linear(layer)}
        supported = [path for path in layers if path not in self.unsupported]
        self.floats = Tapped(view, supported)
        self.quantized = Tapped(small, supported)
        counted = [kernel.path for kernel in self.kernels if kernel.path in supported]
        self.fronts = [Frontier(tapped, data, counted) for tapped in (self.quantized, self.floats)]

    def fingerprint(self) -> str:
        """Returns a hash of everything that the result depends on."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self.options)).encode())
        for name, tensor in sorted(self.record.tensors.items()):
            digest.update(name.encode())
            for array in (self.weights[name], *tensor.arrays().values()):
                digest.update(np.ascontiguousarray(array).tobytes())
        for array in (array for batch in self.data for array in batch):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def round(self, kernel: Kernel, tensor: QuantizedTensor) -> tuple[QuantizedTensor, str]:
        """Returns one kernel after AdaRound, and a note for the record."""
        if kernel.path in self.unsupported:
            return tensor, f"nearest rounding: {self.unsupported[kernel.path]}"
        form = as_matrix.matrix_form(self.quantized.layer(kernel.path), kernel.name)
        weights = form.to_matrix(self.weights[kernel.full_name])
        if weights.shape[0] * weights.shape[1] ** 2 * 8 > MEMORY_LIMIT:
            return tensor, f"nearest rounding: {weights.shape[1]} inputs are too many for their second moments"
        moments = self._moments(kernel, form, weights)
        return best_rounding(tensor, self.weights[kernel.full_name], form, moments, self.options)

    def assign(self, kernel: Kernel, tensor: QuantizedTensor) -> None:
        """Assigns a kernel's new values in the tapped quantized model, on which the next layers' inputs depend."""
        if kernel.path not in self.unsupported:
            dict(walk.kernels(self.quantized.layer(kernel.path)))[kernel.name].assign(tensor.values())
            for frontier in self.fronts:
                frontier.finish(kernel.path)

    def result(self, tensors: dict[str, QuantizedTensor]) -> ModelView:
        """Returns a copy of the quantized model with the values of the tensors."""
        copy = view_of(rebuild.rebuild(self.small))
        for kernel in copy.kernels:
            if kernel.full_name in tensors:
                kernel.variable.assign(tensors[kernel.full_name].values())
        return copy

    def _moments(self, kernel: Kernel, form: as_matrix.MatrixForm, weights: np.ndarray) -> Moments:
        """Returns the second moments of a layer's inputs, summed over the data."""
        moments = Moments.zeros(weights)
        float_form = as_matrix.matrix_form(self.floats.layer(kernel.path), kernel.name)
        (quantized_part, quantized_inputs), (float_part, float_inputs) = (f.inputs_of(kernel.path) for f in self.fronts)
        samples = 0
        for batch, given, wanted in zip(self.data, quantized_inputs, float_inputs, strict=True):
            if moments.is_enough(samples):
                break
            samples += len(batch[0])
            quantized_calls = self.quantized.listen(quantized_part, kernel.path, given)
            float_calls = self.floats.listen(float_part, kernel.path, wanted)
            for (inputs, _), (targets, _) in zip(quantized_calls, float_calls, strict=True):
                moments.add(form, float_form, weights, inputs, targets)
        return moments


def best_rounding(
    tensor: QuantizedTensor,
    kernel: np.ndarray,
    form: as_matrix.MatrixForm,
    moments: Moments,
    options: AdaRoundOptions,
) -> tuple[QuantizedTensor, str]:
    """Returns one kernel after AdaRound, and a note for the record.

    Args:
        tensor: the kernel under nearest rounding.
        kernel: the float kernel.
        form: the kernel as a matrix.
        moments: the second moments of its inputs.
        options: settings of the optimization.
    """
    weights = form.to_matrix(kernel)
    low, high, start, floor, ceiling = _choices(tensor, kernel)
    low, high, start = (form.to_matrix(array) for array in (low, high, start))
    up = optimize(weights, low, high, start, moments, options)
    best = dataclasses.replace(tensor, codes=np.where(form.to_kernel(up), ceiling, floor).astype(np.int8))
    error = _error(moments, form, weights, best)
    if options.rounds:
        refined = _refined(form, weights, best, moments, options.rounds)
        refined_error = _error(moments, form, weights, refined)
        if refined_error < error:
            best, error = refined, refined_error
    return best, _note(_error(moments, form, weights, tensor), error)


def _choices(tensor: QuantizedTensor, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns the grid values below and above each weight, its position between them (0 to 1), and the two codes."""
    scale, zero_point = (broadcast_scales(array, weight.shape) for array in (tensor.scale, tensor.zero_point))
    steps = weight / scale + zero_point
    floor = np.floor(steps)
    low, high = (np.clip(code, tensor.spec.quant_min, tensor.spec.quant_max) for code in (floor, floor + 1))
    # A position of 0.5 or more means that nearest rounding took the upper code: the record decides ties.
    start = np.where(tensor.codes == high, np.maximum(steps - floor, 0.5), np.minimum(steps - floor, 0.4999))
    start = np.clip(start, 0, 1).astype(np.float32)
    return scale * (low - zero_point), scale * (high - zero_point), start, low, high


def _refined(
    form: as_matrix.MatrixForm, weights: np.ndarray, tensor: QuantizedTensor, moments: Moments, rounds: int
) -> QuantizedTensor:
    """Returns a kernel after `coordinate_descent.refine`; scales stay fixed if an output has several."""
    shape = tensor.codes.shape
    num_scales = tensor.scale.size
    scale, zero_point, scale_index = (
        form.to_matrix(np.ascontiguousarray(broadcast_scales(array, shape)))
        for array in (tensor.scale, tensor.zero_point, np.arange(num_scales).reshape(tensor.scale.shape))
    )

    def sum_per_scale(matrix: np.ndarray) -> np.ndarray:
        return np.bincount(scale_index.ravel(), matrix.ravel(), num_scales)[scale_index]

    one_scale_per_output = (scale_index == scale_index[:, :1]).all()
    grid = KernelGrid(scale, zero_point, tensor.spec.quant_min, tensor.spec.quant_max)
    codes = form.to_matrix(tensor.codes)
    codes, grid = refine(weights, codes, grid, moments, sum_per_scale if one_scale_per_output else None, rounds)
    new_scale = np.empty(num_scales, np.float32)
    new_scale[scale_index.ravel()] = grid.scale.ravel()
    return dataclasses.replace(
        tensor, codes=form.to_kernel(codes).astype(np.int8), scale=new_scale.reshape(tensor.scale.shape)
    )


def _error(moments: Moments, form: as_matrix.MatrixForm, weights: np.ndarray, tensor: QuantizedTensor) -> float:
    """Returns the mean squared error of a layer's outputs, summed over the outputs."""
    return float(moments.error(form.to_matrix(tensor.values()) - weights).sum())


def _note(nearest_error: float, error: float) -> str:
    """Returns the record's note on the improvement over nearest rounding."""
    ratio = error / nearest_error if nearest_error > 0 else 1.0
    return f"AdaRound: output error {ratio:.3f} of nearest rounding"


def _reason(layer: keras.Layer) -> str:
    """Returns the record's note on a layer that AdaRound does not support."""
    return f"AdaRound does not support {type(layer).__name__}"


def _checked(options: AdaRoundOptions | None) -> AdaRoundOptions:
    """Returns the options, the defaults for None."""
    options = options or AdaRoundOptions()
    if not isinstance(options, AdaRoundOptions):
        raise TypeError(invalid("options", "an AdaRoundOptions", options))
    return options


def check_pair(view: ModelView, record: CompressionRecord) -> None:
    """Raises unless the float model has every recorded kernel."""
    if not isinstance(record, CompressionRecord):
        raise TypeError(invalid("record", "a CompressionRecord", record))
    shapes = {kernel.full_name: tuple(kernel.variable.shape) for kernel in view.kernels}
    for name, tensor in record.tensors.items():
        shape = tensor.values().shape
        if shapes.get(name) != shape:
            expected = f"the float model of the record, with a kernel {name!r} of shape {shape}"
            received = f"a model with no kernel {name!r} of this shape"
            raise ValueError(invalid_part("model", expected, received, FOLD_BOTH))
