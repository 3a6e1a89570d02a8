"""The steps of compression: `prepare` a model for training under a recipe, `finalize` it onto the grid."""

from __future__ import annotations

import keras
import numpy as np

from r2keras import _model, _recurrent
from r2keras._accumulators import round_biases
from r2keras._errors import invalid
from r2keras.layers.fake_quantize import FakeQuantize
from r2keras.layers.palettize import Palettize
from r2keras.layers.quantize_activation import GridActivation, QuantizeActivation
from r2keras.layers.specified import SpecifiedWeights
from r2keras.layers.substitute import SubstituteWeights
from r2keras.palette_spec import PaletteSpec
from r2keras.placement import activation_plan, with_bare_ends
from r2keras.quantizers.axes import output_axes
from r2keras.recipe import Recipe, Spec
from r2keras.record import CompressionRecord, QuantizedActivation, Tensor
from r2keras.specs import ActivationSpec

KEPT_FLOAT = "no rule of the recipe compresses it"
QUANTIZED = "_quantized"


def prepare(
    model: keras.Model, recipe: Recipe, *, input_bits: int | None = None, output_bits: int | None = None
) -> keras.Model:
    """Returns a copy of a model that trains under compression: what the recipe names is fake-quantized.

    Weights, regularizers, names and (if the model is compiled) the compile settings are carried over; the optimizer
    starts fresh. Ranges of weights are set from the weights, those of activations by the first training batch.

    Args:
        model: a built Functional or Sequential model, nested ones included. It is left untouched.
        recipe: what becomes what.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.
        output_bits: bits of what else a file on integers from end to end rounds: the model's outputs, before a last
            softmax, sigmoid or tanh (which becomes a layer of its own, `"<layer>_softmax"`), and averages over all of
            an image; 2 to 8; None leaves them float.

    Returns:
        A model of the same class; layers with a compressed kernel are wrapped in `layers.FakeQuantize` or
        `layers.Palettize`, and a `layers.QuantizeActivation` called `"<layer>_quantized"` follows each layer whose
        output is quantized (`activation_plan` says which).

    Raises:
        TypeError: a subclassed model, or `recipe` is no Recipe.
        ValueError: the model is not built or is prepared already; a pattern of the recipe matches nothing; a weight
            is NaN or infinite; a layer writes to its own kernel when called; `activation_bits` without an activation.

    Example:

    >>> from r2keras import QuantSpec
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> student = prepare(model, Recipe([("head", QuantSpec(num_bits=4))]))
    >>> type(student.get_layer("head")).__name__
    'FakeQuantize'
    """
    plan = plan_of(model, recipe)
    activations = activation_plan(model, recipe, input_bits=input_bits, output_bits=output_bits)
    return _prepared(model if output_bits is None else with_bare_ends(model), plan, activations)


def prepare_weights(model: keras.Model, recipe: Recipe) -> keras.Model:
    """As `prepare`, with activations left float."""
    return _prepared(model, plan_of(model, recipe), {})


def prepare_activations(model: keras.Model, plan: dict[str, ActivationSpec]) -> keras.Model:
    """As `prepare`, with weights left as they are; `plan` is what `activation_plan` returned."""
    return _prepared(model, {}, plan)


def _prepared(
    model: keras.Model, plan: dict[str, dict[str, Spec]], activations: dict[str, ActivationSpec]
) -> keras.Model:
    """Returns a copy with the planned kernels wrapped and the planned activations followed by a quantizer."""

    def wrap(path: str, layer: keras.Layer) -> keras.Layer | None:
        if path not in plan:
            return None
        return wrapper_of(path, plan[path])(_inner(layer, plan[path]), plan[path])

    def append(path: str) -> keras.Layer | None:
        name = path.rpartition("/")[2] + QUANTIZED
        return QuantizeActivation(activations[path], name=name) if path in activations else None

    student = _model.rebuild(model, wrap, append=append if activations else None)
    for _, layer in wrappers(student):
        layer.initialize()
    return student


def _inner(layer: keras.Layer, specs: dict[str, Spec]) -> keras.Layer:
    """Returns the layer to wrap: a copy, which quantizes its state if it is a recurrent one and the specs say so."""
    return _recurrent.with_state(layer, next(iter(specs.values()))) or _recurrent.copy_of(layer)


