"""`regularize`, which attaches a regularizer to the kernels of an existing model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from r2keras._models.channel_axes import output_axes
from r2keras._models.layer_copies import config_of, recreate
from r2keras._models.rebuild import rebuild
from r2keras._models.values import check_finite, to_numpy
from r2keras._models.walk import Kernel, ModelView, full_name, kernels, view_of
from r2keras._util.errors import check_pattern, invalid

_ALL = ".*"


def regularize(model: keras.Model, regularizer: Any, *, match: str = _ALL) -> keras.Model:
    """Returns a copy of a model in which every matching kernel has its own regularizer.

    Every kernel (convolution, dense, recurrent, embedding; never a bias or a normalization weight) that matches `match`
    gets a new copy of `regularizer`, created from its config, which replaces a previous regularizer. Learned scalars
    start at values that suit the weights. Weights are copied bit for bit and names are kept. A compiled model is
    returned compiled with the same settings and a new optimizer. A regularizer with `granularity="per_channel"` and no
    `channel_axis` gets the axes of the layer's outputs.

    Args:
        model: a built Functional or Sequential model, possibly nested; not modified.
        regularizer: a Keras regularizer, or an identifier that `keras.regularizers.get` accepts.
        match: regular expression, searched in the path of the layer (`"block/conv1"`) and of the weight
            (`"block/conv1/kernel"`). With the default, kernels of layers without a regularizer argument for them are
            skipped with a warning; with any other pattern they are an error.

    Returns:
        A new model of the same class.

    Raises:
        TypeError: `model` is not a Functional or Sequential Keras model; `regularizer` is not a regularizer.
        ValueError: a model that is not built; an unknown name of a regularizer, or one without a config; a pattern that
            is not a regular expression or matches no kernel; a matching kernel without a regularizer argument; one
            argument for several kernels (`MultiHeadAttention`) if only some of them match, if the regularizer has a
            learned scalar, or if their channels lie on different axes; NaN or infinite weights; `dim` above the last
            axis of a kernel.

    Example:

    >>> from r2keras.regularizers import R2Margin, regularize
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2, name="head")]
    >>> model = keras.Sequential(layers, name="net")
    >>> regularized = regularize(model, R2Margin(0.01), match="head")
    >>> [weight.path for weight in regularized.trainable_weights if weight.regularizer is not None]
    ['net/head/kernel']
    """
    regularizer = _check_regularizer(regularizer)
    view = view_of(model)
    plans = _plan(view, regularizer, match)

    def replace(path: str, layer: keras.Layer) -> keras.Layer | None:
        return recreate(layer, plans[path].config) if path in plans else None

    copy = rebuild(view, replace, {type(regularizer).__name__: type(regularizer)})
    # By position, because the names that Keras generates for the cells of a stack differ in the copy.
    for old, new in zip(view.kernels, view_of(copy).kernels, strict=True):
        if old.path in plans and old.name in plans[old.path].names:
            _initialize(dataclasses.replace(old, variable=new.variable), type(regularizer))
    return copy


@dataclasses.dataclass
class _Slot:
    """A regularizer argument in the config of a layer or sublayer, and the kernels that it applies to."""

    config: dict
    argument: str | None
    names: list[str]


@dataclasses.dataclass
class _Plan:
    """The changed config of one layer, and the names of its kernels that get a regularizer."""

    config: dict
    names: list[str]


def _check_regularizer(identifier: Any) -> keras.regularizers.Regularizer:
    """Returns the regularizer of an identifier; raises TypeError for another type, ValueError for an unknown name."""
    regularizer = regularizer_of(identifier, keras.regularizers.get)
    fix = "Copies are created from its config: subclass keras.regularizers.Regularizer and implement get_config()"
    problem = invalid("regularizer", "a keras.regularizers.Regularizer with a config", identifier, fix)
    if not isinstance(regularizer, keras.regularizers.Regularizer):
        raise ValueError(problem)
    try:
        regularizer.get_config()
    except NotImplementedError as error:
        raise ValueError(problem) from error
    return regularizer


def regularizer_of(identifier: Any, get: Callable[[Any], Any]) -> Any:
    """Returns what an identifier names.

    Args:
        identifier: the caller's argument `regularizer`.
        get: the `regularizers.get` of a Keras version.

    Raises:
        TypeError: neither a regularizer nor a name, a serialized form or a function.
        ValueError: an unknown name, or a serialized form without a class.
    """
    expected = "a Keras regularizer, its name or its serialized form"
    fix = "Pass an instance, such as R2Linf(0.01)"
    if not (isinstance(identifier, (str, dict)) or callable(identifier)):
        raise TypeError(invalid("regularizer", expected, identifier, fix))
    try:
        found = get(identifier)
    except Exception as error:
        # Whatever a damaged serialized form makes Keras raise, the argument is the reason.
        raise ValueError(invalid("regularizer", expected, identifier, fix)) from error
    # tf_keras returns an unknown name as it is.
    if not callable(found):
        raise ValueError(invalid("regularizer", expected, identifier, fix))
    return found


def _plan(view: ModelView, regularizer: keras.regularizers.Regularizer, match: str) -> dict[str, _Plan]:
    """Returns the plans of all layers that get a regularizer, by their path."""
    matching = _matching_kernels(view, match)
    if not matching:
        fix = f"The kernels of this model are: {', '.join(kernel.full_name for kernel in view.kernels) or 'none'}"
        raise ValueError(invalid("match", "a pattern that matches a kernel", match, fix))
    layers = [(path, layer) for path, layer in view.layers if path in matching]
    plans = {path: _plan_layer(path, layer, matching[path], regularizer, match == _ALL) for path, layer in layers}
    plans = {path: plan for path, plan in plans.items() if plan.names}
    if not plans:
        fix = f"These layers have none: {', '.join(matching)}"
        raise ValueError(invalid("match", "a pattern for layers with a regularizer argument", match, fix))
    return plans


def _matching_kernels(view: ModelView, match: str) -> dict[str, list[str]]:
    """Returns the names of the matching kernels by layer path."""
    pattern = check_pattern("match", match)
    matching: dict[str, list[str]] = {}
    for kernel in view.kernels:
        if pattern.search(kernel.path) or pattern.search(kernel.full_name):
            check_finite(kernel.full_name, to_numpy(kernel.variable))
            matching.setdefault(kernel.path, []).append(kernel.name)
    return matching


def _plan_layer(
    path: str, layer: keras.Layer, names: list[str], regularizer: keras.regularizers.Regularizer, lenient: bool
) -> _Plan:
    """Puts the regularizer into the config of a layer for the named kernels."""
    plan = _Plan(config_of(layer), [])
    for slot in _slots(layer, plan.config):
        matching = [name for name in slot.names if name in names]
        if matching and slot.argument is None:
            _warn_or_refuse(path, matching, layer, lenient)
        elif matching:
            _check_slot(path, slot, matching, regularizer)
            slot.config[slot.argument] = _serialized(regularizer, path, slot, layer)
            plan.names += matching
    return plan


def _serialized(
    regularizer: keras.regularizers.Regularizer, path: str, slot: _Slot, layer: keras.Layer
) -> dict[str, Any]:
    """Returns a regularizer in serialized form, with the channel axes of the slot's kernels filled in."""
    serialized = keras.regularizers.serialize(regularizer)
    config = serialized["config"] if isinstance(serialized.get("config"), dict) else {}
    if config.get("granularity") != "per_channel" or config.get("channel_axis", 0) is not None:
        return serialized
    variables = [variable for name, variable in kernels(layer) if name in slot.names]
    # Counted from the end, like the regularizers' default.
    choices = {tuple(axis - len(v.shape) for axis in output_axes(layer, v)) for v in variables}
    if len(choices) > 1:
        raise ValueError(
            f"The argument {slot.argument} of {path} serves several kernels at once, whose channels lie on different "
            f"axes: {', '.join(slot.names)}. Expected one axis for all. Received: {sorted(choices)}. Use "
            "granularity='per_tensor', or leave the layer out of `match`."
        )
    axes = next(iter(choices))
    config["channel_axis"] = axes[0] if len(axes) == 1 else list(axes)
    return serialized


