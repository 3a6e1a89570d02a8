"""Rules for passing more channels through each kind of layer, and for changing its weights accordingly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from r2keras._models import walk
from r2keras._models.call_kinds import ACTIVATIONS, PASSING
from r2keras.widening.channels import (
    Channels,
    WeightAxis,
    if_wider,
    is_wider,
    last_axis,
    merged,
    unchanged,
)
from r2keras.widening.widened_call import CONVOLUTIONS, TRANSPOSED, WidenedCall, is_recurrent, kind_of, resize_config

MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
# Operations that Keras adds to a graph for a mask, which has no channels.
MASKS = ("NotEqual", "Equal", "Any", "All", "LogicalAnd", "LogicalOr", "LogicalNot")
# At least the number of states that a recurrent layer may return after its output; a Bidirectional LSTM returns four.
MAX_STATES = 8
PER_CHANNEL = ("BatchNormalization", "PReLU")
OVER_CHANNELS = ("LayerNormalization", "RMSNormalization", "UnitNormalization", "Softmax")
# Layers that move the last axis or depend on its size.
RESHAPING = ("Flatten", "Reshape", "Permute", "Concatenate", "Transpose", "Squeeze", "ExpandDims", "Pad")
PASS_THROUGH = tuple(kind for kind in (*PASSING, *ACTIVATIONS) if kind not in (*RESHAPING, *OVER_CHANNELS, "PReLU"))

Rule = Callable[["WidenedCall"], list[Channels | None]]


def run(call: WidenedCall) -> list[Channels | None]:
    """Returns the channels of a call's outputs, and fills in `call.resized`.

    Raises:
        ValueError: more channels cannot pass through the layer.
        FixedWidthError: the layers before it have to keep their width.
    """
    rule = _rule(call)
    if rule is None:
        if any(is_wider(channels) for channels in call.inputs):
            kind = "operation" if call.layer is None else type(call.layer).__name__
            raise call.error(f"is a {kind}, which r2keras cannot widen through")
        return [None]
    return rule(call)


def _rule(call: WidenedCall) -> Rule | None:
    """Returns the rule of a layer's class or of its nearest base class; None if there is none."""
    if call.layer is None:
        return None
    if is_recurrent(call.layer):
        return _recurrent
    kind = kind_of(call.layer, RULES)
    return None if kind is None else RULES[kind]


def operation_rule(kind: str) -> Rule | None:
    """Returns the rule of an operation that is not a layer, by its name; None if there is none."""
    return RULES.get(kind) if kind in (*MERGES, *ACTIVATIONS) else None


def _pass_through(call: WidenedCall) -> list[Channels | None]:
    return [call.first]


def _merge(call: WidenedCall) -> list[Channels | None]:
    return [merged(call.inputs)]


def _dense(call: WidenedCall) -> list[Channels | None]:
    return _kernel_layer(call, lambda weight: (last_axis(weight) - 1, last_axis(weight)))


def _transposed(call: WidenedCall) -> list[Channels | None]:
    return _kernel_layer(call, lambda weight: (last_axis(weight), last_axis(weight) - 1))


def _kernel_layer(call: WidenedCall, axes_of: Callable[[keras.Variable], tuple[int, int]]) -> list[Channels | None]:
    """Widens a layer whose kernel sums over its inputs; `axes_of` returns the kernel's input and output axes."""
    inner = getattr(call.layer, "layer", call.layer)
    if getattr(inner, "groups", 1) > 1 and is_wider(call.first):
        raise call.error("is a grouped convolution")
    _check_last(call, inner)
    own = call.output_channels(call.width)
    for name, weight in walk.relative_weights(call.layer):
        if name.endswith("kernel"):
            input_axis, output_axis = axes_of(weight)
            call.change(name, *_input_axis(call.first, input_axis), WeightAxis(output_axis, own))
        elif name.endswith("bias"):
            call.change(name, WeightAxis(0, own))
    _check_softmax(call, inner)
    resize_config(call)
    return [own]


def _depthwise(call: WidenedCall) -> list[Channels | None]:
    _check_last(call, call.layer)
    if call.first is None:
        return [None]
    out = call.first.repeat(call.own_layer.depth_multiplier)
    for name, weight in walk.relative_weights(call.layer):
        call.change(name, WeightAxis(0, out) if name == "bias" else WeightAxis(last_axis(weight) - 1, call.first))
    return [out]


def _separable(call: WidenedCall) -> list[Channels | None]:
    _check_last(call, call.layer)
    own = call.output_channels(call.own_layer.filters)
    for name, weight in walk.relative_weights(call.layer):
        input_axis = last_axis(weight) - 1
        if name == "depthwise_kernel":
            # Each filter reads one channel, so its input axis is not a sum over copies.
            if call.first is not None:
                call.change(name, WeightAxis(input_axis, call.first))
        elif name == "pointwise_kernel":
            middle = None if call.first is None else call.first.repeat(call.own_layer.depth_multiplier)
            call.change(name, *_input_axis(middle, input_axis), WeightAxis(input_axis + 1, own))
        else:
            call.change(name, WeightAxis(0, own))
    resize_config(call)
    return [own]


def _embedding(call: WidenedCall) -> list[Channels | None]:
    own = call.output_channels(call.own_layer.output_dim)
    call.change("embeddings", WeightAxis(1, own))
    resize_config(call)
    return [own]