def wrapper_of(path: str, specs: dict[str, Spec]) -> type[SpecifiedWeights]:
    """Returns the class that wraps a layer for the specs of its kernels."""
    palettes = [isinstance(spec, PaletteSpec) for spec in specs.values()]
    if any(palettes) and not all(palettes):
        raise ValueError(
            f"The recipe gives the layer {path!r} both palettes and uniform grids: {', '.join(map(repr, specs))}. "
            "Expected one kind for all kernels of a layer. Let one rule match the whole layer."
        )
    return Palettize if palettes[0] else FakeQuantize


def finalize(student: keras.Model) -> tuple[keras.Model, CompressionRecord]:
    """Returns an ordinary Keras model whose weights lie exactly on their grids, and the record of codes and scales.

    Args:
        student: a model made by `prepare`, trained or not. It is left untouched.

    Returns:
        `(model, record)`: the model has no r2keras wrapper left; every recorded kernel equals the record's
        `values()`, `scale * (code - zero_point)` or table entries, bit for bit in float32. `record.notes` says how far
        the soft palettes of training and the hard ones of the file are apart, and which kernels have channels that are
        all zero. Quantized activations stay, each as a `layers.GridActivation` without weights. Where all of them have
        8 bits, biases move to whole steps `scale_in * scale_weight` of integer accumulators, by half a step at most:
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
    model, tensors = unwrapped(student)
    notes, reasons = _remarks(student, tensors)
    kept = {name: reasons.get(name, KEPT_FLOAT) for name in kernel_names(model) if name not in tensors}
    record = CompressionRecord(tensors, kept, model.count_params(), model.name, _activations(model), notes)
    round_biases(model, record)
    return model, record


def _remarks(student: keras.Model, tensors: dict[str, Tensor]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns what wrappers remark on compressed kernels, and why they left others float, by full names."""
    notes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for path, layer in _model.leaf_layers(student):
        reasons |= _recurrent.kept_float(path, layer)
    for path, wrapper in wrappers(student):
        own = [(name.removeprefix(f"{path}/"), t) for name, t in tensors.items() if name.startswith(f"{path}/")]
        remarks = wrapper.notes(own)
        kernels = dict(_model.kernels(wrapper.layer))
        for name, _ in own:
            parts = [remarks.get(name), dead_channels(wrapper.layer, kernels[name])]
            notes |= {f"{path}/{name}": "; ".join(filter(None, parts))} if any(parts) else {}
        reasons |= {f"{path}/{name}": reason for name, reason in wrapper.kept_float().items()}
    return notes, reasons


def dead_channels(layer: keras.Layer, kernel: keras.Variable) -> str | None:
    """Returns a remark on a kernel some of whose output channels are all zero; None if there are none.

    Args:
        layer: the layer that holds the kernel.
        kernel: it; the rows of an embedding are words, and may be zero.
    """
    axes = output_axes(layer, kernel)
    values = _model.to_numpy(kernel)
    rest = tuple(axis for axis in range(values.ndim) if axis not in axes)
    dead = np.count_nonzero(~values.any(axis=rest))
    if not dead or axes == (0,):
        return None
    count = int(np.prod([values.shape[axis] for axis in axes]))
    return f"{dead} of {count} output channels are all zero: they pass nothing of their input on"


def unwrapped(student: keras.Model) -> tuple[keras.Model, dict[str, Tensor]]:
    """Returns a copy of a prepared model with plain layers and grid values in them, and the tensors these come from.

    Args:
        student: a model made by `prepare`.

    Returns:
        The model and its quantized tensors by name.

    Raises:
        ValueError: see `finalize`.
    """
    wrapped, layers = wrappers(student), _model.leaf_layers(student)
    if not wrapped and not any(_recurrent.quantized_parts(path, layer) for path, layer in layers):
        raise ValueError(
            f"The model {student.name!r} has no compressed layer. Expected a model that r2keras.prepare made. "
            "Call student = r2keras.prepare(model, recipe) first."
        )
    tensors = {f"{path}/{name}": t for path, w in wrapped for name, t in w.quantized_tensors(path)}
    for path, layer in layers:
        tensors |= _recurrent.tensors(path, layer)
    model = _model.rebuild(student, _unwrapped)
    for path, layer in _model.leaf_layers(model):
        for name, variable in _model.kernels(layer):
            if f"{path}/{name}" in tensors:
                _put(variable, tensors[f"{path}/{name}"].values())
    return model, tensors


