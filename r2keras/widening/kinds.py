"""How each kind of layer passes more channels on, and what its own weights need for them."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np

from r2keras import _model
from r2keras.placement import ACTIVATIONS, PASSING
from r2keras.widening.channels import Axis, Channels, FixedError, Resized, kept, last, widened, without_builds

CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")
TRANSPOSED = tuple(f"{kind}Transpose" for kind in CONVOLUTIONS)
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
# What Keras puts into a graph for a mask; a mask has no channels.
MASKS = ("NotEqual", "Equal", "Any", "All", "LogicalAnd", "LogicalOr", "LogicalNot")
PER_CHANNEL = ("BatchNormalization", "PReLU")
OVER_CHANNELS = ("LayerNormalization", "RMSNormalization", "UnitNormalization", "Softmax")
# They move the last axis elsewhere, or look at its size.
RESHAPING = ("Flatten", "Reshape", "Permute", "Concatenate", "Transpose", "Squeeze", "ExpandDims", "Pad")
PASSED = tuple(kind for kind in (*PASSING, *ACTIVATIONS) if kind not in (*RESHAPING, *OVER_CHANNELS, "PReLU"))

Inputs = list[Channels | None]
Rule = Callable[["Step"], list[Channels | None]]


class Step:
    """One call of a layer while channels go through a model.

    Args:
        path: the layer's path.
        layer: the layer; None for an operation.
        inputs: what arrives; None where the size does not matter and stays.
        units: the layer's width in the new model; None where it stays.
        exact: whether the outputs have to stay the same.
    """

    def __init__(self, path: str, layer: keras.Layer | None, inputs: Inputs, units: int | None, exact: bool):
        self.path, self.layer, self.inputs, self.units, self.exact = path, layer, inputs, units, exact
        self.resized = Resized()

    @property
    def first(self) -> Channels | None:
        """The channels of the first input."""
        return self.inputs[0]

    def own(self, size: int) -> Channels:
        """Returns the layer's own channels."""
        return kept(size) if self.units is None else widened(self.path, size, self.units)

    def change(self, name: str, *axes: Axis) -> None:
        """Notes what becomes of a weight."""
        changed = [part for part in axes if part.channels.sources]
        if changed:
            self.resized.axes[name] = changed

    def refuse(self, why: str) -> ValueError:
        """Returns the error of a layer that cannot take more channels."""
        sources = sorted(set().union(*(part.sources for part in self.inputs if part is not None)))
        fed = f" It is fed by {', '.join(sources)}." if sources else ""
        return ValueError(
            f"The layer {self.path!r} {why}.{fed} Expected layers that take any number of channels. "
            "Leave what feeds it out of `match`."
        )


def width_of(layer: keras.Layer) -> int | None:
    """Returns how many units, filters or dimensions a layer makes; None where it has no such number.

    Example:

    >>> width_of(keras.layers.Bidirectional(keras.layers.LSTM(3))), width_of(keras.layers.ReLU())
    (3, None)
    """
    found = _width_place(layer.get_config())
    return None if found is None else found[0][found[1]]


def is_recurrent(layer: keras.Layer) -> bool:
    """Whether a layer, or the one it wraps, runs a cell with `units` through time."""
    weights = _model.relative_weights(layer)
    loops = any(name.endswith("recurrent_kernel") and len(weight.shape) == 2 for name, weight in weights)
    return loops and width_of(layer) is not None


def is_image_kind(layer: keras.Layer) -> bool:
    """Whether a layer is a convolution or a dense layer with filters or units of its own."""
    inner = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
    kinds = (*CONVOLUTIONS, *TRANSPOSED, "Dense", "SeparableConv1D", "SeparableConv2D")
    return _kind(inner, kinds) is not None and getattr(inner, "groups", 1) == 1


def run(step: Step) -> list[Channels | None]:
    """Returns the channels of a call's outputs and fills `step.resized`.

    Raises:
        ValueError: a layer that more channels cannot go through.
        FixedError: the layers before it must keep their width.
    """
    rule = _rule(step)
    if rule is None:
        if any(part is not None and part.sources for part in step.inputs):
            raise step.refuse(f"is a {_name(step.layer, step.path)}, which r2keras cannot widen through")
        return [None]
    return rule(step)


def joined(parts: Inputs) -> Channels | None:
    """Returns the channels of tensors that are added, multiplied or compared place by place."""
    wide = [part for part in parts if part is not None and part.sources]
    if not wide:
        return parts[0]
    # A single channel is broadcast.
    parts = [part for part in parts if part is None or part.sources or part.size > 1]
    sources = frozenset().union(*(part.sources for part in wide))
    if len(wide) < len(parts) or any(not np.array_equal(part.index, wide[0].index) for part in wide):
        raise FixedError(sources)
    return Channels(wide[0].index, wide[0].size, sources)


