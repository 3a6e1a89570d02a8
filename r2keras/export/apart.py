"""TensorFlow's converter in a process of its own, so that a crash of it is an error and not the end of the caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
try:
    import tensorflow as tf
    content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "model"), signature_keys=[sys.argv[2]]).convert()
    (folder / "model.tflite").write_bytes(content)
except Exception as error:
    (folder / "error").write_text(str(error) or type(error).__name__, encoding="utf-8")
"""


def convert_apart(folder: Path, signature: str) -> bytes:
    """Returns the `.tflite` of the SavedModel `folder/model`, made by another Python process on the CPU.

    Args:
        folder: also takes what the process writes.
        signature: the name of the SavedModel's signature.

    Raises:
        RuntimeError: the converter refuses the model, in its own words, or crashes.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", SCRIPT, str(folder), signature]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if (folder / "model.tflite").is_file() and not done.returncode:
        return (folder / "model.tflite").read_bytes()
    if (folder / "error").is_file():
        raise RuntimeError((folder / "error").read_text(encoding="utf-8"))
    raise RuntimeError(f"its process ended with {_ending(done.returncode)} and wrote no file")


def _ending(code: int) -> str:
    """Returns the words for a process' end."""
    if code >= 0:
        return f"exit status {code}"
    known = {entry.value: entry.name for entry in signal.Signals}
    return known.get(-code, f"signal {-code}")
