"""A file that Vela compiled."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import r2keras
from r2keras.export import ethos_u, to_litert


@pytest.fixture(scope="session")
def vela_file(tmp_path_factory):
    """Returns the path of the compiled file, beside npu.tflite."""
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(4)])
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    small, record = r2keras.calibrate(model, r2keras.Recipe.int8(), x, integer=True)
    folder = tmp_path_factory.mktemp("vela")
    to_litert(small, folder / "npu.tflite", record, target="ethos-u")
    ethos_u(folder / "npu.tflite", output=folder / "compiled.tflite")
    return folder / "compiled.tflite"
