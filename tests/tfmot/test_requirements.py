"""Missing packages: one sentence that names the package and the command."""

from __future__ import annotations

import importlib.util

import keras
import pytest

from r2keras.tfmot import requirements


@pytest.mark.parametrize(
    ("module", "package"),
    [("tf_keras", "tf-keras"), ("tensorflow_model_optimization", "tensorflow-model-optimization")],
)
def test_a_missing_package_is_named(module, package, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else found(name))
    with pytest.raises(ImportError, match=rf"needs the package `{package}`.*`pip install {package}`"):
        requirements.check()


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"TensorFlow backend\. Received: 'jax'\. Set KERAS_BACKEND=tensorflow"):
        requirements.check()
