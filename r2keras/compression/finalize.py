"""`finalize`: a plain Keras model with its weights exactly on their grids, and the record of codes and scales."""

from __future__ import annotations

import keras
import numpy as np

from r2keras._models import rebuild, walk
from r2keras._models.channel_axes import output_axes
from r2keras._models.float32 import in_float32
from r2keras._models.values import to_numpy
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid_part
from r2keras.compression import recurrent
from r2keras.compression.dynamic_twin import with_rounding
from r2keras.compression.integer_biases import round_biases
from r2keras.compression.students import wrappers
from r2keras.layers.quantize_activation import GridActivation, QuantizeActivation
from r2keras.layers.wrappers.substitute import SubstituteWeights
from r2keras.record import CompressionRecord, QuantizedActivation, Tensor
from r2keras.record.with_record import remember

# Wrappers with the paths of their layers.
Wrapped = list[tuple[str, SubstituteWeights]]
KEPT_FLOAT = "no rule of the recipe compresses it"


def finalize(student: keras.Model) -> tuple[keras.Model, CompressionRecord]:
    """Returns an ordinary Keras model whose weights lie exactly on their grids, and the record of codes and scales.

    Args:
        student: a model made by `prepare`, trained or not. It is left untouched.

    Returns:
        `(model, record)`: the model has no r2keras wrapper left; every recorded kernel equals the record's
        `values()`, `scale * (code - zero_point)` or table entries, bit for bit in float32. It computes in float32, as
        files do, also if the student trained in `"mixed_float16"` or another precision. `record.notes` says how far
        the soft palettes of training are from the hard ones of the file, and which kernels have all-zero channels.
        Layers under `activation_method="dynamic"` still round the rows of their inputs, in a `layers.DynamicInput` or
        with `dynamic_products=True`. Quantized activations stay, each as a `layers.GridActivation` without weights. If
        all of them have 8 bits, biases are rounded to whole steps `scale_in * scale_weight` of integer accumulators, by
        half a step at most: integer operators then compute the same.

    Raises:
        ValueError: nothing in the model is compressed, a weight is NaN or infinite, or an activation has no range yet.

    Example:

    >>> from r2keras import QuantSpec, Recipe, prepare
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> plain, record = finalize(prepare(model, Recipe([("head", QuantSpec(num_bits=4))])))
    >>> bool((plain.get_layer("head").kernel.numpy() == record.tensors["head/kernel"].values()).all())
    True
    """
    result, record = finalized(view_of(student, "student"))
    result = with_rounding(result, record) if record.dynamic_kernels else result
    remember(result.model)
    return result.model, record


def finalized(view: ModelView, wrapped: Wrapped | None = None) -> tuple[ModelView, CompressionRecord]:
    """Returns the results of `finalize` for a view, except that products do not round the rows of their inputs.

    Args:
        view: a prepared model, or a plain one.
        wrapped: the wrappers of its layers with their paths; None finds them in the model. Those of
            `prepare.wrappers_around` are around the layers of a plain model.
    """
    wrapped = wrappers(view) if wrapped is None else wrapped
    tensors, notes = _tensors(view, wrapped)
    result = in_float32(view_of(rebuild.rebuild(view, _unwrapped)))
    for kernel in result.kernels:
        if kernel.full_name in tensors:
            _assign_exactly(kernel.variable, tensors[kernel.full_name].values())
    reasons = _reasons(view, wrapped)
    names = [kernel.full_name for kernel in result.kernels if kernel.full_name not in tensors]
    kept_float = {name: reasons.get(name, KEPT_FLOAT) for name in names}
    model = result.model
    record = CompressionRecord(tensors, kept_float, model.count_params(), model.name, _activations(result), notes)
    round_biases(result, record)
    return result, record


