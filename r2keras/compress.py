"""Compression of a model: `prepare` it for training under a recipe, `finalize` it onto the grid."""

from __future__ import annotations

import keras
import numpy as np

from r2keras import _recurrent
from r2keras._accumulators import round_biases
from r2keras._models import rebuild, walk
from r2keras._models.channel_axes import output_axes
from r2keras._models.values import check_finite, to_numpy
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid
from r2keras.layers.fake_quantize import FakeQuantize
from r2keras.layers.palettize import Palettize
from r2keras.layers.quantize_activation import GridActivation, QuantizeActivation
from r2keras.layers.specified import SpecifiedWeights
from r2keras.layers.substitute import SubstituteWeights
from r2keras.placement import warned_plan, with_bare_ends
from r2keras.record import CompressionRecord, QuantizedActivation, Tensor
from r2keras.specs import ActivationSpec, PaletteSpec, Recipe, Spec

KEPT_FLOAT = "no rule of the recipe compresses it"
# Specs by layer path and by the kernel's name in the layer.
WeightPlan = dict[str, dict[str, Spec]]


def prepare(
    model: keras.Model, recipe: Recipe, *, input_bits: int | None = None, output_bits: int | None = None
) -> keras.Model:
    """Returns a copy of a model for training under compression: kernels that the recipe names are fake-quantized.

    Weights, regularizers, names and (if the model is compiled) the compile settings are carried over; the optimizer
    starts fresh. Ranges of weights are set from the weights, those of activations by the first training batch.

    Args:
        model: a built Functional or Sequential model, nested ones included. It is left untouched.
        recipe: which kernels and activations are compressed, and how.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.
        output_bits: bits of the other tensors that an integer-only file rounds: the model's outputs, before a final
            softmax, sigmoid or tanh (which becomes a separate layer, `"<layer>_softmax"`), and the results of global
            average pooling; 2 to 8; None leaves them float.

    Returns:
        A model of the same class; layers with a compressed kernel are wrapped in `layers.FakeQuantize` or
        `layers.Palettize`, and a `layers.QuantizeActivation` called `"<layer>_quantized"` follows each layer whose
        output is quantized (see `activation_plan`).

    Raises:
        TypeError: a subclassed model, or `recipe` is not a Recipe.
        ValueError: the model is not built or is already prepared; a pattern of the recipe matches nothing; a weight is
            NaN or infinite; a layer writes to its own kernel when called; `activation_bits` without an activation.

    Example:

    >>> from r2keras import QuantSpec
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> student = prepare(model, Recipe([("head", QuantSpec(num_bits=4))]))
    >>> type(student.get_layer("head")).__name__
    'FakeQuantize'
    """
    view = view_of(model)
    plan = plan_of(view, recipe)
    view = view if output_bits is None else with_bare_ends(view)
    return _prepared(view, plan, warned_plan(view, recipe, input_bits, output_bits)).model


def prepare_weights(view: ModelView, plan: WeightPlan) -> ModelView:
    """As `prepare`, with activations left float; `plan` is what `plan_of` returned."""
    return _prepared(view, plan, {})


def prepare_activations(view: ModelView, plan: dict[str, ActivationSpec]) -> ModelView:
    """As `prepare`, with weights left as they are; `plan` is what `activation_plan` returned."""
    return _prepared(view, {}, plan)


def _prepared(view: ModelView, plan: WeightPlan, activations: dict[str, ActivationSpec]) -> ModelView:
    """Returns a copy with the planned kernels wrapped and the planned activations followed by a quantizer."""

    def wrap(path: str, layer: keras.Layer) -> keras.Layer | None:
        if path not in plan:
            return None
        return wrapper_of(path, plan[path])(_inner(layer, plan[path]), plan[path])

    def append(path: str, name: str) -> keras.Layer | None:
        if path not in activations:
            return None
        return QuantizeActivation(activations[path], name=name + walk.QUANTIZED_SUFFIX)

    student = view_of(rebuild.rebuild(view, wrap, append=append if activations else None))
    for _, layer in wrappers(student):
        layer.initialize()
    return student


def _inner(layer: keras.Layer, specs: dict[str, Spec]) -> keras.Layer:
    """Returns the layer to wrap: a copy, which quantizes its state if it is recurrent and its spec says so."""
    return _recurrent.with_state(layer, next(iter(specs.values()))) or rebuild.copy_layer(layer)


