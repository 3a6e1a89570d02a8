"""Callback that anneals the temperature of palettes."""

from __future__ import annotations

import keras

from r2keras._models import walk
from r2keras._util.errors import check_positive, invalid
from r2keras.layers.wrappers.palettize import Palettize
from r2keras.specs.palette import FINAL, START


class AnnealPalettes(keras.callbacks.Callback):
    """Anneals palettes in training: soft at first, nearly hard at the end, as they are in the file.

    Over the first share `until` of the training steps of `fit`, the temperature of each palette changes geometrically
    from `start` to `final` times its spec's, and then stays. Soft assignments let weights move from one centroid to
    another; hard ones let centroids and batch normalization adapt to the values of inference. Replaces the schedules
    of the specs.

    Args:
        start: multiple of `PaletteSpec.temperature` at the first step, above 0.
        final: multiple at the end, above 0.
        until: share of the steps that the schedule takes, above 0, at most 1.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument out of its range; at the start of training, a model without palettes, or data whose
            number of batches is unknown.

    Example:

    >>> import numpy as np, r2keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> student = r2keras.prepare(model, r2keras.Recipe([("head", r2keras.PaletteSpec(num_bits=2, min_size=0))]))
    >>> student.compile("sgd", "mse")
    >>> x = np.eye(4, dtype="float32")
    >>> _ = student.fit(x, x[:, :3], batch_size=1, epochs=2, verbose=0, callbacks=[AnnealPalettes(final=0.5)])
    >>> palette = student.get_layer("head").palettes["kernel"]
    >>> round(float(palette.temperature) / palette.spec.temperature, 3)
    0.5

    Source: the temperature of Cho et al., arXiv 2108.12659, section 3, lowered as in Rose, Proc. IEEE 86 (1998).
    """

    def __init__(self, start: float = START, final: float = FINAL, until: float = 0.8):
        super().__init__()
        self.start = check_positive("start", start)
        self.final = check_positive("final", final)
        self.until = check_positive("until", until)
        if until > 1:
            raise ValueError(invalid("until", "a share of the steps, above 0, at most 1", until))

    def on_train_begin(self, logs=None):
        """Sets the schedule of every palette."""
        layers = walk.view_of(self.model).instances(Palettize)
        palettes = [palette for _, layer in layers for palette in layer.palettes.values()]
        if not palettes:
            raise ValueError(
                f"The model {self.model.name!r} has no palette. Expected a model of r2keras.prepare with a PaletteSpec "
                "in its recipe. Leave out AnnealPalettes."
            )
        if not self.params.get("steps"):
            raise ValueError(
                "The number of training batches is unknown. Expected data with a length, or fit(steps_per_epoch=...). "
                "Pass steps_per_epoch."
            )
        steps = max(1, round(self.until * self.params["epochs"] * self.params["steps"]))
        for palette in palettes:
            palette.anneal(self.start, self.final, steps)