def _tensors(view: ModelView, wrapped: Wrapped) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a model's compressed kernels, and remarks on them, by full name.

    Raises:
        ValueError: see `finalize`.
    """
    tensors: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    if not wrapped and not any(recurrent.quantized_parts(path, layer) for path, layer in view.layers):
        received = f"the model {view.model.name!r}, which has no compressed layer"
        fix = "Call student = r2keras.prepare(model, recipe) first"
        raise ValueError(invalid_part("student", "a model that r2keras.prepare returned", received, fix))
    for path, wrapper in wrapped:
        layer_tensors = wrapper.quantized_tensors(path)
        tensors |= {tensor.name: tensor for _, tensor in layer_tensors}
        notes |= _remarks(wrapper, layer_tensors)
    for path, layer in view.layers:
        tensors |= recurrent.tensors(path, layer)
    return tensors, notes


def _remarks(wrapper: SubstituteWeights, tensors: list[tuple[str, Tensor]]) -> dict[str, str]:
    """Returns remarks on the kernels of one wrapped layer, by full name."""
    remarks = wrapper.notes(tensors)
    kernels = dict(walk.kernels(wrapper.layer))
    notes = {}
    for name, tensor in tensors:
        parts = [remarks.get(name), dead_channels(wrapper.layer, kernels[name])]
        if any(parts):
            notes[tensor.name] = "; ".join(filter(None, parts))
    return notes


def _reasons(view: ModelView, wrapped: Wrapped) -> dict[str, str]:
    """Returns the reasons why kernels that have a spec stay float, by full name."""
    reasons: dict[str, str] = {}
    for path, layer in view.layers:
        reasons |= recurrent.kept_float(path, layer)
    for path, wrapper in wrapped:
        reasons |= {walk.full_name(path, name): reason for name, reason in wrapper.kept_float().items()}
    return reasons


def dead_channels(layer: keras.Layer, kernel: keras.Variable) -> str | None:
    """Returns a remark on the all-zero output channels of a kernel; None if there are none.

    Args:
        layer: the layer that holds the kernel.
        kernel: the kernel; the rows of an embedding are words, and may be zero.
    """
    axes = output_axes(layer, kernel)
    values = to_numpy(kernel)
    rest = tuple(axis for axis in range(values.ndim) if axis not in axes)
    dead = np.count_nonzero(~values.any(axis=rest))
    if not dead or axes == (0,):
        return None
    count = int(np.prod([values.shape[axis] for axis in axes]))
    return f"{dead} of {count} output channels are all zero: they pass nothing of their input on"


def with_grids(view: ModelView, layers: dict[str, GridActivation]) -> tuple[ModelView, dict[str, QuantizedActivation]]:
    """Returns a copy of a finalized model in which rounding layers follow others, by path; and the grids of all."""
    result = view_of(rebuild.rebuild(view, _unwrapped, append=lambda path, name: layers.get(path)))
    return result, _activations(result)


def _activations(view: ModelView) -> dict[str, QuantizedActivation]:
    """Returns the grids of a finalized model's activations by the path of the layer that produces them."""
    grids: dict[str, QuantizedActivation] = {}
    for path, layer in view.instances(GridActivation):
        source = path.removesuffix(walk.QUANTIZED_SUFFIX)
        grids[source] = QuantizedActivation(source, layer.scale, layer.zero_point, layer.num_bits)
    for path, layer in view.layers:
        grids |= recurrent.grids(path, layer)
    return grids


def _unwrapped(path: str, layer: keras.Layer) -> keras.Layer | None:
    """Returns a bare copy of a wrapped layer under the wrapper's name, or the fixed grid of an activation quantizer."""
    if isinstance(layer, QuantizeActivation):
        return layer.frozen()
    wrapped = isinstance(layer, SubstituteWeights)
    inner = layer.layer if wrapped else layer
    new = recurrent.frozen(path, inner)
    if wrapped:
        new = new or rebuild.copy_layer(inner)
        new.name = layer.name
    return new


def _assign_exactly(variable: keras.Variable, values: np.ndarray) -> None:
    """Assigns values, and raises unless the weight then holds them bit for bit."""
    variable.assign(values)
    if variable.dtype == "float32" and not np.array_equal(to_numpy(variable), values):
        raise RuntimeError(
            f"The weight {variable.path} does not hold the values of the record exactly. This is a defect of r2keras: "
            "please report the layer and the spec."
        )