def wrapper_of(path: str, specs: dict[str, Spec]) -> type[SpecifiedWeights]:
    """Returns the class of the wrapper for the specs of a layer's kernels."""
    palettes = [isinstance(spec, PaletteSpec) for spec in specs.values()]
    if any(palettes) and not all(palettes):
        raise ValueError(
            f"The recipe gives the layer {path!r} both palettes and uniform grids: {', '.join(map(repr, specs))}. "
            "Expected one kind of spec for all kernels of a layer. Let one rule match the whole layer."
        )
    return Palettize if palettes[0] else FakeQuantize


def finalize(student: keras.Model) -> tuple[keras.Model, CompressionRecord]:
    """Returns an ordinary Keras model whose weights lie exactly on their grids, and the record of codes and scales.

    Args:
        student: a model made by `prepare`, trained or not. It is left untouched.

    Returns:
        `(model, record)`: the model has no r2keras wrapper left; every recorded kernel equals the record's
        `values()`, `scale * (code - zero_point)` or table entries, bit for bit in float32. `record.notes` says how far
        the soft palettes of training are from the hard ones of the file, and which kernels have all-zero channels.
        Quantized activations stay, each as a `layers.GridActivation` without weights. If all of them have 8 bits,
        biases are rounded to whole steps `scale_in * scale_weight` of integer accumulators, by half a step at most:
        integer operators then compute the same.

    Raises:
        ValueError: nothing in the model is compressed, a weight is NaN or infinite, or an activation has no range yet.

    Example:

    >>> from r2keras import QuantSpec
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> plain, record = finalize(prepare(model, Recipe([("head", QuantSpec(num_bits=4))])))
    >>> bool((plain.get_layer("head").kernel.numpy() == record.tensors["head/kernel"].values()).all())
    True
    """
    result, record = finalized(view_of(student))
    return result.model, record


def finalized(view: ModelView) -> tuple[ModelView, CompressionRecord]:
    """Returns what `finalize` does, as views."""
    tensors, notes = _tensors(view)
    result = view_of(rebuild.rebuild(view, _unwrapped))
    for kernel in result.kernels:
        if kernel.full_name in tensors:
            _put(kernel.variable, tensors[kernel.full_name].values())
    reasons = _reasons(view)
    names = [kernel.full_name for kernel in result.kernels if kernel.full_name not in tensors]
    kept = {name: reasons.get(name, KEPT_FLOAT) for name in names}
    model = result.model
    record = CompressionRecord(tensors, kept, model.count_params(), model.name, _activations(result), notes)
    round_biases(result, record)
    return result, record


def _tensors(view: ModelView) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a prepared model's compressed kernels, and remarks on them, by full name.

    Raises:
        ValueError: see `finalize`.
    """
    tensors: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    wrapped = wrappers(view)
    if not wrapped and not any(_recurrent.quantized_parts(path, layer) for path, layer in view.layers):
        raise ValueError(
            f"The model {view.model.name!r} has no compressed layer. Expected a model that r2keras.prepare made. "
            "Call student = r2keras.prepare(model, recipe) first."
        )
    for path, wrapper in wrapped:
        own = wrapper.quantized_tensors(path)
        tensors |= {tensor.name: tensor for _, tensor in own}
        notes |= _remarks(wrapper, own)
    for path, layer in view.layers:
        tensors |= _recurrent.tensors(path, layer)
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


def _reasons(view: ModelView) -> dict[str, str]:
    """Returns why kernels that a spec is for stay float, by full name."""
    reasons: dict[str, str] = {}
    for path, layer in view.layers:
        reasons |= _recurrent.kept_float(path, layer)
    for path, wrapper in wrappers(view):
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


def freeze_activations(student: ModelView) -> tuple[ModelView, dict[str, QuantizedActivation]]:
    """Returns a copy of a model of `prepare_activations` with its activations on fixed grids, and the grids."""
    result = view_of(rebuild.rebuild(student, _unwrapped))
    return result, _activations(result)


def plan_of(model: keras.Model | ModelView, recipe: Recipe) -> WeightPlan:
    """Returns the specs of the kernels that a recipe compresses; checks the model and the recipe.

    Args:
        model: a built model, or its view.
        recipe: the recipe.

    Returns:
        Specs by layer path and kernel name.

    Raises:
        TypeError: `recipe` is not a Recipe, or the model is subclassed.
        ValueError: the model is already prepared, or not built; a pattern matches no kernel; a weight is not finite.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(invalid("recipe", "an r2keras.Recipe", recipe))
    view = view_of(model)
    plan: WeightPlan = {}
    names: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for path, layer in view.layers:
        if isinstance(layer, (SubstituteWeights, QuantizeActivation, GridActivation)):
            raise _compressed(path)
        compressed = {kernel.full_name for kernel, _ in _recurrent.compressors(path, layer)}
        for kernel in view.kernels_in(path):
            names.append((path, kernel.full_name))
            spec = recipe.match(path, kernel.full_name)
            if spec is None:
                continue
            if kernel.full_name in compressed:
                raise _compressed(kernel.full_name)
            check_finite(kernel.full_name, to_numpy(kernel.variable))
            plan.setdefault(path, {})[kernel.name] = spec
        if not view.kernels_in(path):
            others.append((path, path))
    check_patterns(recipe, names, others)
    return plan


