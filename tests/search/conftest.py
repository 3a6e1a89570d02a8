"""A tiny model, its data and a tiny language model on disk; every test here needs Optuna."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from r2keras.search import Search


@pytest.fixture(autouse=True, scope="session")
def _optuna():
    pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def _uncompiled():
    """Spares compiling: tests/layers and tests/test_compress.py train compiled students."""
    tensorflow = pytest.importorskip("tensorflow")
    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    keras.utils.set_random_seed(2)
    dense = [keras.Input((6,)), layers.Dense(8, activation="relu", name="hidden"), layers.Dense(3, name="head")]
    keras.Sequential(dense, name="tiny").save(folder / "m.keras")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)).astype("float32")
    np.savez(folder / "x.npz", x=x, y=x[:, :3].argmax(-1))
    image = [keras.Input((6, 6, 1)), layers.Conv2D(4, 3, use_bias=False, name="conv"), layers.BatchNormalization()]
    image += [layers.DepthwiseConv2D(3, activation="relu", name="deep"), layers.GlobalAveragePooling2D()]
    keras.Sequential([*image, layers.Dense(3, name="head")], name="image").save(folder / "image.keras")
    np.savez(folder / "image.npz", x=rng.normal(size=(60, 6, 6, 1)).astype("float32"), y=rng.integers(0, 3, 60))
    words = keras.Input((None,), dtype="int32")
    text = layers.LSTM(6, return_sequences=True, name="lstm")(layers.Embedding(9, 4, name="words")(words))
    keras.Model(words, layers.Dense(9, activation="softmax", name="out")(text), name="text").save(folder / "text.keras")
    np.savez(folder / "text.npz", train=rng.integers(0, 9, 200), valid=rng.integers(0, 9, 61))
    return folder


@pytest.fixture
def search(folder):
    """Makes a search of the tiny model; keywords replace its settings."""

    def make(**settings):
        given = {"model": folder / "m.keras", "data": folder / "x.npz", "bits": (2, 4), "widths": (1,), "epochs": 2}
        return Search(**(given | settings))

    return make
