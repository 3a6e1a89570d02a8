"""Graphs of tf_keras models, and copies with layers replaced or inserted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tf_keras

from r2keras._models.graph import Call, Graph
from r2keras.tfmot.conversion.call_graph import tf_keras_calls


def graph_of(model: tf_keras.Model) -> Graph:
    """Returns the calls of a flat Functional or Sequential tf_keras model, in the order they run.

    Args:
        model: a built model.

    Example:

    >>> model = tf_keras.Sequential([tf_keras.Input((4,), name="x"), tf_keras.layers.Dense(2, name="head")])
    >>> [call.path for call in graph_of(model).calls]
    ['x', 'head']
    """
    graph = tf_keras_calls(model)
    numbers = {key: number for number, key in enumerate([*graph.inputs, *(step.producer for step in graph.steps)])}
    calls = [Call(name, "InputLayer", None, (), number) for number, name in enumerate(model.input_names)]
    for step in graph.steps:
        inputs = tuple((numbers[tensor.producer], tensor.index) for tensor in step.tensors)
        calls.append(Call(step.layer.name, type(step.layer).__name__, step.layer, inputs, len(calls)))
    return Graph(tuple(calls), tuple((numbers[tensor.producer], tensor.index) for tensor in graph.outputs))


def copy_layer(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
    """Returns a new, unbuilt layer of the same config."""
    return type(layer).from_config(layer.get_config())


def copy_model(
    model: tf_keras.Model, replace: Callable[[tf_keras.layers.Layer], tf_keras.layers.Layer | None]
) -> tf_keras.Model:
    """Returns a copy of a model with some of its layers replaced.

    Args:
        model: a flat model, left untouched.
        replace: returns the new, unbuilt layer for an old one, or None to copy the layer.

    Returns:
        The copy, with the weights of the layers that were not replaced.
    """
    plain: dict[str, tf_keras.layers.Layer] = {}

    def clone(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        new = replace(layer)
        if new is None:
            new = plain[layer.name] = copy_layer(layer)
        return new

    copy = tf_keras.models.clone_model(model, clone_function=clone)
    for name, layer in plain.items():
        layer.set_weights(model.get_layer(name).get_weights())
    return copy


def insert_after(model: tf_keras.Model, extras: dict[str, tf_keras.layers.Layer]) -> tf_keras.Model:
    """Returns a copy of a model with new layers inserted between named layers and their consumers.

    Args:
        model: a flat model of layers that `from_config(get_config())` can copy, left untouched.
        extras: new layers by the names of the layers or inputs that they follow.

    Returns:
        The copy, with the model's weights.
    """
    if not extras:
        return model
    objects = {type(layer).__name__: type(layer) for layer in [*model.layers, *extras.values()]}
    # Legacy entries of layers are a class name and a config alone, as `_entry` makes them.
    model.use_legacy_config = True
    config = model.get_config()
    if isinstance(model, tf_keras.Sequential):
        _extend_sequential(config, extras)
    else:
        _extend_functional(config, extras)
    with tf_keras.utils.custom_object_scope(objects):
        copy = type(model).from_config(config)
    for layer in model.layers:
        copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _extend_sequential(config: dict[str, Any], extras: dict[str, tf_keras.layers.Layer]) -> None:
    """Inserts the entries of new layers after the entries that they follow."""
    entries = []
    for entry in config["layers"]:
        entries.append(entry)
        if entry["config"]["name"] in extras:
            entries.append(_entry(extras[entry["config"]["name"]]))
    config["layers"] = entries


def _extend_functional(config: dict[str, Any], extras: dict[str, tf_keras.layers.Layer]) -> None:
    """Appends the entries of new layers and connects the consumers of the old outputs to them."""
    names = {old: layer.name for old, layer in extras.items()}
    added = []
    for entry in config["layers"]:
        _rename(entry["inbound_nodes"], names)
        if entry["name"] in extras:
            # An input has no inbound node, but one output.
            count = max(len(entry["inbound_nodes"]), 1)
            nodes = [[[entry["name"], node_index, 0, {}]] for node_index in range(count)]
            added.append({**_entry(extras[entry["name"]]), "name": names[entry["name"]], "inbound_nodes": nodes})
    config["layers"] += added
    _rename(config["output_layers"], names)


def _entry(layer: tf_keras.layers.Layer) -> dict[str, Any]:
    """Returns the entry of a layer in a model's config."""
    return {"class_name": tf_keras.utils.get_registered_name(type(layer)), "config": layer.get_config()}


def _rename(value: Any, names: dict[str, str]) -> None:
    """Renames layers in references `[name, node, tensor, ...]`, in place, for the first output tensor (0) only."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return
    if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int) and value[2] == 0:
        value[0] = names.get(value[0], value[0])
    for part in value:
        _rename(part, names)