def _slots(layer: keras.Layer, config: dict) -> list[_Slot]:
    """Returns the regularizer arguments for the kernels of a layer."""
    slots: dict[tuple[int, str | None], _Slot] = {}
    for name, variable in kernels(layer):
        owner_config = _owner_config(layer, config, variable)
        argument = _argument(owner_config, variable.name)
        slot = slots.setdefault((id(owner_config), argument), _Slot(owner_config, argument, []))
        slot.names.append(name)
    return list(slots.values())


def _owner_config(layer: keras.Layer, config: dict, variable: keras.Variable) -> dict:
    """Returns the config of the innermost sublayer that owns a variable."""
    for sublayer, inner_config in _sublayers(layer, config):
        if any(weight is variable for weight in sublayer.weights):
            return _owner_config(sublayer, inner_config, variable)
    return config


def _sublayers(layer: keras.Layer, config: dict) -> Iterator[tuple[keras.Layer, dict]]:
    """Yields the sublayers that are serialized in a layer's config, with their configs."""
    if isinstance(layer, keras.Model):
        candidates = [
            (layer.get_layer(entry["config"]["name"]), entry)
            for entry in config.get("layers", [])
            if entry["class_name"] != "InputLayer"
        ]
    elif isinstance(layer, keras.layers.Bidirectional):
        candidates = [(layer.forward_layer, config["layer"]), (layer.backward_layer, config["backward_layer"])]
    else:
        candidates = [(getattr(layer, key, None), config.get(key)) for key in ("layer", "cell")]
        candidates += zip(getattr(layer, "cells", []), config.get("cells", []), strict=False)
    for sublayer, entry in candidates:
        if isinstance(sublayer, keras.Layer) and isinstance(entry, dict) and isinstance(entry.get("config"), dict):
            yield sublayer, entry["config"]


