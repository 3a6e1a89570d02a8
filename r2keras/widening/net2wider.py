"""`widen`: a copy of a model with more units or filters, and layers after them that accept these."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np

from r2keras._models import rebuild, walk
from r2keras._models.graph import Call, Graph, TensorKey
from r2keras._models.walk import ModelView, view_of
from r2keras._util.errors import check_pattern, invalid, invalid_part
from r2keras._util.numeric import as_number, is_finite
from r2keras.layers.recurrent.layers import QuantizedRNN
from r2keras.layers.wrappers.substitute import SubstituteWeights
from r2keras.widening import channel_rules, widened_call
from r2keras.widening.channels import (
    Channels,
    FixedWidthError,
    Inputs,
    ResizedLayer,
    merged,
    new_size,
    unchanged,
    wider_weight,
)


def widen(
    model: keras.Model,
    factor: float,
    *,
    match: str | None = None,
    function_preserving: bool = False,
    jitter: float = 0.1,
) -> keras.Model:
    """Returns a wider copy of a model: a layer with `units` units gets `round(factor * units)`.

    By default the recurrent layers are widened, and only they: Dense heads keep their units and get more inputs, and
    embeddings keep their dimension. In a model without recurrent layers, convolutions get more filters and dense layers
    more units. With `match`, the layers that it matches are widened instead, including embeddings. In every case a
    layer keeps its width if its output is a model output, is added to a tensor that keeps its size, or enters a nested
    model.

    Function-preserving (Net2Wider): new unit `j` copies old unit `j mod units` with its incoming weights (in each block
    of gates), bias and batch-norm parameters. The copies of a unit share its outgoing and recurrent weights,
    `w_j = s_j w`, where the shares `s_j` of one unit add up to 1. The outputs stay the same.

    Args:
        model: a built Functional or Sequential model; left untouched.
        factor: the ratio of new to old width; 1.5 turns 300 units into 450. A factor below 1 makes the model narrower.
        match: a regular expression, searched in the paths of layers, that selects the layers to widen. None selects the
            recurrent layers, or all convolutions and dense layers if there are none.
        function_preserving: True keeps the function and requires a `factor` of at least 1; False reinitializes every
            layer that has trainable weights.
        jitter: unevenness of the shares: `s_j` is proportional to `1 + jitter u` with `u` uniform in [-1, 1]. 0 gives
            equal shares, as in the paper; copies then stay identical in training unless dropout separates them.

    Returns:
        A model of the same class with the same layer names, compiled like `model` if that was compiled, with a fresh
        optimizer.

    Raises:
        TypeError: `model` is a subclassed model; `factor` or `jitter` is not a number.
        ValueError: `factor` gives zero units, or is below 1 with `function_preserving`; `match` finds no layer with a
            width; every layer to widen has to keep its width; an embedding is tied to the softmax; more channels cannot
            pass through a layer; the model is already prepared for compression; with `function_preserving`, a recurrent
            layer to widen quantizes or normalizes.

    Example:

    >>> layers = [keras.Input((5, 2)), keras.layers.LSTM(4, name="lstm"), keras.layers.Dense(3, name="head")]
    >>> wide = widen(keras.Sequential(layers), 1.5)
    >>> wide.get_layer("lstm").units, wide.output_shape, wide.count_params() - 3 * (6 + 1)
    (6, (None, 3), 216)

    Source: Chen et al., Net2Net, arXiv 1511.05641, section 2.2; widths for few bits: Kapur et al., arXiv 1710.07706.
    """
    factor, jitter = _checked_numbers(factor, function_preserving, jitter)
    return widened(view_of(model), factor, match=match, function_preserving=function_preserving, jitter=jitter)


def widened(
    view: ModelView, factor: float, *, match: str | None, function_preserving: bool = False, jitter: float = 0.0
) -> keras.Model:
    """Like `widen`, for the view of a model."""
    layers = view.layers_by_path
    _check_bare(layers)
    for tie in view.ties:
        raise tie.error("so that wider weights would have to fit both")
    widths = _new_widths(layers, factor, match)
    resized = _resized_layers(view, widths, match, function_preserving)
    if function_preserving:
        _check_units_are_independent({path: layers[path] for path, plan in resized.items() if plan.axes})
    rng = np.random.default_rng(0)

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        plan = resized.get(path)
        return None if plan is None or plan.config is None else type(layer).from_config(plan.config)

    def carry(path: str, old: keras.Layer, new: keras.Layer) -> None:
        if function_preserving and path in resized and resized[path].axes:
            _assign_wider_weights(old, new, resized[path], jitter, rng)
        elif function_preserving or not old.trainable_weights:
            rebuild.transfer(path, old, new)

    return rebuild.rebuild(view, replace, carry=carry)


def _checked_numbers(factor: object, function_preserving: bool, jitter: object) -> tuple[float, float]:
    """Returns factor and jitter as plain numbers; raises for one out of range."""
    return _checked_factor(factor, function_preserving), _checked_jitter(jitter)


def _checked_factor(value: object, function_preserving: bool) -> float:
    """Returns the factor as a plain number."""
    factor = as_number(value)
    if factor is None:
        raise TypeError(invalid("factor", "a number", value))
    if not (is_finite(factor) and factor > 0):
        raise ValueError(invalid("factor", "a number above 0", factor))
    if function_preserving and factor < 1:
        fix = "Leave out function_preserving to get a narrower model with fresh weights"
        raise ValueError(invalid("factor", "at least 1 with function_preserving=True", factor, fix))
    return factor


def _checked_jitter(value: object) -> float:
    """Returns the jitter as a plain number."""
    jitter = as_number(value)
    if jitter is None:
        raise TypeError(invalid("jitter", "a number", value))
    if not 0 <= jitter < 1:
        raise ValueError(invalid("jitter", "a number from 0, below 1", jitter))
    return jitter


def _check_bare(layers: dict[str, keras.Layer]) -> None:
    """Raises for a model that is already prepared for compression."""
    for path, layer in layers.items():
        if isinstance(layer, SubstituteWeights):
            received = f"a model whose layer {path!r} is prepared for compression"
            fix = "Widen first, then call r2keras.prepare on the wider model"
            raise ValueError(invalid_part("model", "a plain model", received, fix))


def _check_units_are_independent(layers: dict[str, keras.Layer]) -> None:
    """Raises for recurrent layers whose units depend on one another, so that copies would change the outputs."""
    for path, layer in layers.items():
        if isinstance(layer, keras.layers.Bidirectional):
            parts = [layer.forward_layer, layer.backward_layer]
        else:
            parts = [layer]
        if any(isinstance(part, QuantizedRNN) and (part.specs.any or part.normalization) for part in parts):
            received = (
                f"a model whose layer {path!r} quantizes or normalizes over its units, so that copies of units would "
                "change its outputs"
            )
            fix = (
                "Widen the float model, then quantize the wider one, or leave out function_preserving to get fresh "
                "weights"
            )
            raise ValueError(invalid_part("model", "float layers with function_preserving=True", received, fix))


def _new_widths(layers: dict[str, keras.Layer], factor: float, match: str | None) -> dict[str, int]:
    """Returns the new widths of the layers to widen, by path."""
    selected = _selected(layers, match)
    if not selected:
        expected = "recurrent, convolutional or dense layers" if match is None else f"a layer that {match!r} matches"
        known = ", ".join(path for path, layer in layers.items() if widened_call.width_of(layer) is not None) or "none"
        argument = "model" if match is None else "match"
        received = f"{'a model' if match is None else repr(match)} with nothing to widen"
        raise ValueError(invalid_part(argument, expected, received, f"Layers of the model with a width: {known}"))
    widths: dict[str, int] = {}
    for path, layer in selected.items():
        units = widened_call.width_of(layer)
        if units is None:
            continue
        widths[path] = width = new_size(units, factor)
        if width < 1:
            fix = f"Pass factor={1 / units:g} or more"
            raise ValueError(invalid("factor", f"a width of at least 1 for {path!r}, which has {units}", factor, fix))
    return widths


def _selected(layers: dict[str, keras.Layer], match: str | None) -> dict[str, keras.Layer]:
    """Returns the layers that `match` selects, by path."""
    if match is None:
        recurrent = {path: layer for path, layer in layers.items() if widened_call.is_recurrent(layer)}
        if recurrent:
            return recurrent
        # A layer of one unit or filter is a gate or a mask that is broadcast, so it stays.
        return {
            path: layer
            for path, layer in layers.items()
            if widened_call.is_image_kind(layer) and (widened_call.width_of(layer) or 0) > 1
        }
    pattern = check_pattern("match", match)
    matching = {path: layer for path, layer in layers.items() if pattern.search(path)}
    return {path: layer for path, layer in matching.items() if widened_call.width_of(layer) is not None}


def _resized_layers(view: ModelView, widths: dict[str, int], match: str | None, exact: bool) -> dict[str, ResizedLayer]:
    """Returns the changes of each layer; removes layers that have to keep their width until the others fit."""
    widths = dict(widths)
    while widths:
        try:
            return _propagate(view, widths, exact)
        except FixedWidthError as error:
            for path in error.sources:
                widths.pop(path, None)
    selection = "" if match is None else f" that {match!r} matches"
    received = (
        f"layers of {view.model.name!r}{selection}, each of which has to keep its width: its output is a model output, "
        "is added to a tensor that keeps its size, or enters a nested model"
    )
    argument = "model" if match is None else "match"
    raise ValueError(invalid_part(argument, "hidden layers to widen", received, "Match other layers with `match`"))


def _propagate(view: ModelView, widths: dict[str, int], exact: bool) -> dict[str, ResizedLayer]:
    """Computes the channels of every tensor of the model, in the order of the calls, and the changes of its layers."""
    graph = view.graph
    channels_of: dict[TensorKey, Channels | None] = {}
    input_sizes = {tensor.name: tensor.shape[-1] for tensor in view.model.inputs if len(tensor.shape) > 1}
    masks: set[int] = set()
    resized: dict[str, ResizedLayer] = {}
    outputs: Inputs
    for call in graph.calls:
        tensors = [tensor for tensor in call.inputs if tensor[0] not in masks]
        inputs = [channels_of.get(tensor) for tensor in tensors]
        _check_nested_inputs(graph, call, zip(tensors, inputs, strict=True))
        if call.kind in channel_rules.MASKS:
            masks.add(call.number)
            outputs = []
        elif call.kind == "InputLayer":
            size = input_sizes.get(call.path)
            outputs = [unchanged(size)] if size else [None]
        else:
            outputs = _outputs(call, inputs, widths.get(call.path), exact, resized)
        channels_of |= {(call.number, index): channels for index, channels in enumerate(outputs)}
    ends = [channels_of.get(tensor) for tensor in graph.outputs]
    fixed = frozenset().union(*(channels.sources for channels in ends if channels is not None))
    if fixed:
        raise FixedWidthError(fixed)
    return resized


def _outputs(
    call: Call, inputs: Inputs, units: int | None, exact: bool, resized: dict[str, ResizedLayer]
) -> list[Channels | None]:
    """Returns the channels of one call's outputs, and adds the changes of its layer to `resized`."""
    if call.layer is None and channel_rules.operation_rule(call.kind):
        return [merged(inputs)]
    widened = widened_call.WidenedCall(call.path, call.layer, inputs, units, exact)
    outputs = channel_rules.run(widened)
    first = resized.setdefault(call.path, widened.resized)
    if not first.same_as(widened.resized):
        raise widened.error("is shared, and its calls get different channels")
    return outputs


def _check_nested_inputs(graph: Graph, call: Call, inputs: Iterable[tuple[TensorKey, Channels | None]]) -> None:
    """Raises for wider channels that enter a nested model, whose inputs have fixed sizes in its config.

    Args:
        graph: the calls of the model.
        call: the call that takes the inputs.
        inputs: its input tensors with their channels.
    """
    for tensor, channels in inputs:
        entered = not graph.producer(tensor).prefix.startswith(call.prefix)
        if entered and channels is not None and channels.sources:
            raise FixedWidthError(channels.sources)


def _assign_wider_weights(
    old: keras.Layer, new: keras.Layer, plan: ResizedLayer, jitter: float, rng: np.random.Generator
) -> None:
    """Gives a wider layer the weights with which the model computes the same function."""
    for (name, source), target in zip(walk.relative_weights(old), new.weights, strict=True):
        values = keras.ops.convert_to_numpy(source)
        axes = plan.axes.get(name)
        target.assign(values if axes is None else wider_weight(np.asarray(values), axes, jitter, rng))
