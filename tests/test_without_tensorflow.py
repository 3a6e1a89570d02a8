"""On JAX and PyTorch only export needs TensorFlow, and its error says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.backends, pytest.mark.elsewhere]

ROOT = Path(__file__).resolve().parents[1]

# A process in which TensorFlow is not installed, whatever this machine has.
CODE = """
import importlib.machinery, json, os, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = {"tensorflow", "tf_keras", "tensorflow_model_optimization", "ai_edge_litert"}
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder

import keras, numpy as np, r2keras

def told(call):
    try:
        call()
    except (ImportError, RuntimeError) as error:
        return str(error)

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
model = r2keras.regularize(model, r2keras.R2Margin(0.01))
student = r2keras.prepare(model, r2keras.Recipe([("head", r2keras.QuantSpec(num_bits=4))]))
student.compile("sgd", "mse")
student.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
small, record = r2keras.finalize(student)
record.save("m.record.npz")
open("any.tflite", "wb").close()
print(json.dumps({
    "summary": str(r2keras.report.summarize(r2keras.CompressionRecord.load("m.record.npz"))),
    "to_litert": told(lambda: r2keras.export.to_litert(small, "m.tflite", record)),
    "LiteRTModel": told(lambda: r2keras.export.LiteRTModel("any.tflite")),
    "files": sorted(os.listdir()),
}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder, env = tmp_path_factory.mktemp("without"), {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_training_compressing_and_reporting_work(seen):
    assert "head/kernel" in seen["summary"]


def test_export_says_what_to_do_and_writes_nothing(seen):
    assert "KERAS_BACKEND=tensorflow" in seen["to_litert"]
    assert seen["files"] == ["any.tflite", "m.record.npz"]


def test_running_a_file_says_what_to_install(seen):
    assert "pip install ai-edge-litert" in seen["LiteRTModel"]
