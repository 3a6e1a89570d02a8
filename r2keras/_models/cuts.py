"""Cuts of a model: tensors that alone carry everything from what is before them to what is after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras

from r2keras._models.graph import TensorRef, calls_of
from r2keras._models.keras_internals import own_nodes

# A tensor of one model: the name of a layer, the index of its call, the index among the outputs of the call.
Key = tuple[str, int, int]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a model.

    Args:
        layers: names of the layers, operations and nested models that it calls, in the order in which they run.
        output: the tensor at which it ends; None for the outputs of the model.
    """

    layers: tuple[str, ...]
    output: Key | None


def parts_between_cuts(model: keras.Model, is_cut: Callable[[Key], bool] = lambda key: True) -> list[Part]:
    """Returns the smallest parts of a model between tensors that alone are needed afterwards.

    Args:
        model: a built Functional model; a nested model is one call.
        is_cut: whether a part may end at a tensor.

    Example:

    >>> inputs = keras.Input((4,))
    >>> x = keras.layers.Dense(4, name="a")(inputs)
    >>> x = keras.layers.Add(name="sum")([keras.layers.Dense(4, name="b")(x), x])
    >>> [part.layers for part in parts_between_cuts(keras.Model(inputs, keras.layers.Dense(2, name="c")(x)))][-3:]
    [('a',), ('b', 'sum'), ('c',)]
    """
    calls = list(calls_of(model).in_run_order())
    last_use = {key_of(ref): place for place, call in enumerate(calls) for ref in call.inputs}
    last_use |= {key_of(ref): len(calls) for ref in calls_of(model).outputs}
    outputs: dict[tuple[str, int], list[Key]] = {}
    for key in last_use:
        outputs.setdefault(key[:2], []).append(key)
    needed = {key_of(ref) for ref in calls_of(model).inputs}
    parts: list[Part] = []
    names: list[str] = []
    for place, call in enumerate(calls):
        names.append(call.name)
        needed |= set(outputs.get((call.name, call.node), ()))
        needed = {key for key in needed if last_use.get(key, -1) > place}
        if len(needed) == 1 and is_cut(next(iter(needed))) and place < len(calls) - 1:
            parts.append(Part(tuple(dict.fromkeys(names)), next(iter(needed))))
            names = []
    return [*parts, Part(tuple(dict.fromkeys(names)), None)] if names else parts


def tensors_of(model: keras.Model) -> dict[Key, keras.KerasTensor]:
    """Returns every tensor of a Functional model that its inputs or calls give.

    >>> inputs = keras.Input((4,))
    >>> tensors_of(keras.Model(inputs, keras.layers.Dense(2, name="head")(inputs)))["head", 0, 0].shape
    (None, 2)
    """
    tensors: dict[Key, keras.KerasTensor] = {}
    counts: dict[str, int] = {}
    for operation, node in own_nodes(model):
        number = counts.get(operation.name, 0)
        counts[operation.name] = number + 1
        tensors |= {(operation.name, number, index): tensor for index, tensor in enumerate(node.outputs)}
    return tensors


def key_of(ref: TensorRef) -> Key:
    """Returns the key of a tensor of the graph."""
    return ref.layer, ref.node, ref.index
