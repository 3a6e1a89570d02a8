"""Callback that logs the error of hardening palettes during training."""

from __future__ import annotations

from typing import Any

import keras

from r2keras._models.keras_internals import parts_of
from r2keras.layers.wrappers.palettize import Palettize


class PaletteMonitor(keras.callbacks.Callback):
    """Logs the distance between the soft palettes of training and the hard ones of the file after every epoch.

    `palette_gap` is the largest `|soft - hard| / |weight|` of all palettized kernels, `palette_error` the largest
    `|weight - hard| / |weight|`. (Metrics with the prefix `val_` use hard palettes already.) If the gap does not
    shrink, use `callbacks.AnnealPalettes`.

    Example:

    >>> import numpy as np
    >>> from r2keras import PaletteSpec, Recipe, prepare
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> student = prepare(model, Recipe([("head", PaletteSpec(num_bits=2, min_size=0))]))
    >>> student.compile("sgd", "mse")
    >>> run = student.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0, callbacks=[PaletteMonitor()])
    >>> sorted(run.history)
    ['loss', 'palette_error', 'palette_gap']
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the figures to the epoch's logs."""
        layers = [layer for layer in parts_of(self.model) if isinstance(layer, Palettize)]
        pairs = [pair for layer in layers for pair in layer.gaps().values()]
        if pairs and logs is not None:
            logs["palette_gap"] = max(gap for gap, _ in pairs)
            logs["palette_error"] = max(error for _, error in pairs)
