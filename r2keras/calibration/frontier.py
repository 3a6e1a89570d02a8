"""The frontier of a model that is finished from front to back: what is before it runs once, not for each layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from r2keras._models.cuts import Key, parts_between_cuts, tensors_of
from r2keras._models.keras_internals import has_mask
from r2keras._models.values import packed
from r2keras.calibration.data_checks import Batch
from r2keras.calibration.taps import Tapped

# Bytes of the tensors that are kept at a frontier.
MOST_BYTES = 2**29


class Frontier:
    """The inputs of the part of a tapped copy that is not finished yet.

    A layer's inputs are measured after all layers before it are finished. Without a frontier each measurement runs the
    model from its inputs, and the time grows with the square of the number of layers.

    Args:
        tapped: the copy.
        data: checked batches.
        paths: the layers that will be finished, each by one call of `finish`.
    """

    def __init__(self, tapped: Tapped, data: list[Batch], paths: Iterable[str]) -> None:
        self.tapped = tapped
        self._whole = data
        self._batches: list[Any] = [packed(tapped.model, batch) for batch in data]
        self._start: keras.KerasTensor | None = None
        self._next = 0
        self._cuts: list[Key | None] = []
        self._part_of: dict[str, int] = {}
        self._tensors: dict[Key, keras.KerasTensor] = {}
        if not any(_makes_mask(layer) for layer in tapped.model.layers):
            self._find_parts(list(paths))
        self._open = [0] * len(self._cuts)
        for path in paths:
            if path in self._part_of:
                self._open[self._part_of[path]] += 1

    def inputs_of(self, path: str) -> tuple[keras.Model, list[Any]]:
        """Returns the part of the copy that ends with a layer, and its inputs by batch."""
        part = self._part_of.get(path)
        if part is None or self._start is None or part < self._next:
            return self.tapped.until(path), [packed(self.tapped.model, batch) for batch in self._whole]
        return keras.Model(self._start, self.tapped.model.get_layer(path).output), self._batches

    def finish(self, path: str) -> None:
        """Notes that a layer has its final values; moves the frontier to the last cut with nothing open before it."""
        part = self._part_of.get(path)
        if part is None:
            return
        self._open[part] -= 1
        done = next((index for index, count in enumerate(self._open) if count > 0), len(self._open))
        while self._next < done and self._next < len(self._cuts) - 1:
            key = self._cuts[self._next]
            assert key is not None  # Only the last part ends with the outputs of the model.
            if not self._moved(self._tensors[key]):
                return
            self._next += 1

    def _find_parts(self, paths: list[str]) -> None:
        """Finds the parts of the copy, and the part of each layer that is called once outside of nested models."""
        model = self.tapped.model
        single = {path for path in paths if self.tapped.is_called_once(path)}
        # A path without a single call keeps everything before it open: its part is not known.
        if len(single) < len(paths) or not all(path in {layer.name for layer in model.layers} for path in single):
            return
        if isinstance(model, keras.Sequential):
            model = keras.Model(model.inputs, model.outputs)
        parts = parts_between_cuts(model)
        self._cuts = [part.output for part in parts]
        self._tensors = tensors_of(model)
        self._part_of = {name: index for index, part in enumerate(parts) for name in part.layers if name in single}

    def _moved(self, tensor: keras.KerasTensor) -> bool:
        """Moves the frontier to a tensor; returns False if its values would take too much memory, or carry a mask."""
        count = sum(len(batch[0]) for batch in self._whole)
        shape = tensor.shape[1:]
        if None in shape or tensor.sparse or count * int(np.prod(shape)) * 4 > MOST_BYTES:
            return False
        source = self._start if self._start is not None else self.tapped.source
        part = keras.Model(source, tensor)
        moved = []
        for batch in self._batches:
            outputs = part(batch, training=False)
            # A mask of a layer inside a nested model, or of an own layer: arrays would lose it.
            if has_mask(outputs):
                return False
            moved.append(ops.convert_to_numpy(outputs))
        self._batches, self._start = moved, tensor
        return True


def _makes_mask(layer: keras.Layer) -> bool:
    """Whether a layer makes a mask, which only a whole model hands on."""
    return isinstance(layer, keras.layers.Masking) or bool(getattr(layer, "mask_zero", False))
