"""AdaRound: each weight rounded up or down so that the layer's outputs, not its weights, are nearest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

import keras
import numpy as np

from r2keras import _model
from r2keras._errors import invalid
from r2keras.calibration import linear
from r2keras.calibration.coordinates import Grid, refine
from r2keras.calibration.data import batches
from r2keras.calibration.moments import Moments
from r2keras.calibration.progress import LayerStore, progress_bar
from r2keras.calibration.rounding import AdaRoundOptions, optimize
from r2keras.calibration.taps import Tapped
from r2keras.record import CompressionRecord, QuantizedTensor, expand

Data = list[list[np.ndarray]]
MEMORY_LIMIT = 2**30


def adaround(
    model: keras.Model,
    small: keras.Model,
    record: CompressionRecord,
    data,
    *,
    options: AdaRoundOptions | None = None,
    batch_size: int = 64,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[keras.Model, CompressionRecord]:
    """Learns for each weight of a quantized model whether to round up or down, then refines codes and scales.

    Layer by layer, in order: with the inputs `x` that come from the layers already quantized and the float model's
    inputs `t`, the codes `floor(w / s) + h` are chosen that minimise `E |x W_q - t W|^2`, the error of the outputs
    before the activation (`rounding.optimize`). That error is a quadratic form of `W_q` in the second moments of the
    inputs, which are summed over all samples once: every step sees the whole of the data, and no activations are kept.
    Then scales and codes are improved by turns, codes anywhere on the grid (`coordinates.refine`); with
    `AdaRoundOptions(rounds=0)` scales stay as they are, as in the paper.

    Args:
        model: the float model. It is left untouched.
        small: the quantized model that `finalize` or `calibrate` made of it. It is left untouched.
        record: the codes and scales of `small`.
        data: unlabelled inputs: an array, a list of arrays (one an input), a dict by name, or an iterable of batches;
            500 to a few thousand samples.
        options: iterations and so on; None takes the defaults.
        batch_size: samples a batch where `data` is an array.
        folder: where finished layers are kept, one `.npz` each: a run that was cut off goes on with the next. None
            keeps nothing.
        progress: whether to show a progress bar, if the output is a terminal.

    Returns:
        `(small, record)`, new ones. `record.notes` says for every kernel what was gained, or why it keeps nearest
        rounding: AdaRound works for Dense, EinsumDense, and convolutions (grouped, depthwise, separable, transposed).

    Raises:
        TypeError: a subclassed model, or an argument of another kind.
        ValueError: models that do not belong together; data that are empty, not finite or of another shape; a folder
            with the layers of another run.

    Example:

    >>> import r2keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> recipe = r2keras.Recipe([("head", r2keras.QuantSpec(num_bits=3))])
    >>> small, record = r2keras.finalize(r2keras.prepare(model, recipe))
    >>> small, record = adaround(model, small, record, np.random.default_rng(0).random((64, 4), "float32"))
    >>> record.notes["head/kernel"]
    'AdaRound: output error ... of nearest rounding'

    Source: Nagel et al., arXiv 2004.10568, sections 3.3 and 3.4. The paper draws mini-batches; the moments and the
    turns after it are ours.
    """
    options = options or AdaRoundOptions()
    if not isinstance(options, AdaRoundOptions):
        raise TypeError(invalid("options", "an AdaRoundOptions", options))
    _check_pair(model, record)
    run = _Run(model, small, record, list(batches(model, data, batch_size)), options)
    store = LayerStore(folder, run.fingerprint()) if folder is not None else None
    tensors, notes = dict(record.tensors), dict(record.notes)
    with progress_bar(progress, len(tensors)) as advance:
        for path, name in run.order():
            full = f"{path}/{name}"
            kept = None if store is None else store.load(full)
            if kept is not None:
                codes, scale, notes[full] = kept
                tensors[full] = dataclasses.replace(tensors[full], codes=codes, scale=scale)
            else:
                tensors[full], notes[full] = run.round(path, name, tensors[full])
                if store is not None:
                    store.save(full, tensors[full].codes, tensors[full].scale, notes[full])
            run.put(path, name, tensors[full])
            advance(full)
    notes |= {full: f"{notes[full]}; {note}" for full, note in record.notes.items() if notes[full] != note}
    return run.result(tensors), dataclasses.replace(record, tensors=tensors, notes=notes)


class _Run:
    """The float model and the quantized one, both listened to, and what is known of each kernel."""

    def __init__(self, model, small, record: CompressionRecord, data: Data, options: AdaRoundOptions):
        self.small, self.record, self.data, self.options = small, record, data, options
        self.kernels = {name: _model.to_numpy(variable) for name, variable in _kernels(model).items()}
        layers = dict(_model.leaf_layers(small))
        self.why = {path: "" if linear.is_linear(layers[path]) else _reason(layers[path]) for path, _ in self.order()}
        good = [path for path, why in self.why.items() if not why]
        self.floats, self.quantized = Tapped(model, good), Tapped(small, good)

    def order(self) -> list[tuple[str, str]]:
        """Returns `(layer path, kernel name)` of every recorded kernel, in the order of the model's layers."""
        pairs = [(p, n) for p, layer in _model.leaf_layers(self.small) for n, _ in _model.kernels(layer)]
        return [pair for pair in pairs if isinstance(self.record.tensors.get("/".join(pair)), QuantizedTensor)]

    def fingerprint(self) -> str:
        """Returns a hash of everything that the result depends on."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self.options)).encode())
        for name, tensor in sorted(self.record.tensors.items()):
            digest.update(name.encode())
            for array in (self.kernels[name], *tensor.arrays().values()):
                digest.update(np.ascontiguousarray(array).tobytes())
        for array in (array for batch in self.data for array in batch):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def round(self, path: str, name: str, tensor: QuantizedTensor) -> tuple[QuantizedTensor, str]:
        """Returns one kernel, rounded, and a note."""
        if self.why[path]:
            return tensor, f"nearest rounding: {self.why[path]}"
        seen = linear.view(self.quantized.layer(path), name)
        weights = seen.to_matrix(self.kernels[f"{path}/{name}"])
        if weights.shape[0] * weights.shape[1] ** 2 * 8 > MEMORY_LIMIT:
            return tensor, f"nearest rounding: {weights.shape[1]} inputs are too many for their second moments"
        moments = self._moments(path, name, seen, weights)
        low, high, start, floor, ceiling = _choices(tensor, self.kernels[f"{path}/{name}"])
        low, high, start = (seen.to_matrix(array) for array in (low, high, start))
        up = optimize(weights, low, high, start, moments, self.options)
        found = dataclasses.replace(tensor, codes=np.where(seen.to_kernel(up), ceiling, floor).astype(np.int8))
        if self.options.rounds:
            finer = _refined(seen, weights, found, moments, self.options.rounds)
            found = min(found, finer, key=lambda one: _error(moments, seen, weights, one))
        return found, _note(*(_error(moments, seen, weights, one) for one in (tensor, found)))

    def put(self, path: str, name: str, tensor: QuantizedTensor) -> None:
        """Gives a kernel of the listened-to quantized model its new values."""
        if not self.why[path]:
            dict(_model.kernels(self.quantized.layer(path)))[name].assign(tensor.values())

    def result(self, tensors: dict[str, QuantizedTensor]) -> keras.Model:
        """Returns a copy of the quantized model with the values of the tensors."""
        model = _model.rebuild(self.small, lambda path, layer: None)
        for name, variable in _kernels(model).items():
            if name in tensors:
                variable.assign(tensors[name].values())
        return model

    def _moments(self, path: str, name: str, seen: linear.View, weights: np.ndarray) -> Moments:
        """Sums the second moments of a layer's inputs over the data."""
        moments, floats = Moments.zeros(weights), linear.view(self.floats.layer(path), name)
        parts = self.quantized.until(path), self.floats.until(path)
        for batch in self.data:
            calls = self.quantized.listen(parts[0], path, batch), self.floats.listen(parts[1], path, batch)
            for (inputs, _), (wanted, _) in zip(*calls, strict=True):
                moments.add(seen, floats, weights, inputs, wanted)
        return moments


