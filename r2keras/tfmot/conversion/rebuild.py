"""Rebuilds a model of one Keras version in the other, with its weights."""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeAlias

import keras
import numpy as np
import tf_keras

from r2keras._models.graph import replaced
from r2keras._util.errors import invalid_part
from r2keras.tfmot.conversion.call_graph import GraphTensor, Operator, StepGraph, step_graph_of
from r2keras.tfmot.conversion.translator import KERAS_NAMES, Layer, NoCounterpartError, Translator
from r2keras.tfmot.conversion.weights import carry_over

Model: TypeAlias = keras.Model | tf_keras.Model

_FIX = {
    "keras": "Pass a compressed model through r2keras.finalize first; write operators as layers, and use functions "
    "and classes that both versions have",
    "tf_keras": "Pass a wrapped model through r2keras.tfmot.finalize, strip_clustering or strip_pruning first; write "
    "operators as layers, and use functions and classes that both versions have",
}


class Rebuild:
    """Rebuilds a model in another Keras version; shared layers stay shared, nested models stay nested.

    Args:
        source: the module of the given model, `keras` or `tf_keras`.
        target: the module of the new model, the other of the two.
    """

    def __init__(self, source: ModuleType, target: ModuleType):
        self.source = source
        self.target = target
        self._translator = Translator(source, target)
        self._graphs: dict[int, StepGraph] = {}
        self._layers: dict[int, Any] = {}
        self._pairs: list[tuple[str, Layer, Layer]] = []
        self._problems: list[str] = []

    def run(self, model: Model) -> Model:
        """Returns the new model; raises a ValueError that names every layer without a counterpart."""
        self._make_layers(model, "")
        if self._problems:
            expected = f"layers that {KERAS_NAMES[self.target.__name__]} has too"
            received = f"the model {model.name!r} with {'; '.join(self._problems)}"
            raise ValueError(invalid_part("model", expected, received, _FIX[self.source.__name__]))
        try:
            new = self._model(model)
        except (TypeError, ValueError, AttributeError) as error:
            reason = str(error).strip().partition("\n\nCall arguments")[0]
            raise ValueError(f"{KERAS_NAMES[self.target.__name__]} cannot build {model.name!r}. {reason}") from error
        for path, old, copy in self._pairs:
            carry_over(path, old, copy)
        return new

    def _make_layers(self, model: Model, prefix: str) -> None:
        """Creates the new, unbuilt layers and collects the problems."""
        if id(model) in self._graphs:
            return
        if isinstance(model, self.source.Sequential):
            parts = list(model.layers)
        else:
            self._graphs[id(model)] = step_graph_of(model)
            parts = [step.layer for step in self._graphs[id(model)].steps]
        for part in parts:
            path = prefix + part.name
            if isinstance(part, self.source.Model):
                self._make_layers(part, f"{path}/")
            elif id(part) not in self._layers:
                self._layers[id(part)] = self._translated(part, path)

    def _translated(self, part: Layer | Operator, path: str) -> Layer | None:
        """Returns the new layer for an old one; records the problem and returns None if there is none."""
        try:
            if isinstance(part, Operator):
                return self._merging_layer(part)
            new = self._translator.layer(part)
        except NoCounterpartError as error:
            self._problems.append(f"{path} ({error})")
            return None
        self._pairs.append((path, part, new))
        return new

    def _merging_layer(self, operator: Operator) -> Layer:
        """Returns the layer that computes the same as an operator."""
        if operator.merge is None:
            raise NoCounterpartError(f"no layer does the operation {operator.kind} on these arguments")
        return getattr(self.target.layers, operator.merge)(name=operator.name)

    def _model(self, model: Model) -> Model:
        """Returns the new model for an old one; later calls return the same model."""
        if id(model) not in self._layers:
            is_sequential = isinstance(model, self.source.Sequential)
            new = self._sequential(model) if is_sequential else self._functional(model)
            self._layers[id(model)] = new
            if not model.trainable:
                new.trainable = False
        return self._layers[id(model)]

    def _new(self, part: Any) -> Any:
        """Returns the new layer or model for an old one."""
        return self._model(part) if isinstance(part, self.source.Model) else self._layers[id(part)]

    def _sequential(self, model: Model) -> Model:
        """Returns a Sequential model of the new layers."""
        layers = [self._input(model.inputs[0]), *(self._new(layer) for layer in model.layers)]
        return self.target.Sequential(layers, name=model.name)

    def _functional(self, model: Model) -> Model:
        """Calls the new layers in order and returns a Functional model."""
        graph = self._graphs[id(model)]
        inputs = keras.tree.map_structure(self._input, model.input)
        values = dict(zip(graph.inputs, ([x] for x in keras.tree.flatten(inputs)), strict=True))

        def value(tensor: GraphTensor) -> Any:
            return values[tensor.producer][tensor.index]

        for step in graph.steps:
            args, kwargs = replaced((step.args, step.kwargs), GraphTensor, value)
            values[step.producer] = keras.tree.flatten(self._new(step.layer)(*args, **kwargs))
        outputs = keras.tree.pack_sequence_as(model.output, [value(tensor) for tensor in graph.outputs])
        return self.target.Model(inputs, outputs, name=model.name)

    def _input(self, tensor: Any) -> Any:
        """Returns a new input with the shape, dtype and name of an old one."""
        shape = tuple(tensor.shape)
        return self.target.Input(shape[1:], batch_size=shape[0], dtype=_dtype_name(tensor), name=tensor.name)


def _dtype_name(tensor: Any) -> str:
    """Returns the name of the dtype of a tensor of either Keras version."""
    return tensor.dtype if isinstance(tensor.dtype, str) else np.dtype(tensor.dtype.as_numpy_dtype).name
