"""Packed files on published versions of ai-edge-litert, against the Keras models that they hold.

    python benchmarks/older_runtimes.py        # some minutes; installs wheels in a temporary folder
    python benchmarks/older_runtimes.py --versions=1.2.0,2.1.6

Each version runs the same dense, LSTM and convolutional files at 4 and 2 bits in a process of its own, with XNNPACK. A
line says how far its outputs are from Keras', as a share of the range, or how the runtime refuses the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from r2keras.cli import common as cli

FLAGS = flags.FlagValues()
flags.DEFINE_list(
    "versions",
    ["1.0.1", "1.2.0", "1.4.0", "2.0.2", "2.1.0", "2.1.6", "2.2.0"],
    "Versions of ai-edge-litert on the package index.",
    flag_values=FLAGS,
)
RUN = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
try:
    interpreter = Interpreter(sys.argv[1])
    interpreter.allocate_tensors()
    data = np.load(sys.argv[1].replace(".tflite", ".npz"))
    source, result = (part[0]["index"] for part in (interpreter.get_input_details(), interpreter.get_output_details()))
    outputs = []
    for x in data["x"]:
        interpreter.set_tensor(source, x[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result)[0])
    off = np.abs(outputs - data["y"]) / np.ptp(data["y"])
    print(f"off by {off.max():.1e} at most, {np.median(off):.1e} in the median")
except Exception as error:
    print("refused:", " ".join(str(error).split())[:90])
"""


def write_files(folder: Path) -> list[Path]:
    """Writes the files, and inputs with Keras' outputs beside each."""
    import keras
    import numpy as np

    import r2keras
    from r2keras.export import to_litert

    layers, files = keras.layers, []
    conv = [layers.Conv2D(16, 3, padding="same", activation="relu"), layers.Conv2D(24, 1, activation="relu")]
    conv += [layers.Conv2D(16, 3, strides=2, padding="same"), layers.GlobalAveragePooling2D(), layers.Dense(10)]
    models = {
        "dense": [keras.Input((64,)), layers.Dense(48, activation="relu"), layers.Dense(10)],
        "lstm": [keras.Input((6, 20), batch_size=1), layers.LSTM(32), layers.Dense(10)],
        "conv": [keras.Input((8, 8, 16)), *conv],
    }
    for name, parts in models.items():
        keras.utils.set_random_seed(0)
        model, is_integer = keras.Sequential(parts), name == "conv"
        x = np.random.default_rng(0).normal(size=(16, *model.input_shape[1:])).astype("float32")
        for bits, levels in ((4, None), (2, "mid_tread")):
            spec = r2keras.QuantSpec(
                num_bits=bits, granularity="per_channel", levels=levels, activation_bits=8 if is_integer else None
            )
            recipe = r2keras.Recipe([(".*", spec)])
            small, record = r2keras.calibrate(model, recipe, x, integer=is_integer, progress=False)
            path = folder / f"{name}_w{bits}.tflite"
            to_litert(small, path, record, activations="int8" if is_integer else "dynamic")
            twin = small if is_integer else r2keras.dynamic_twin(small, record)
            y = np.concatenate([keras.ops.convert_to_numpy(twin(sample[None])) for sample in x[:8]])
            np.savez(path.with_suffix(".npz"), x=x[:8], y=y)
            files.append(path)
    return files


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder))
        for version in FLAGS.versions:
            target = Path(folder, version)
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
            subprocess.run([*pip, f"ai-edge-litert=={version}"], check=True, capture_output=True)
            for path in files:
                environment = {**os.environ, "PYTHONPATH": str(target)}
                command = [sys.executable, "-c", RUN, str(path)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                line = done.stdout.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
                print(f"{version} {path.stem}: {line[0]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