def _choices(tensor: QuantizedTensor, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns the values below and above each weight, where the weight lies between them, and the two codes."""
    scale, zero = (expand(part, weight.shape) for part in (tensor.scale, tensor.zero_point))
    steps = weight / scale + zero
    floor = np.floor(steps)
    low, high = (np.clip(code, tensor.spec.quant_min, tensor.spec.quant_max) for code in (floor, floor + 1))
    start = np.where(tensor.codes == high, np.maximum(steps - floor, 0.5), np.minimum(steps - floor, 0.4999))
    start = np.clip(start, 0, 1).astype(np.float32)
    return scale * (low - zero), scale * (high - zero), start, low, high


def _refined(seen, weights: np.ndarray, tensor: QuantizedTensor, moments: Moments, rounds: int) -> QuantizedTensor:
    """Returns a kernel after `coordinates.refine`; scales stay where an output has several."""
    shape, size = tensor.codes.shape, tensor.scale.size
    scale, zero_point, owner = (
        seen.to_matrix(np.ascontiguousarray(expand(part, shape)))
        for part in (tensor.scale, tensor.zero_point, np.arange(size).reshape(tensor.scale.shape))
    )

    def shared(matrix: np.ndarray) -> np.ndarray:
        return np.bincount(owner.ravel(), matrix.ravel(), size)[owner]

    one_an_output = (owner == owner[:, :1]).all()
    grid = Grid(scale, zero_point, tensor.spec.quant_min, tensor.spec.quant_max)
    codes = seen.to_matrix(tensor.codes)
    codes, grid = refine(weights, codes, grid, moments, shared if one_an_output else None, rounds)
    found = np.empty(size, np.float32)
    found[owner.ravel()] = grid.scale.ravel()
    return dataclasses.replace(
        tensor, codes=seen.to_kernel(codes).astype(np.int8), scale=found.reshape(tensor.scale.shape)
    )


def _error(moments: Moments, seen, weights: np.ndarray, tensor: QuantizedTensor) -> float:
    """Returns the mean squared error of a layer's outputs, summed over the outputs."""
    return float(moments.error(seen.to_matrix(tensor.values()) - weights).sum())


def _note(before: float, after: float) -> str:
    """Says what was gained."""
    return f"AdaRound: output error {after / before if before > 0 else 1.0:.3f} of nearest rounding"


def _reason(layer: keras.Layer) -> str:
    return f"{type(layer).__name__} is not one of the layers that AdaRound knows"


def _kernels(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns every kernel of a model by its full name."""
    layers = _model.leaf_layers(model)
    return {f"{path}/{name}": variable for path, layer in layers for name, variable in _model.kernels(layer)}


def _check_pair(model: keras.Model, record: CompressionRecord) -> None:
    """Raises unless every recorded kernel is one of the float model."""
    if not isinstance(record, CompressionRecord):
        raise TypeError(invalid("record", "a CompressionRecord", record))
    kernels = _kernels(model)
    for name, tensor in record.tensors.items():
        shape = tensor.values().shape
        if name not in kernels or tuple(kernels[name].shape) != shape:
            raise ValueError(
                f"The float model has no kernel {name!r} of shape {shape}. Expected the model that the "
                "quantized one was made from. Fold batch norm in both or in neither."
            )