def freeze_activations(student: keras.Model) -> tuple[keras.Model, dict[str, QuantizedActivation]]:
    """Returns a copy of a model of `prepare_activations` with its activations on fixed grids, and the grids."""
    model = _model.rebuild(student, _unwrapped)
    return model, _activations(model)


def plan_of(model: keras.Model, recipe: Recipe) -> dict[str, dict[str, Spec]]:
    """Returns what a recipe does to a model, having checked both.

    Args:
        model: a built model.
        recipe: what becomes what.

    Returns:
        Specs by layer path and kernel name.

    Raises:
        TypeError: `recipe` is no Recipe, or the model is subclassed.
        ValueError: the model is prepared already or not built; a pattern matches no kernel; a weight is not finite.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(invalid("recipe", "an r2keras.Recipe", recipe))
    plan: dict[str, dict[str, Spec]] = {}
    names: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for path, layer in _model.leaf_layers(model):
        if isinstance(layer, (SubstituteWeights, QuantizeActivation, GridActivation)):
            raise _compressed(path)
        own = _recurrent.compressors(path, layer)
        for name, variable in _model.kernels(layer):
            full = f"{path}/{name}"
            names.append((path, full))
            spec = recipe.match(path, full)
            if spec is not None and full in own:
                raise _compressed(full)
            if spec is not None:
                _model.check_finite(full, _model.to_numpy(variable))
                plan.setdefault(path, {})[name] = spec
        if not _model.kernels(layer):
            others.append((path, path))
    check_patterns(recipe, names, others)
    return plan


def wrappers(model: keras.Model) -> list[tuple[str, SubstituteWeights]]:
    """Returns the wrapped layers of a model with their paths."""
    return [(path, layer) for path, layer in _model.leaf_layers(model) if isinstance(layer, SubstituteWeights)]


def palettes_of(model: keras.Model) -> list[tuple[str, Palettize]]:
    """Returns the layers of a prepared model that have palettes, with their paths."""
    return [(path, layer) for path, layer in wrappers(model) if isinstance(layer, Palettize)]


def kernel_names(model: keras.Model) -> list[str]:
    """Returns the full names of a model's kernels."""
    return [f"{path}/{name}" for path, layer in _model.leaf_layers(model) for name, _ in _model.kernels(layer)]


def quantizers_of(model: keras.Model) -> list[tuple[str, QuantizeActivation]]:
    """Returns the layers of a prepared model that quantize activations, with their paths."""
    return [(path, layer) for path, layer in _model.leaf_layers(model) if isinstance(layer, QuantizeActivation)]


def _activations(model: keras.Model) -> dict[str, QuantizedActivation]:
    """Returns the grids of a finalized model's activations by the path of the layer that makes them."""
    layers = [(p, layer) for p, layer in _model.leaf_layers(model) if isinstance(layer, GridActivation)]
    named = ((path.removesuffix(QUANTIZED), layer) for path, layer in layers)
    grids = {path: QuantizedActivation(path, a.scale, a.zero_point, a.num_bits) for path, a in named}
    for path, layer in _model.leaf_layers(model):
        grids |= _recurrent.grids(path, layer)
    return grids


def _unwrapped(path: str, layer: keras.Layer) -> keras.Layer | None:
    """Returns a bare copy of a wrapped layer under the wrapper's name, or a quantizer of activations frozen."""
    if isinstance(layer, QuantizeActivation):
        return layer.frozen()
    wrapped = isinstance(layer, SubstituteWeights)
    inner = layer.layer if wrapped else layer
    new = _recurrent.frozen(path, inner)
    if wrapped:
        new = new or _recurrent.copy_of(inner)
        new.name = layer.name
    return new


def _put(variable: keras.Variable, values: np.ndarray) -> None:
    """Assigns values and makes sure that they arrived bit for bit."""
    variable.assign(values)
    if variable.dtype == "float32" and not np.array_equal(_model.to_numpy(variable), values):
        raise RuntimeError(f"The weight {variable.path} did not take the values of the record exactly.")


def _compressed(path: str) -> ValueError:
    """Returns the error for a layer or a kernel that compression made."""
    return ValueError(
        f"{path!r} is compressed already. Expected a plain model, or rules that leave it alone. "
        "Start from the model that you gave to r2keras.prepare."
    )


def check_patterns(recipe: Recipe, names: list[tuple[str, str]], others: list[tuple[str, str]]) -> None:
    """Raises for a pattern found in no kernel's name, nor in another layer's where activations are quantized."""
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