def wrappers(model: keras.Model | ModelView) -> list[tuple[str, SubstituteWeights]]:
    """Returns the wrapped layers of a model with their paths."""
    return view_of(model).instances(SubstituteWeights)


def palettes_of(model: keras.Model | ModelView) -> list[tuple[str, Palettize]]:
    """Returns the layers of a prepared model that have palettes, with their paths."""
    return view_of(model).instances(Palettize)


def quantizers_of(model: keras.Model | ModelView) -> list[tuple[str, QuantizeActivation]]:
    """Returns the layers of a prepared model that quantize activations, with their paths."""
    return view_of(model).instances(QuantizeActivation)


def _activations(view: ModelView) -> dict[str, QuantizedActivation]:
    """Returns the grids of a finalized model's activations by the path of the layer that produces them."""
    grids: dict[str, QuantizedActivation] = {}
    for path, layer in view.instances(GridActivation):
        source = path.removesuffix(walk.QUANTIZED_SUFFIX)
        grids[source] = QuantizedActivation(source, layer.scale, layer.zero_point, layer.num_bits)
    for path, layer in view.layers:
        grids |= _recurrent.grids(path, layer)
    return grids


def _unwrapped(path: str, layer: keras.Layer) -> keras.Layer | None:
    """Returns a bare copy of a wrapped layer under the wrapper's name, or the fixed grid of an activation quantizer."""
    if isinstance(layer, QuantizeActivation):
        return layer.frozen()
    wrapped = isinstance(layer, SubstituteWeights)
    inner = layer.layer if wrapped else layer
    new = _recurrent.frozen(path, inner)
    if wrapped:
        new = new or rebuild.copy_layer(inner)
        new.name = layer.name
    return new


def _put(variable: keras.Variable, values: np.ndarray) -> None:
    """Assigns values, and raises unless the weight then holds them bit for bit."""
    variable.assign(values)
    if variable.dtype == "float32" and not np.array_equal(to_numpy(variable), values):
        raise RuntimeError(f"The weight {variable.path} did not take the values of the record exactly.")


def _compressed(path: str) -> ValueError:
    """Returns the error for a layer or kernel that is compressed already."""
    return ValueError(
        f"{path!r} is compressed already. Expected a plain model, or rules that leave it alone. "
        "Start from the model that you gave to r2keras.prepare."
    )


def check_patterns(recipe: Recipe, names: list[tuple[str, str]], others: list[tuple[str, str]]) -> None:
    """Raises for a pattern that matches no kernel, and, where it quantizes activations, no other layer either."""
    quantizes = any(spec is not None and spec.activation_bits for _, spec in recipe.rules)
    for pattern, spec in recipe.rules:
        wider = quantizes and (spec is None or spec.activation_bits)
        searched = names + others if wider else names
        if Recipe([(pattern, None)]).index(*[n for pair in searched for n in pair]) is None:
            known = ", ".join(full for _, full in names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(
                f"The pattern {pattern!r} of the recipe matches nothing. Expected a regular expression found in a "
                f"layer path or a kernel's name; biases, norms and statistics stay float. The model's kernels: "
                f"{known or 'none'}. Correct it or delete the rule."
            )