def _rule(step: Step) -> Rule | None:
    """Returns what handles a layer's class, or one that it is derived from."""
    if step.layer is None:
        return None
    if is_recurrent(step.layer):
        return _bidirectional if isinstance(step.layer, keras.layers.Bidirectional) else _recurrent
    kind = _kind(step.layer, RULES)
    return None if kind is None else RULES[kind]


def operation_rule(kind: str) -> Rule | None:
    """Returns what handles an operation that is no layer, by its name."""
    return RULES.get(kind) if kind in (*MERGES, *ACTIVATIONS) else None


def _kind(layer: keras.Layer, names) -> str | None:
    """Returns the name of a layer's class or of the nearest base class among `names`."""
    return next((base.__name__ for base in type(layer).__mro__ if base.__name__ in names), None)


def _name(layer: keras.Layer | None, path: str) -> str:
    return "operation" if layer is None else type(layer).__name__


def _width_place(config: dict) -> tuple[dict, str] | None:
    """Returns the part of a config that holds the width, and the key."""
    for key in ("units", "filters", "output_dim"):
        if isinstance(config.get(key), int):
            return config, key
    for key in ("layer", "cell"):
        inner = config.get(key)
        if isinstance(inner, dict) and isinstance(inner.get("config"), dict):
            return _width_place(inner["config"])
    return None


def _resize_config(step: Step) -> None:
    """Writes the new width into the config of a layer whose weights change."""
    if not step.resized.axes:
        return
    # Inner layers of wrappers come with the shapes they were built for.
    step.resized.config = without_builds(step.layer.get_config())
    if step.units is None:
        return
    parts = [step.resized.config]
    backward = parts[0].get("backward_layer")
    parts += [backward["config"]] if backward else []
    for part in parts:
        place, key = _width_place(part)
        place[key] = step.units


def _pass(step: Step) -> list[Channels | None]:
    return [step.first]


def _merge(step: Step) -> list[Channels | None]:
    return [joined(step.inputs)]


def _dense(step: Step) -> list[Channels | None]:
    return _kernel_layer(step, width_of(step.layer), lambda weight: (last(weight) - 1, last(weight)))


def _transposed(step: Step) -> list[Channels | None]:
    return _kernel_layer(step, width_of(step.layer), lambda weight: (last(weight), last(weight) - 1))


def _kernel_layer(step: Step, size: int, places: Callable) -> list[Channels | None]:
    """Handles a kernel that sums over its inputs; `places` returns its input and its output axis."""
    inner = getattr(step.layer, "layer", step.layer)
    if getattr(inner, "groups", 1) > 1 and _widens(step.first):
        raise step.refuse("is a convolution in groups")
    _check_last(step, inner)
    own = step.own(size)
    for name, weight in _model.relative_weights(step.layer):
        if name.endswith("kernel"):
            source, target = places(weight)
            step.change(name, *_in(step.first, source), Axis(target, own))
        elif name.endswith("bias"):
            step.change(name, Axis(0, own))
    _check_softmax(step, inner)
    _resize_config(step)
    return [own]


def _depthwise(step: Step) -> list[Channels | None]:
    _check_last(step, step.layer)
    if step.first is None:
        return [None]
    out = step.first.repeat(step.layer.depth_multiplier)
    for name, weight in _model.relative_weights(step.layer):
        step.change(name, Axis(0, out) if name == "bias" else Axis(last(weight) - 1, step.first))
    return [out]


def _separable(step: Step) -> list[Channels | None]:
    _check_last(step, step.layer)
    own = step.own(step.layer.filters)
    for name, weight in _model.relative_weights(step.layer):
        place = last(weight) - 1
        if name == "depthwise_kernel":
            step.change(name, *(Axis(part.axis, part.channels) for part in _in(step.first, place)))
        elif name == "pointwise_kernel":
            middle = None if step.first is None else step.first.repeat(step.layer.depth_multiplier)
            step.change(name, *_in(middle, place), Axis(place + 1, own))
        else:
            step.change(name, Axis(0, own))
    _resize_config(step)
    return [own]


def _embedding(step: Step) -> list[Channels | None]:
    own = step.own(step.layer.output_dim)
    step.change("embeddings", Axis(1, own))
    _resize_config(step)
    return [own]


def _reversible(step: Step) -> list[Channels | None]:
    touched = step.units is not None or _widens(step.first)
    if touched and not step.layer.tie_weights:
        raise step.refuse("is an embedding with a softmax in it")
    if touched:
        raise ValueError(
            f"The embedding {step.path!r} is tied to the softmax, so neither it nor the layers before the softmax can "
            "be widened. Expected an embedding and a Dense of their own. Put a Dense between the widened layer and "
            "the softmax, or leave the layer out of `match`."
        )
    return [None]


