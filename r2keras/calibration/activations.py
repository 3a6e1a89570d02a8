"""Ranges of quantized activations from unlabeled data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from r2keras._models import layer_by_layer
from r2keras._models.values import packed
from r2keras._models.walk import QUANTIZED_SUFFIX, ModelView, view_of
from r2keras._util.errors import DataNeededError, invalid
from r2keras.calibration.data import Data, batches
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.input_features import InputFeatures
from r2keras.compression import students
from r2keras.layers.quantize_activation import GridActivation, QuantizeActivation
from r2keras.specs import ActivationSpec


def set_activation_ranges(
    student: keras.Model, data: Data, *, batch_size: int = 128, max_samples: int | None = None
) -> int:
    """Sets the range of every quantized activation of a prepared model from data, in place.

    Runs the data through the model once, with quantized weights and float activations. Each activation then gets the
    range of its method. With `"ste"` that is the spec's `range`: the minimum and maximum of all data (also with
    `"moving_average"`, which averages in training only), percentiles, or the range of least squared error. Other
    methods get their start value. The order of the data, their batches, and the number of a layer's calls have no
    effect. Memory does not grow with the data.

    Args:
        student: a model that `r2keras.prepare` made.
        data: unlabeled inputs: an array, a list of arrays (one per input), a dict by name, or an iterable of batches.
        batch_size: samples per batch; the data's own batches have no effect.
        max_samples: the number of samples to use: of arrays a random choice, of an iterable the first ones. None uses
            all, but 16,384 of an iterable that does not say how many batches it has.

    Returns:
        The number of ranges that were set.

    Raises:
        ValueError: there are no data, or they are empty, not finite, without end or of another shape.

    Warns:
        UserWarning: features of the model's input whose ranges are too small for the input's grid.

    Example:

    >>> import numpy as np
    >>> import r2keras
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, "relu", name="a"), keras.layers.Dense(2, name="b")]
    >>> recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=4, activation_bits=4))])
    >>> student = r2keras.prepare(keras.Sequential(layers), recipe)
    >>> set_activation_ranges(student, np.ones((8, 4), "float32"))
    1

    Source: Nagel et al., arXiv 2106.08295, section 3.1.
    """
    view = view_of(student, "student")
    return set_ranges(view, None if data is None else batches(view, data, batch_size, max_samples))


def set_ranges(view: ModelView, data: Iterable[Batch] | None) -> int:
    """Sets the ranges as `set_activation_ranges` does, in the model of a view, from checked batches."""
    quantized = students.quantizers_of(view)
    layers = [layer for _, layer in quantized]
    if not layers:
        return 0
    if data is None:
        raise _no_data(len(layers))
    inputs = InputFeatures(view.model, {name.removesuffix(QUANTIZED_SUFFIX): q for name, q in quantized})
    try:
        for layer in layers:
            layer.observe()
        for batch in data:
            inputs.add(batch)
            view.model(packed(view.model, batch), training=False)
    finally:
        for layer in layers:
            layer.fit()
    inputs.warn(stacklevel=4)
    return len(layers)


def measured_grids(
    view: ModelView, plan: dict[str, ActivationSpec], data: list[Batch] | None
) -> dict[str, GridActivation]:
    """Returns the layers that round the activations of a model to grids measured on data, by path.

    Args:
        view: the model, with quantized weights and float activations; left untouched.
        plan: the specs of its activations, from `activation_plan`.
        data: checked batches (`calibration.data.batches`).

    Returns:
        A layer called `"<name>_quantized"` to follow each layer, operation or input of the plan.
    """
    if data is None:
        raise _no_data(len(plan))
    names = {path: path.rpartition("/")[-1] + QUANTIZED_SUFFIX for path in plan}
    observers = {path: QuantizeActivation(spec, name=names[path]) for path, spec in plan.items()}

    def call(path: str, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if path in observers:
            # Of several outputs, the first is quantized.
            observers[path](outputs[0] if isinstance(outputs, (list, tuple)) else outputs)
        return outputs

    inputs = InputFeatures(view.model, observers)
    for observer in observers.values():
        observer.observe()
    for batch in data:
        inputs.add(batch)
        for tensor, array in zip(view.model.inputs, batch, strict=True):
            if tensor.name in observers:
                observers[tensor.name](keras.ops.convert_to_tensor(array, dtype=tensor.dtype))
        layer_by_layer.run(view.model, batch, call)
    for observer in observers.values():
        observer.fit()
    inputs.warn(stacklevel=5)
    return {path: observer.frozen() for path, observer in observers.items()}


def _no_data(count: int) -> DataNeededError:
    """Returns the error for activations without data."""
    expected = f"inputs, from which the ranges of {count} activations are measured"
    return DataNeededError(invalid("data", expected, None, "Pass a few hundred inputs"))
