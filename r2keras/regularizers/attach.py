"""Attaching a regularizer to the weights of an existing model."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator

import keras

from r2keras._errors import invalid
from r2keras._model import check_finite, kernels, leaf_layers, rebuild, to_numpy
from r2keras.quantizers.axes import output_axes

_ALL = ".*"


def regularize(model: keras.Model, regularizer, *, match: str = _ALL) -> keras.Model:
    """Returns a copy of a model whose matching kernels carry a regularizer each.

    Every kernel (convolution, dense, recurrent, embedding; never a bias or a normalisation weight) that `match`
    finds gets a fresh copy of `regularizer`, made from its config; a regularizer it had before is replaced.
    Start values of learned scalars are set from the weights. The weights themselves are carried over bit for bit,
    names are kept, and a compiled model comes back compiled in the same way, with a fresh optimizer. A regularizer
    with `granularity="per_channel"` and no `channel_axis` gets the axes of the layer's outputs.

    Args:
        model: a built Functional or Sequential model, nested ones included; left untouched.
        regularizer: a Keras regularizer, or what `keras.regularizers.get` takes.
        match: regular expression, searched in the path of the layer (`"block/conv1"`) and of the weight
            (`"block/conv1/kernel"`). With the default, kernels of layers that have no regularizer argument for
            them are left out with a warning; with any other pattern they are an error.

    Returns:
        A new model of the same class.

    Raises:
        TypeError: not a Functional or Sequential Keras model.
        ValueError: a model that is not built; a regularizer that is none; a pattern that is no regular expression
            or matches no kernel; a matching kernel that has no regularizer argument; one argument that serves
            several kernels (`MultiHeadAttention`) of which only some match, whose regularizer would learn a scalar, or
            whose channels lie on different axes; NaN or infinite weights; `dim` above the last axis of a kernel.

    Example:

    >>> from r2keras.regularizers import R2Margin, regularize
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential(layers, name="net")
    >>> regularized = regularize(model, R2Margin(0.01), match="head")
    >>> [weight.path for weight in regularized.trainable_weights if weight.regularizer is not None]
    ['net/head/kernel']
    """
    regularizer = _check_regularizer(regularizer)
    plans = _plan(model, regularizer, match)

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        return type(layer).from_config(plans[path].config) if path in plans else None

    copy = rebuild(model, replace, {type(regularizer).__name__: type(regularizer)})
    for (path, old), (_, new) in zip(leaf_layers(model), leaf_layers(copy), strict=True):
        if path in plans:
            # By position: names that Keras made up for the cells of a stack are others in the copy.
            pairs = zip(kernels(old), kernels(new), strict=True)
            started = [(f"{path}/{name}", v) for (name, _), (_, v) in pairs if name in plans[path].names]
            _start(started, type(regularizer))
    return copy


@dataclasses.dataclass
class _Slot:
    """A regularizer argument in the config of a layer or of a part of it, and the kernels it serves."""

    config: dict
    argument: str | None
    names: list[str]


@dataclasses.dataclass
class _Plan:
    """The changed config of one layer, and its kernels that get a regularizer."""

    config: dict
    names: list[str]


def _check_regularizer(regularizer):
    """Returns the regularizer that an identifier stands for."""
    found = keras.regularizers.get(regularizer)
    fix = "Copies are made from its config: subclass keras.regularizers.Regularizer and give it a get_config()"
    problem = invalid("regularizer", "a keras.regularizers.Regularizer with a config", regularizer, fix)
    if not isinstance(found, keras.regularizers.Regularizer):
        raise ValueError(problem)
    try:
        found.get_config()
    except NotImplementedError as error:
        raise ValueError(problem) from error
    return found


def _plan(model: keras.Model, regularizer, match: str) -> dict[str, _Plan]:
    """Returns the changed layers by their path."""
    chosen, every = _choose(model, match)
    if not chosen:
        fix = f"The kernels of this model are: {', '.join(every) or 'none'}"
        raise ValueError(invalid("match", "a pattern that matches a kernel", match, fix))
    layers = [(path, layer) for path, layer in leaf_layers(model) if path in chosen]
    plans = {path: _plan_layer(path, layer, chosen[path], regularizer, match == _ALL) for path, layer in layers}
    plans = {path: plan for path, plan in plans.items() if plan.names}
    if not plans:
        fix = f"These layers have none: {', '.join(chosen)}"
        raise ValueError(invalid("match", "a pattern for layers with a regularizer argument", match, fix))
    return plans


def _choose(model: keras.Model, match: str) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the names of the matching kernels by layer path, and the paths of all kernels."""
    try:
        pattern = re.compile(match)
    except (re.error, TypeError) as error:
        raise ValueError(invalid("match", "a regular expression", match, str(error))) from error
    chosen: dict[str, list[str]] = {}
    every = []
    for path, layer in leaf_layers(model):
        for name, variable in kernels(layer):
            every.append(f"{path}/{name}")
            if pattern.search(path) or pattern.search(every[-1]):
                check_finite(every[-1], to_numpy(variable))
                chosen.setdefault(path, []).append(name)
    return chosen, every


def _plan_layer(path: str, layer: keras.Layer, names: list[str], regularizer, lenient: bool) -> _Plan:
    """Puts the regularizer into the config of a layer, wherever it serves the named kernels."""
    plan = _Plan(layer.get_config(), [])
    for slot in _slots(layer, plan.config):
        wanted = [name for name in slot.names if name in names]
        if wanted and slot.argument is None:
            _no_argument(path, wanted, layer, lenient)
        elif wanted:
            _check_slot(path, slot, wanted, regularizer)
            slot.config[slot.argument] = _serialized(regularizer, path, slot, layer)
            plan.names += wanted
    return plan


