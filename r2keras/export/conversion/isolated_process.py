"""TensorFlow's converter in a separate process, where a crash becomes an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

# TensorFlow imports Keras and JAX where they are installed, which takes half of the time of its import. The converter
# needs neither: TensorFlow treats a module with an entry of None as not installed.
SCRIPT = """
import pathlib, sys
sys.modules.update(dict.fromkeys(("jax", "keras", "tf_keras")))
folder = pathlib.Path(sys.argv[1])
try:
    import tensorflow as tf
    content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "model"), signature_keys=[sys.argv[2]]).convert()
    (folder / "model.tflite").write_bytes(content)
except Exception as error:
    (folder / "error").write_text(str(error) or type(error).__name__, encoding="utf-8")
"""


def convert_apart(folder: Path, signature: str) -> bytes:
    """Returns the `.tflite` of the SavedModel `folder/model`, converted by another Python process on the CPU.

    Args:
        folder: holds the SavedModel; the process writes its result there too.
        signature: the name of the SavedModel's signature.

    Raises:
        RuntimeError: the converter rejects the model (the message is its own), or crashes.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", SCRIPT, str(folder), signature]
    process = subprocess.run(command, env=environment, capture_output=True, check=False)
    if (folder / "model.tflite").is_file() and not process.returncode:
        return (folder / "model.tflite").read_bytes()
    if (folder / "error").is_file():
        raise RuntimeError((folder / "error").read_text(encoding="utf-8"))
    raise RuntimeError(f"its process ended with {ending(process.returncode)} and wrote no file")


def ending(code: int) -> str:
    """Describes how a process ended: its exit status, or the signal that ended it."""
    if code >= 0:
        return f"exit status {code}"
    signal_names = {entry.value: entry.name for entry in signal.Signals}
    return signal_names.get(-code, f"signal {-code}")