def _recurrent(step: Step) -> list[Channels | None]:
    own = _cell_weights(step, _model.relative_weights(step.layer), width_of(step.layer))
    _check_states(step, own)
    _check_softmax(step, step.layer)
    _resize_config(step)
    return [own] * 8


def _bidirectional(step: Step) -> list[Channels | None]:
    own = _cell_weights(step, _model.relative_weights(step.layer), width_of(step.layer))
    _check_states(step, own)
    _resize_config(step)
    merged = own.tile(2) if step.layer.merge_mode == "concat" else own
    return [merged, *[own] * 8]


def _cell_weights(step: Step, weights: list, size: int) -> Channels:
    """Notes what becomes of a cell's weights; gates are blocks of `units` along the last axis."""
    own = step.own(size)
    for name, weight in weights:
        part = name.rpartition("/")[2]
        blocks, rest = divmod(weight.shape[-1], size) if len(weight.shape) else (0, 1)
        if rest:
            continue
        gates = Axis(last(weight), own.tile(blocks))
        rows = {"kernel": _in(step.first, 0), "recurrent_kernel": [Axis(0, own, summed=True)]}
        step.change(name, *rows.get(part, []), gates)
    return own


def _check_states(step: Step, own: Channels) -> None:
    """Raises unless states that come from outside are as wide as the layer."""
    if len(step.inputs) > 1:
        joined([own, *step.inputs[1:]])


def _per_channel(step: Step) -> list[Channels | None]:
    if _widens(step.first):
        _check_last(step, step.layer)
        for name, weight in _model.relative_weights(step.layer):
            if weight.shape[-1] == step.first.size:
                step.change(name, Axis(last(weight), step.first))
    return [step.first]


def _over_channels(step: Step) -> list[Channels | None]:
    if step.exact and _widens(step.first) and not step.first.even:
        raise step.refuse("normalises over channels, of which some would have more copies than others")
    if step.exact and _widens(step.first) and _kind(step.layer, ("Softmax", "UnitNormalization")):
        raise step.refuse("divides by a sum over channels, which copies would change")
    return _per_channel(step)


def _flatten(step: Step) -> list[Channels | None]:
    if not _widens(step.first):
        return [None]
    *positions, _ = _input_shape(step.layer)[1:]
    if None in positions:
        raise step.refuse("flattens positions whose number is open")
    return [step.first.tile(math.prod(positions))]


def _reshape(step: Step) -> list[Channels | None]:
    if not _widens(step.first):
        return [None]
    *others, size = step.layer.target_shape
    if size != step.first.size:
        raise step.refuse("reshapes the channels")
    step.resized.config = {**step.layer.get_config(), "target_shape": (*others, step.first.index.size)}
    return [step.first]


def _concatenate(step: Step) -> list[Channels | None]:
    wide = [part for part in step.inputs if _widens(part)]
    if not wide:
        sizes = [part.size for part in step.inputs if part is not None]
        return [kept(sum(sizes)) if len(sizes) == len(step.inputs) else None]
    if step.layer.axis not in (-1, len(_input_shape(step.layer)[0]) - 1):
        return [joined(step.inputs)]
    if None in step.inputs:
        raise step.refuse("joins channels with a tensor that r2keras does not know the size of")
    starts = np.cumsum([0, *(part.size for part in step.inputs)])
    index = np.concatenate([part.index + start for part, start in zip(step.inputs, starts[:-1], strict=True)])
    return [Channels(index, int(starts[-1]), frozenset().union(*(part.sources for part in wide)))]


def _in(channels: Channels | None, axis: int) -> list[Axis]:
    """Returns the input axis of a kernel."""
    return [] if channels is None else [Axis(axis, channels, summed=True)]


def _widens(channels: Channels | None) -> bool:
    return channels is not None and bool(channels.sources)


def _check_last(step: Step, layer: keras.Layer) -> None:
    """Raises where channels are not the last axis."""
    axis = getattr(layer, "axis", -1)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    moved = any(part not in (-1, len(_input_shape(layer)) - 1) for part in axes)
    if getattr(layer, "data_format", None) == "channels_first" or moved:
        raise step.refuse("has its channels on another axis than the last")


def _input_shape(layer: keras.Layer) -> tuple:
    """Returns the shape that a layer was built for, or the shapes."""
    return layer.get_build_config()["input_shape"]


def _check_softmax(step: Step, layer: keras.Layer) -> None:
    """Raises for a softmax over copies, whose sum is another."""
    activation = getattr(layer, "activation", None)
    if step.exact and step.units is not None and activation is keras.activations.softmax:
        raise step.refuse("has a softmax over its units, which copies would change")


RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSED, _pass),
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
