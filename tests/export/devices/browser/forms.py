"""One small net in the forms of file that the tests of this folder run."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

import r2keras
from r2keras.export import to_litert

X = np.random.default_rng(1).normal(size=(5, 6, 6, 3)).astype(np.float32)
# Those that LiteRT.js runs.
FORMS = ("float", "exact", "dynamic", "palette", "integer")


def write_forms(folder: Path) -> dict[str, Path]:
    """Writes one net with a batch of one sample in every form, and with inputs and outputs of 8 bits."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(X.shape[1:], batch_size=1)
    x = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    palettes = r2keras.Recipe([(".*", r2keras.PaletteSpec(num_bits=2, min_size=0))])
    four = r2keras.calibrate(model, r2keras.Recipe.uniform(4, edges=None), X, progress=False)
    eight = r2keras.calibrate(model, r2keras.Recipe.int8(), X, integer=True, progress=False)
    palette = r2keras.calibrate(model, palettes, X, progress=False)
    paths = {form: folder / f"{form}.tflite" for form in (*FORMS, "int8 io")}
    to_litert(model, paths["float"])
    to_litert(four[0], paths["exact"], four[1])
    to_litert(four[0], paths["dynamic"], four[1], activations="dynamic")
    to_litert(palette[0], paths["palette"], palette[1])
    to_litert(eight[0], paths["integer"], eight[1], activations="int8")
    to_litert(eight[0], paths["int8 io"], eight[1], activations="int8", io="int8")
    return paths