def _argument(config: dict, name: str) -> str | None:
    """Returns the regularizer argument for a weight: `recurrent_regularizer` for `recurrent_kernel`."""
    stems = [name, name.removesuffix("_kernel")]
    if name.endswith("kernel"):
        # A depthwise convolution has a weight `kernel` and an argument `depthwise_regularizer`.
        stems += ["kernel", "depthwise"]
    return next((f"{stem}_regularizer" for stem in stems if f"{stem}_regularizer" in config), None)


def _warn_or_refuse(path: str, names: list[str], layer: keras.Layer, lenient: bool) -> None:
    """Warns about kernels without a regularizer argument, or raises ValueError if not lenient."""
    weights = ", ".join(full_name(path, name) for name in names)
    text = f"{type(layer).__name__} has no regularizer argument in its config for {weights}"
    if not lenient:
        raise ValueError(f"{text}. Expected one, such as kernel_regularizer. Leave the layer out of `match`.")
    # The caller of `regularize`.
    warnings.warn(f"{text}: left without a regularizer.", stacklevel=5)


def _check_slot(path: str, slot: _Slot, matching: list[str], regularizer: keras.regularizers.Regularizer) -> None:
    """Raises if one argument applies to several kernels and that is not possible."""
    prefix = f"The argument {slot.argument} of {path} serves several kernels at once: {', '.join(slot.names)}."
    if len(matching) < len(slot.names):
        raise ValueError(f"{prefix} Expected `match` to find all of them or none. Received: {', '.join(matching)}.")
    if len(slot.names) > 1 and isinstance(regularizer, keras.Layer) and regularizer.weights:
        raise ValueError(
            f"{prefix} Expected a regularizer without a learned scalar. Received: {type(regularizer).__name__}. "
            "Use R2Linf, Kurtosis or R2SoftMinMax(learn_sharpness=False), or leave the layer out of `match`."
        )


def _initialize(kernel: Kernel, expected: type[keras.regularizers.Regularizer]) -> None:
    """Sets the learned scalar of a kernel's new regularizer, and calls the regularizer to check that it fits."""
    name, variable, regularizer = kernel.full_name, kernel.variable, kernel.variable.regularizer
    if not isinstance(regularizer, expected):
        raise ValueError(
            f"The layer of {name} accepts a regularizer but does not attach it to the weight. Expected a layer that "
            "passes it to add_weight. Leave the layer out of `match`."
        )
    try:
        if hasattr(regularizer, "initialize"):
            regularizer.initialize(variable)
        regularizer(variable)
    except ValueError as error:
        raise ValueError(f"{expected.__name__} does not fit the weight {name}. {error}") from error
    if isinstance(regularizer, keras.Layer):
        # A layer constructed with trainable=False does not pass that on to the layers inside it.
        regularizer.trainable = variable.trainable
