"""A model of one Keras made again in the other, with its weights."""

from __future__ import annotations

from types import ModuleType

import keras
import numpy as np

from r2keras.tfmot._configs import KERAS_NAMES, NoCounterpartError, Translator
from r2keras.tfmot._graphs import Graph, Operator, Tensor, graph_of, replaced
from r2keras.tfmot._weights import carry_over

_FIX = {
    "keras": "Compressed models first go through r2keras.finalize; write operators as layers",
    "tf_keras": "Wrapped models first go through r2keras.tfmot.finalize, strip_clustering or strip_pruning; write "
    "operators as layers",
}


class Rebuild:
    """Makes a model again in another Keras; shared layers stay shared, nested models nested.

    Args:
        source: `keras` or `tf_keras`, where the model comes from.
        target: the other one.
    """

    def __init__(self, source: ModuleType, target: ModuleType):
        self.source, self.target = source, target
        self._translator = Translator(source, target)
        self._graphs: dict[int, Graph] = {}
        self._layers: dict[int, object] = {}
        self._pairs: list[tuple[str, object, object]] = []
        self._problems: list[str] = []

    def run(self, model):
        """Returns the new model; raises ValueError with every layer that has no counterpart."""
        self._plan(model, "")
        if self._problems:
            raise ValueError(
                f"Not every layer of {model.name!r} exists in {KERAS_NAMES[self.target.__name__]}. Expected layers "
                f"that both have. Received: {'; '.join(self._problems)}. {_FIX[self.source.__name__]}."
            )
        try:
            new = self._model(model)
        except (TypeError, ValueError, AttributeError) as error:
            reason = str(error).strip().partition("\n\nCall arguments")[0]
            raise ValueError(f"{KERAS_NAMES[self.target.__name__]} cannot build {model.name!r}. {reason}") from error
        for path, old, copy in self._pairs:
            carry_over(path, old, copy)
        return new

    def _plan(self, model, prefix: str) -> None:
        """Makes the new layers, unbuilt, and notes what cannot be made."""
        if id(model) in self._graphs:
            return
        if isinstance(model, self.source.Sequential):
            parts = list(model.layers)
        else:
            self._graphs[id(model)] = graph = graph_of(model)
            parts = [step.layer for step in graph.steps]
        for part in parts:
            path = prefix + part.name
            if isinstance(part, self.source.Model):
                self._plan(part, f"{path}/")
            elif id(part) not in self._layers:
                self._layers[id(part)] = self._translated(part, path)

    def _translated(self, part, path: str):
        """Returns the new layer for an old one, or None with the problem noted."""
        try:
            if isinstance(part, Operator):
                return self._merging(part)
            new = self._translator.layer(part)
        except NoCounterpartError as error:
            self._problems.append(f"{path} ({error})")
            return None
        self._pairs.append((path, part, new))
        return new

    def _merging(self, operator: Operator):
        """Returns the layer that does what an operator does."""
        if operator.merge is None:
            raise NoCounterpartError(f"no layer does the operation {operator.kind} on these arguments")
        return getattr(self.target.layers, operator.merge)(name=operator.name)

    def _model(self, model):
        """Returns the new model for an old one, made once."""
        if id(model) not in self._layers:
            make = self._sequential if isinstance(model, self.source.Sequential) else self._functional
            self._layers[id(model)] = new = make(model)
            if not model.trainable:
                new.trainable = False
        return self._layers[id(model)]

    def _new(self, part):
        """Returns the new layer or model for an old one."""
        return self._model(part) if isinstance(part, self.source.Model) else self._layers[id(part)]

    def _sequential(self, model):
        """Returns a Sequential model of the new layers."""
        layers = [self._input(model.inputs[0]), *(self._new(layer) for layer in model.layers)]
        return self.target.Sequential(layers, name=model.name)

    def _functional(self, model):
        """Returns a Functional model by calling the new layers in order."""
        graph = self._graphs[id(model)]
        inputs = keras.tree.map_structure(self._input, model.input)
        values = dict(zip(graph.inputs, ([x] for x in keras.tree.flatten(inputs)), strict=True))

        def value(tensor: Tensor):
            return values[tensor.producer][tensor.place]

        for step in graph.steps:
            args, kwargs = replaced((step.args, step.kwargs), value)
            values[step.producer] = keras.tree.flatten(self._new(step.layer)(*args, **kwargs))
        outputs = keras.tree.pack_sequence_as(model.output, [value(tensor) for tensor in graph.outputs])
        return self.target.Model(inputs, outputs, name=model.name)

    def _input(self, tensor):
        """Returns a new input like an old one."""
        shape = tuple(tensor.shape)
        return self.target.Input(shape[1:], batch_size=shape[0], dtype=_dtype_name(tensor), name=tensor.name)


def _dtype_name(tensor) -> str:
    """Returns the name of a tensor's dtype in either Keras."""
    return tensor.dtype if isinstance(tensor.dtype, str) else np.dtype(tensor.dtype.as_numpy_dtype).name
