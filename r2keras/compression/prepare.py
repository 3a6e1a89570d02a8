"""`prepare`: a copy of a model for training under compression."""

from __future__ import annotations

import keras

from r2keras._models import rebuild, walk
from r2keras._models.keras_internals import parts_of
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import invalid_part
from r2keras.compression import integer_forms, recurrent
from r2keras.compression.activation_plan import integer_ends, warned_plan, with_layers_to_round
from r2keras.compression.dynamic_plan import settled
from r2keras.compression.edges import with_edges
from r2keras.compression.storage_hints import log_storage_hints
from r2keras.compression.students import wrappers
from r2keras.compression.weight_plan import WeightPlan, plan_of
from r2keras.layers.quantize_activation import QuantizeActivation
from r2keras.layers.wrappers.any_layer import never_writes
from r2keras.layers.wrappers.by_spec import SpecifiedWeights
from r2keras.layers.wrappers.fake_quantize import FakeQuantize
from r2keras.layers.wrappers.palettize import Palettize
from r2keras.specs import ActivationSpec, PaletteSpec, Recipe, Spec


def prepare(
    model: keras.Model,
    recipe: Recipe,
    *,
    input_bits: int | None = None,
    output_bits: int | None = None,
    integer: bool = False,
) -> keras.Model:
    """Returns a copy of a model for training under compression: kernels that the recipe matches are fake-quantized.

    Weights, regularizers, names and (if the model is compiled) the compile settings are carried over; the optimizer
    starts fresh. Ranges of weights are set from the weights, those of activations by the first training batch.

    Args:
        model: a built Functional or Sequential model, nested ones included. It is left untouched.
        recipe: the specs of kernels and activations.
        input_bits: bits of the model's float inputs, 2 to 8; None leaves them float.
        output_bits: bits of the other tensors that an integer-only file rounds: the model's outputs, before a final
            softmax, sigmoid or tanh (which becomes a separate layer, `"<layer>_softmax"`), and the results of global
            average pooling; 2 to 8; None leaves them float.
        integer: whether the model is for a fully integer file: sets both to 8. The recipe needs `activation_bits=8`, as
            in `Recipe.int8()`.

    Returns:
        A model of the same class; layers with a compressed kernel are wrapped in `layers.FakeQuantize` or
        `layers.Palettize`, and a `layers.QuantizeActivation` called `"<layer>_quantized"` follows each layer whose
        output is quantized (see `activation_plan`). Under `activation_method="dynamic"`, products round the rows of
        their input instead, also those inside attention layers, `TimeDistributed` and separable convolutions; other
        kernels under it (convolutions of more than one pixel, embeddings, layers that are not Keras' own) are only
        compressed.

    Hints are logged, once: on bits that a file stores in wider containers, and on palettes larger than grids.

    Raises:
        TypeError: a subclassed model, or `recipe` is not a Recipe.
        ValueError: the model is not built or is already prepared; a pattern of the recipe matches nothing; a weight is
            NaN or infinite; a layer writes to its own kernel when called; `activation_bits` without an activation, or
            `activation_method="dynamic"` without a product; a layer's `get_config()` does not create it again; two
            layers share a weight and neither holds the other one.

    Warns:
        UserWarning: a rule that never applies, or that names a layer and takes others whose names continue it.

    Example:

    >>> from r2keras import QuantSpec
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> student = prepare(model, Recipe([("head", QuantSpec(num_bits=4))]))
    >>> type(student.get_layer("head")).__name__
    'FakeQuantize'
    """
    view = view_of(model)
    recipe = with_edges(recipe, view)
    input_bits, output_bits = integer_ends(integer, recipe, input_bits, output_bits)
    plan = settled(plan_of(view, recipe), view, recipe)
    view = with_layers_to_round(view, recipe, output_bits)
    plan = integer_forms.translated(plan, view)
    log_storage_hints(view, plan)
    return _prepared(view, plan, warned_plan(view, recipe, input_bits, output_bits)).model


def prepare_weights(view: ModelView, plan: WeightPlan) -> ModelView:
    """Prepares the weights alone, by a plan of `weight_plan.plan_of`; activations stay float."""
    return _prepared(view, plan, {})


def wrappers_around(view: ModelView, plan: WeightPlan) -> list[tuple[str, SpecifiedWeights]] | None:
    """Returns wrappers around the layers of a model itself, which is not copied, with their paths.

    Args:
        view: a plain model; left untouched.
        plan: a plan of `weight_plan.plan_of`.

    Returns:
        The wrappers that `prepare_weights` would make, with the same ranges. None if they need a copy of the model: a
        recurrent layer that quantizes its state is another layer, tied weights need wrappers that know of each other,
        and only a call shows whether a layer that is not Keras' own writes to its kernel.
    """
    if view.ties:
        return None
    planned = [(path, layer, plan[path]) for path, layer in view.layers if path in plan]
    for _, layer, specs in planned:
        if not never_writes(layer) or recurrent.with_state(layer, next(iter(specs.values()))) is not None:
            return None
    return [(path, wrapper_of(path, specs)(layer, specs)) for path, layer, specs in planned]


def _prepared(view: ModelView, plan: WeightPlan, activations: dict[str, ActivationSpec]) -> ModelView:
    """Returns a copy with the planned kernels wrapped and the planned activations followed by a quantizer."""
    tied_paths = {tie.path for tie in view.ties}
    wrapped: dict[int, SpecifiedWeights] = {}

    def wrap(path: str, layer: keras.Layer) -> keras.Layer | None:
        if path not in plan and path not in tied_paths:
            return None
        specs = plan.get(path, {})
        inner = _inner(layer, specs)
        tied = [wrapped[id(part)] for part in parts_of(inner) if id(part) in wrapped]
        if not specs and not tied:
            return inner
        wrapped[id(inner)] = wrapper_of(path, specs)(inner, specs, tied=tied)
        # `initialize` below sets the ranges, when the weights have arrived.
        wrapped[id(inner)].starts_later = True
        return wrapped[id(inner)]

    def append(path: str, name: str) -> keras.Layer | None:
        if path not in activations:
            return None
        return QuantizeActivation(activations[path], name=name + walk.QUANTIZED_SUFFIX)

    student = view_of(rebuild.rebuild(view, wrap, append=append if activations else None))
    for _, layer in wrappers(student):
        layer.initialize()
    return student


def _inner(layer: keras.Layer, specs: dict[str, Spec]) -> keras.Layer:
    """Returns the layer to wrap: a copy; a recurrent one quantizes its state if its spec has `activation_bits`."""
    with_state = recurrent.with_state(layer, next(iter(specs.values()))) if specs else None
    return with_state or rebuild.copy_layer(layer)


def wrapper_of(path: str, specs: dict[str, Spec]) -> type[SpecifiedWeights]:
    """Returns the class of the wrapper for the specs of a layer's kernels."""
    palettes = [isinstance(spec, PaletteSpec) for spec in specs.values()]
    if any(palettes) and not all(palettes):
        received = f"rules that give the layer {path!r} both palettes and uniform grids: {', '.join(map(repr, specs))}"
        fix = "Let one rule match the whole layer"
        raise ValueError(invalid_part("recipe", "one kind of spec for all kernels of a layer", received, fix))
    return Palettize if any(palettes) else FakeQuantize
