"""`widen`: a model with more units or filters, and the layers that they feed adapted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from r2keras import _model
from r2keras._errors import invalid
from r2keras._graph import Call, Tensor, graph_of
from r2keras.layers.recurrent import QuantizedRNN
from r2keras.layers.substitute import SubstituteWeights
from r2keras.widening import kinds
from r2keras.widening.channels import Channels, FixedError, Resized, kept, new_size, wider_weight


def widen(
    model: keras.Model,
    factor: float,
    *,
    match: str | None = None,
    function_preserving: bool = False,
    jitter: float = 0.1,
) -> keras.Model:
    """Returns a wider copy of a model: `round(factor * units)` units where there were `units`.

    In a model with recurrent layers these are widened, and nothing else: Dense heads keep their units and get more
    inputs, embeddings keep their dimension. In a model without any, the filters of convolutions and the units of
    dense layers are. What `match` names is widened instead, embeddings too. A layer keeps its width nevertheless if
    its output is the model's, is added to a tensor that stays, or enters a nested model.

    Function-preserving (Net2Wider): new unit `j` copies old unit `j mod units`, with its incoming weights (in each
    block of gates), bias and batch-norm parameters; the copies share the old unit's outgoing and recurrent weights,
    `w_j = s_j w` with the `s_j` of one unit adding up to 1. The outputs stay the same.

    Args:
        model: a built Functional or Sequential model; left untouched.
        factor: how many times wider; 1.5 makes 300 units 450. Below 1 the model gets narrower.
        match: a regular expression, searched in the paths of layers: those found are widened. None takes the recurrent
            layers, or all convolutions and dense layers where there are none.
        function_preserving: True takes the weights over and needs a `factor` of at least 1; False starts all layers
            that train from fresh weights.
        jitter: how uneven shares are, `s_j` proportional to `1 + jitter u`, `u` uniform in [-1, 1]; 0 divides evenly,
            as the paper does, after which copies that no dropout tells apart stay copies in training.

    Returns:
        A model of the same class, with the same names, compiled like `model` if that was compiled (fresh optimizer).

    Raises:
        TypeError: a subclassed model.
        ValueError: a factor that gives zero units, or below 1 with `function_preserving`; `match` finds no layer that
            has a width; every layer found has to keep its own; an embedding tied to the softmax; a layer between that
            more channels cannot go through; a model that is prepared for compression already; a recurrent layer that
            quantizes or normalises, with `function_preserving`.

    Example:

    >>> layers = [keras.Input((5, 2)), keras.layers.LSTM(4, name="lstm"), keras.layers.Dense(3, name="head")]
    >>> wide = widen(keras.Sequential(layers), 1.5)
    >>> wide.get_layer("lstm").units, wide.output_shape, wide.count_params() - 3 * (6 + 1)
    (6, (None, 3), 216)

    Source: Chen et al., Net2Net, arXiv 1511.05641, section 2.2; widths for few bits: Kapur et al., arXiv 1710.07706.
    """
    _check_numbers(factor, function_preserving, jitter)
    layers = dict(_model.leaf_layers(model))
    _check_bare(layers)
    resized = _resized(model, _widths(layers, factor, match), match, function_preserving)
    if function_preserving:
        _check_copies({path: layers[path] for path, plan in resized.items() if plan.axes})
    rng = np.random.default_rng(0)

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        plan = resized.get(path)
        return None if plan is None or plan.config is None else type(layer).from_config(plan.config)

    def carry(path: str, old: keras.Layer, new: keras.Layer) -> None:
        if function_preserving and path in resized and resized[path].axes:
            _carry_wider(old, new, resized[path], jitter, rng)
        elif function_preserving or not old.trainable_weights:
            _model.transfer(path, old, new)

    return _model.rebuild(model, replace, carry=carry)


def _check_numbers(factor: Any, function_preserving: bool, jitter: Any) -> None:
    """Raises for a factor or a jitter out of range."""
    for name, value in (("factor", factor), ("jitter", jitter)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(invalid(name, "a number", value))
    if not 0 < factor < math.inf:
        raise ValueError(invalid("factor", "a number above 0", factor))
    if function_preserving and factor < 1:
        fix = "Leave function_preserving out to start a narrower model afresh"
        raise ValueError(invalid("factor", "at least 1 with function_preserving=True", factor, fix))
    if not 0 <= jitter < 1:
        raise ValueError(invalid("jitter", "a number from 0, below 1", jitter))


def _check_bare(layers: dict[str, keras.Layer]) -> None:
    """Raises for a model that compression has begun with."""
    for path, layer in layers.items():
        if isinstance(layer, SubstituteWeights):
            raise ValueError(
                f"The layer {path!r} is prepared for compression. Expected a plain model. "
                "Widen first, then call r2keras.prepare on the wider model."
            )


def _check_copies(layers: dict[str, keras.Layer]) -> None:
    """Raises for recurrent layers whose units depend on one another, so that copies would not compute the same."""
    for path, layer in layers.items():
        parts = (
            [layer.forward_layer, layer.backward_layer] if isinstance(layer, keras.layers.Bidirectional) else [layer]
        )
        if any(isinstance(part, QuantizedRNN) and (part.specs.any or part.normalization) for part in parts):
            raise ValueError(
                f"The layer {path!r} quantizes or normalises, which copies of its units would change. Expected float "
                "layers with function_preserving=True. Widen the float model, then quantize the wider one, or leave "
                "function_preserving out to start afresh."
            )


def _widths(layers: dict[str, keras.Layer], factor: float, match: str | None) -> dict[str, int]:
    """Returns the new widths of the layers that are to be widened, by path."""
    found = _chosen(layers, match)
    if not found:
        expected = (
            "recurrent, convolutional or dense layers" if match is None else f"a layer that {match!r} is found in"
        )
        known = ", ".join(path for path, layer in layers.items() if kinds.width_of(layer) is not None) or "none"
        raise ValueError(f"There is nothing to widen. Expected {expected}. Layers of the model with a width: {known}.")
    widths = {path: new_size(kinds.width_of(layer), factor) for path, layer in found.items()}
    for path, width in widths.items():
        if width < 1:
            units = kinds.width_of(layers[path])
            fix = f"Pass factor={1 / units:g} or more"
            raise ValueError(invalid("factor", f"a width of at least 1 for {path!r}, which has {units}", factor, fix))
    return widths


def _chosen(layers: dict[str, keras.Layer], match: str | None) -> dict[str, keras.Layer]:
    """Returns the layers that the caller means, by path."""
    if match is None:
        recurrent = {path: layer for path, layer in layers.items() if kinds.is_recurrent(layer)}
        # A single unit is a gate or a mask, which has to stay one.
        wide = {p: layer for p, layer in layers.items() if kinds.is_image_kind(layer) and kinds.width_of(layer) > 1}
        return recurrent or wide
    try:
        pattern = re.compile(match)
    except (re.error, TypeError) as error:
        raise ValueError(invalid("match", f"a regular expression ({error})", match)) from error
    return {p: layer for p, layer in layers.items() if pattern.search(p) and kinds.width_of(layer) is not None}


def _resized(model: keras.Model, widths: dict[str, int], match: str | None, exact: bool) -> dict[str, Resized]:
    """Returns what becomes of each layer; layers that must keep their width are taken out until the rest fits."""
    widths = dict(widths)
    while widths:
        try:
            return _propagate(model, widths, exact)
        except FixedError as error:
            for path in error.sources:
                widths.pop(path, None)
    named = "" if match is None else f" that {match!r} is found in"
    raise ValueError(
        f"Every layer of {model.name!r}{named} has to keep its width: its output is the model's, is added to a tensor "
        "that stays, or enters a nested model. Expected hidden layers. Name others in `match`."
    )


def _propagate(model: keras.Model, widths: dict[str, int], exact: bool) -> dict[str, Resized]:
    """Sends the channels of every tensor through the model."""
    graph = graph_of(model)
    known: dict[Tensor, Channels | None] = {}
    sizes = {tensor.name: tensor.shape[-1] for tensor in model.inputs if len(tensor.shape) > 1}
    folders: dict[int, str] = {}
    masks: set[int] = set()
    resized: dict[str, Resized] = {}
    outputs: kinds.Inputs
    for call in graph.calls:
        folders[call.number] = call.path.rpartition("/")[0]
        tensors = [tensor for tensor in call.inputs if tensor[0] not in masks]
        inputs = [known.get(tensor) for tensor in tensors]
        _check_entry(folders, call, zip(tensors, inputs, strict=True))
        if call.kind in kinds.MASKS:
            masks.add(call.number)
            outputs = []
        elif call.kind == "InputLayer":
            outputs = [kept(sizes[call.path])] if sizes.get(call.path) else [None]
        else:
            outputs = _outputs(call, inputs, widths.get(call.path), exact, resized)
        known |= {(call.number, place): channels for place, channels in enumerate(outputs)}
    ends = [known.get(tensor) for tensor in graph.outputs]
    fixed = frozenset().union(*(part.sources for part in ends if part is not None))
    if fixed:
        raise FixedError(fixed)
    return resized


def _outputs(call: Call, inputs: kinds.Inputs, units: int | None, exact: bool, resized: dict[str, Resized]) -> list:
    """Returns the channels of one call's outputs, and notes what becomes of its layer."""
    if call.layer is None and kinds.operation_rule(call.kind):
        return [kinds.joined(inputs)]
    step = kinds.Step(call.path, call.layer, inputs, units, exact)
    outputs = kinds.run(step)
    before = resized.setdefault(call.path, step.resized)
    if not before.same_as(step.resized):
        raise step.refuse("is shared, and its calls get different channels")
    return outputs


def _check_entry(folders: dict[int, str], call: Call, inputs: Iterable[tuple[Tensor, Channels | None]]) -> None:
    """Raises for wider channels that enter a nested model, whose inputs have their sizes written down."""
    own = folders[call.number]
    for tensor, channels in inputs:
        made = folders[tensor[0]]
        entered = own != made and not (made + "/").startswith(own + "/" if own else "")
        if entered and channels is not None and channels.sources:
            raise FixedError(channels.sources)


def _carry_wider(old: keras.Layer, new: keras.Layer, plan: Resized, jitter: float, rng: np.random.Generator) -> None:
    """Gives a wider layer the weights that make it compute what the old one did."""
    for (name, source), target in zip(_model.relative_weights(old), new.weights, strict=True):
        values = keras.ops.convert_to_numpy(source)
        axes = plan.axes.get(name)
        target.assign(values if axes is None else wider_weight(np.asarray(values), axes, jitter, rng))
