"""Tiny models on disk, made once for all tests of the command lines."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import r2keras


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with float and compressed models, recipe, record, data, and the file of the compressed model."""
    folder = tmp_path_factory.mktemp("made")
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1), name="image"),
            layers.Conv2D(4, 3, name="stem", use_bias=False),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ],
        name="tiny",
    )
    x = np.random.default_rng(0).normal(size=(40, 6, 6, 1)).astype(np.float32)
    y = model.predict(x, verbose=0).argmax(-1)
    np.savez(folder / "x.npz", x=x, y=y)
    np.savez(folder / "image.npz", image=x)
    recipe = r2keras.Recipe([("stem", r2keras.QuantSpec(num_bits=8)), ("head", r2keras.QuantSpec(num_bits=4))])
    recipe.save(folder / "recipe.yaml")
    small, record = r2keras.calibrate(model, recipe, x)
    model.save(folder / "float.keras")
    model.save(folder / "float.h5")
    small.save(folder / "small.keras")
    record.save(folder / "small.record.npz")
    r2keras.export.to_litert(small, folder / "small.tflite", record)
    return folder
