"""Taps: access to the inputs of layers, and to their outputs before the activation, while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from r2keras._models import rebuild
from r2keras._models.neighbors import nodes
from r2keras._models.sparse_marks import IgnoresSparseMarks
from r2keras._models.walk import ModelView, view_of
from r2keras.calibration.as_matrix import numpy


class Tap(IgnoresSparseMarks):
    """Runs a layer and passes its inputs, and its outputs before the activation, to a listener.

    Args:
        layer: a layer for which `as_matrix.is_linear` holds.
    """

    def __init__(self, layer: keras.Layer):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.layer = rebuild.copy_layer(layer, activation="linear")
        self.activation = layer.activation
        self.supports_masking = layer.supports_masking
        self.listener: Callable[[Any, Any], None] | None = None

    def build(self, input_shape: Any) -> None:
        """Builds the layer."""
        self.layer.build(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Runs the layer, then the listener, then the activation."""
        outputs = self.layer(inputs)
        if self.listener is not None:
            self.listener(inputs, outputs)
        return self.activation(outputs)


class Tapped:
    """A copy of a model with taps on some of its layers.

    Args:
        model: a built Functional or Sequential model, or its view; left untouched.
        paths: the layers to tap.
    """

    def __init__(self, model: keras.Model | ModelView, paths: Iterable[str]):
        paths, view = set(paths), view_of(model)
        self.model = rebuild.rebuild(view, lambda path, layer: Tap(layer) if path in paths else None)
        self.taps: dict[str, Tap] = dict(view_of(self.model).instances(Tap))
        self._uses = {path: node.uses for path, node in nodes(view).items()}

    def layer(self, path: str) -> keras.Layer:
        """Returns the copy of a tapped layer, without its activation."""
        return self.taps[path].layer

    def is_called_once(self, path: str) -> bool:
        """Whether a layer has a single output to cut at: not inside a nested model, and called once."""
        return "/" not in path and self._uses[path] == 1

    def until(self, path: str) -> keras.Model:
        """Returns the part of the copy up to a layer, or the whole copy if it cannot be cut there."""
        if not self.is_called_once(path):
            return self.model
        return keras.Model(self.source, self.model.get_layer(path).output)

    @property
    def source(self) -> Any:
        """The inputs of the copy in their structure."""
        return self.model.inputs[0] if isinstance(self.model, keras.Sequential) else self.model.input

    def output_means(self, paths: Iterable[str], part: keras.Model, inputs: Iterable[Any]) -> dict[str, np.ndarray]:
        """Runs all batches through a part of the copy once.

        Args:
            paths: tapped layers.
            part: the whole copy (`model`), or a part of it that has these layers.
            inputs: the inputs of the part, by batch.

        Returns:
            For each layer the mean over samples and calls of its outputs before the activation, float64; none for a
            layer that is called on inputs of different sizes.
        """
        totals = {path: _Mean() for path in paths}
        for path, total in totals.items():
            self.taps[path].listener = total
        try:
            for batch in inputs:
                part(batch, training=False)
        finally:
            for path in totals:
                self.taps[path].listener = None
        return {path: total.value() for path, total in totals.items() if total.is_one_shape}

    def listen(self, part: keras.Model, path: str, inputs: Any) -> list[tuple[Any, Any]]:
        """Runs a batch through a part of the copy.

        Args:
            part: the result of `until(path)`, or a later part of it.
            path: a tapped layer.
            inputs: the inputs of the part.

        Returns:
            `(inputs, outputs before the activation)` of each call of the layer, as tensors.
        """
        calls: list[tuple[Any, Any]] = []
        self.taps[path].listener = lambda inputs, outputs: calls.append((inputs, outputs))
        try:
            part(inputs, training=False)
        finally:
            self.taps[path].listener = None
        return calls


class _Mean:
    """A listener that averages outputs."""

    def __init__(self) -> None:
        self.total: np.ndarray | float = 0.0
        self.count = 0
        self.is_one_shape = True

    def __call__(self, inputs: Any, outputs: Any) -> None:
        values = numpy(outputs)
        self.is_one_shape = self.is_one_shape and np.shape(self.total) in ((), values.shape[1:])
        if not self.is_one_shape:
            return
        self.total = self.total + values.sum(axis=0, dtype=np.float64)
        self.count += len(values)

    def value(self) -> np.ndarray:
        """Returns the mean over samples."""
        return np.asarray(self.total / self.count)