def _serialized(regularizer, path: str, slot: _Slot, layer: keras.Layer) -> dict:
    """Returns the config of a regularizer, with the channel axes of the kernels it is for."""
    written = keras.regularizers.serialize(regularizer)
    settings = written["config"] if isinstance(written.get("config"), dict) else {}
    if settings.get("granularity") != "per_channel" or settings.get("channel_axis", 0) is not None:
        return written
    served = [variable for name, variable in kernels(layer) if name in slot.names]
    found = {tuple(a - len(v.shape) for a in output_axes(layer, v)) for v in served}
    if len(found) > 1:
        raise ValueError(
            f"The argument {slot.argument} of {path} serves several kernels at once, whose channels lie on different "
            f"axes: {', '.join(slot.names)}. Expected one axis for all. Received: {sorted(found)}. Use "
            "granularity='per_tensor', or leave the layer out of `match`."
        )
    axes = next(iter(found))
    settings["channel_axis"] = axes[0] if len(axes) == 1 else list(axes)
    return written


def _slots(layer: keras.Layer, config: dict) -> list[_Slot]:
    """Returns the regularizer arguments that serve the kernels of a layer."""
    slots: dict[tuple[int, str | None], _Slot] = {}
    for name, variable in kernels(layer):
        owner = _owner(layer, config, variable)
        argument = _argument(owner, variable.name)
        slots.setdefault((id(owner), argument), _Slot(owner, argument, [])).names.append(name)
    return list(slots.values())


def _owner(layer: keras.Layer, config: dict, variable: keras.Variable) -> dict:
    """Returns the config of the innermost part of a layer that owns a variable."""
    for part, inner in _parts(layer, config):
        if any(weight is variable for weight in part.weights):
            return _owner(part, inner, variable)
    return config


def _parts(layer: keras.Layer, config: dict) -> Iterator[tuple[keras.Layer, dict]]:
    """Yields the layers that a layer's config holds in serialized form, with their configs."""
    if isinstance(layer, keras.Model):
        held = [
            (layer.get_layer(entry["config"]["name"]), entry)
            for entry in config.get("layers", [])
            if entry["class_name"] != "InputLayer"
        ]
    elif isinstance(layer, keras.layers.Bidirectional):
        held = [(layer.forward_layer, config["layer"]), (layer.backward_layer, config["backward_layer"])]
    else:
        held = [(getattr(layer, key, None), config.get(key)) for key in ("layer", "cell")]
        held += zip(getattr(layer, "cells", []), config.get("cells", []), strict=False)
    for part, entry in held:
        if isinstance(part, keras.Layer) and isinstance(entry, dict) and isinstance(entry.get("config"), dict):
            yield part, entry["config"]


def _argument(config: dict, name: str) -> str | None:
    """Returns the regularizer argument for a weight: `recurrent_kernel` has `recurrent_regularizer`."""
    stems = [name, name.removesuffix("_kernel")]
    # A depthwise convolution calls its weight `kernel` and its argument `depthwise_regularizer`.
    stems += ["kernel", "depthwise"] if name.endswith("kernel") else []
    return next((f"{stem}_regularizer" for stem in stems if f"{stem}_regularizer" in config), None)


def _no_argument(path: str, names: list[str], layer: keras.Layer, lenient: bool) -> None:
    """Warns of, or refuses, kernels that Keras cannot regularize."""
    weights = ", ".join(f"{path}/{name}" for name in names)
    text = f"{type(layer).__name__} has no regularizer argument in its config for {weights}"
    if not lenient:
        raise ValueError(f"{text}. Expected one, such as kernel_regularizer. Leave the layer out of `match`.")
    warnings.warn(f"{text}: left without a regularizer.", stacklevel=5)


def _check_slot(path: str, slot: _Slot, wanted: list[str], regularizer) -> None:
    """Raises if one argument serves more kernels than it may."""
    served = f"The argument {slot.argument} of {path} serves several kernels at once: {', '.join(slot.names)}."
    if len(wanted) < len(slot.names):
        raise ValueError(f"{served} Expected `match` to find all of them or none. Received: {', '.join(wanted)}.")
    if len(slot.names) > 1 and isinstance(regularizer, keras.Layer) and regularizer.weights:
        raise ValueError(
            f"{served} Expected a regularizer without a learned scalar. Received: {type(regularizer).__name__}. "
            "Use R2Linf, Kurtosis or R2SoftMinMax(learn_sharpness=False), or leave the layer out of `match`."
        )


def _start(weights: list[tuple[str, keras.Variable]], expected: type[keras.regularizers.Regularizer]) -> None:
    """Sets the learned scalars of the new regularizers from the weights they are on."""
    for name, variable in weights:
        regularizer = variable.regularizer
        if not isinstance(regularizer, expected):
            raise ValueError(f"The layer of {name} takes a regularizer for it but does not put it on the weight.")
        try:
            if hasattr(regularizer, "initialize"):
                regularizer.initialize(variable)
            regularizer(variable)
        except ValueError as error:
            raise ValueError(f"{expected.__name__} does not fit the weight {name}. {error}") from error
        if isinstance(regularizer, keras.Layer):
            # A layer built with trainable=False does not tell the layers inside it.
            regularizer.trainable = variable.trainable