def _reversible(call: WidenedCall) -> list[Channels | None]:
    touched = call.units is not None or is_wider(call.first)
    if touched and not call.own_layer.tie_weights:
        raise call.error("is an embedding that also computes the softmax")
    if touched:
        raise ValueError(
            f"The embedding {call.path!r} is tied to the softmax, so neither it nor the layers before the softmax can "
            "be widened. Expected an embedding and a Dense of their own. Put a Dense between the widened layer and "
            "the softmax, or leave the layer out of `match`."
        )
    return [None]


def _recurrent(call: WidenedCall) -> list[Channels | None]:
    own = _cell_weights(call)
    if len(call.inputs) > 1:
        # Initial states have to be as wide as the layer.
        merged([own, *call.inputs[1:]])
    _check_softmax(call, call.layer)
    resize_config(call)
    concatenates = isinstance(call.layer, keras.layers.Bidirectional) and call.layer.merge_mode == "concat"
    return [own.tile(2) if concatenates else own, *[own] * MAX_STATES]


def _cell_weights(call: WidenedCall) -> Channels:
    """Records the changed axes of a cell's weights; gates are blocks of `units` along the last axis."""
    size = call.width
    own = call.output_channels(size)
    for name, weight in walk.relative_weights(call.layer):
        # Scalars and weights without a block of `units` per gate stay as they are.
        if not len(weight.shape) or weight.shape[-1] % size:
            continue
        gates = WeightAxis(last_axis(weight), own.tile(weight.shape[-1] // size))
        rows = {"kernel": _input_axis(call.first, 0), "recurrent_kernel": [WeightAxis(0, own, summed=True)]}
        call.change(name, *rows.get(weight.name, []), gates)
    return own


def _per_channel(call: WidenedCall) -> list[Channels | None]:
    first = if_wider(call.first)
    if first is not None:
        _check_last(call, call.layer)
        for name, weight in walk.relative_weights(call.layer):
            if weight.shape[-1] == first.size:
                call.change(name, WeightAxis(last_axis(weight), first))
    return [call.first]


def _over_channels(call: WidenedCall) -> list[Channels | None]:
    first = if_wider(call.first)
    if call.exact and first is not None and not first.even:
        raise call.error("normalizes over channels, of which some would have more copies than others")
    if call.exact and first is not None and kind_of(call.layer, ("Softmax", "UnitNormalization")):
        raise call.error("divides by a sum over channels, which copies of channels would change")
    return _per_channel(call)


def _flatten(call: WidenedCall) -> list[Channels | None]:
    first = if_wider(call.first)
    if first is None:
        return [None]
    *positions, _ = _input_shape(call.layer)[1:]
    if None in positions:
        raise call.error("flattens a number of positions that is not fixed")
    return [first.tile(math.prod(positions))]


def _reshape(call: WidenedCall) -> list[Channels | None]:
    first = if_wider(call.first)
    if first is None:
        return [None]
    *others, size = call.own_layer.target_shape
    if size != first.size:
        raise call.error("reshapes the channels")
    call.resized.config = {**call.own_layer.get_config(), "target_shape": (*others, first.index.size)}
    return [first]


def _concatenate(call: WidenedCall) -> list[Channels | None]:
    known = [channels for channels in call.inputs if channels is not None]
    wider = [channels for channels in known if channels.sources]
    if not wider:
        return [unchanged(sum(channels.size for channels in known)) if len(known) == len(call.inputs) else None]
    if call.own_layer.axis not in (-1, len(_input_shape(call.layer)[0]) - 1):
        return [merged(call.inputs)]
    if len(known) < len(call.inputs):
        raise call.error("concatenates channels with a tensor of unknown size")
    starts = np.cumsum([0, *(channels.size for channels in known)])
    indices = [channels.index + start for channels, start in zip(known, starts[:-1], strict=True)]
    sources = frozenset().union(*(channels.sources for channels in wider))
    return [Channels(np.concatenate(indices), int(starts[-1]), sources)]


def _input_axis(channels: Channels | None, axis: int) -> list[WeightAxis]:
    """Returns the input axis of a kernel in a list, which is empty if the input's channels are not tracked."""
    return [] if channels is None else [WeightAxis(axis, channels, summed=True)]


def _check_last(call: WidenedCall, layer: keras.Layer) -> None:
    """Raises if the layer's channels are not on the last axis."""
    axis = getattr(layer, "axis", -1)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    moved = any(index not in (-1, len(_input_shape(layer)) - 1) for index in axes)
    if getattr(layer, "data_format", None) == "channels_first" or moved:
        raise call.error("has its channels on an axis other than the last")


def _input_shape(layer: keras.Layer) -> tuple[Any, ...]:
    """Returns the input shape that a layer was built for; a tuple of shapes for several inputs."""
    return layer.get_build_config()["input_shape"]


def _check_softmax(call: WidenedCall, layer: keras.Layer) -> None:
    """Raises for a softmax over widened units, because copies change its denominator."""
    activation = getattr(layer, "activation", None)
    if call.exact and call.units is not None and activation is keras.activations.softmax:
        raise call.error("has a softmax over its units, which copies of units would change")


RULES: dict[str, Rule] = {
    **dict.fromkeys(PASS_THROUGH, _pass_through),
    **dict.fromkeys(MERGES, _merge),
    **dict.fromkeys(("Dense", "TimeDistributed", *CONVOLUTIONS), _dense),
    **dict.fromkeys(TRANSPOSED, _transposed),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys(PER_CHANNEL, _per_channel),
    **dict.fromkeys(OVER_CHANNELS, _over_channels),
    "Embedding": _embedding,
    "ReversibleEmbedding": _reversible,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Concatenate": _concatenate,
}
