"""Accuracy of dynamic files, whose products round rows to 8 bits: nets trained with that rounding and without it.

    python benchmarks/rounded_rows.py --data_dir=DIR     # some minutes on 2 cores; rows go to results/rounded_rows.json
    python benchmarks/rounded_rows.py --table            # the tables, from results/rounded_rows.json

DIR holds Fashion-MNIST. Each seed trains a float net for two epochs, then two students of it for one epoch each, on the
same batches: with float rows, and with `activation_method="dynamic"`. Both become files with activations="dynamic",
which LiteRT runs on the test images.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, machine, machine_line, markdown
from r2keras.cli import common as cli

RESULTS = Path(__file__).with_name("results") / "rounded_rows.json"
NETS = ("dense", "lstm")
METHODS = {"float": None, "dynamic": "dynamic"}
RATE, BATCH = 1e-3, 64

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Folder of Fashion-MNIST; None downloads it.", flag_values=FLAGS)
flags.DEFINE_list("nets", list(NETS), f"Any of {', '.join(NETS)}.", flag_values=FLAGS)
flags.DEFINE_multi_integer("bits", [4, 2], "Bits per weight.", lower_bound=1, upper_bound=8, flag_values=FLAGS)
flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("images", 20_000, "Training images.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file; new rows replace old ones.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the tables of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_bool(
    "smoke", False, "The embedded digits, one net, one seed; the figures are meaningless.", flag_values=FLAGS
)


def build(net: str, shape: tuple[int, ...]):
    """Returns a float net: dense layers on pixels, or an LSTM over the rows of the image."""
    import keras
    from keras import layers

    if net == "dense":
        parts = [layers.Flatten(), layers.Dense(256, "relu"), layers.Dense(128, "relu")]
    else:
        parts = [layers.Reshape(shape[:2]), layers.LSTM(64)]
    return keras.Sequential([keras.Input(shape), *parts, layers.Dense(10)])


def fit(model, data, epochs: int, seed: int) -> None:
    """Trains a model; equal seeds give equal batches."""
    import keras

    keras.utils.set_random_seed(seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss)
    model.fit(data.x_train[: FLAGS.images], data.y_train[: FLAGS.images], BATCH, epochs, verbose=0)


def measure(net: str, seed: int, data, about: Row) -> list[Row]:
    """Trains the float net of a seed and its students; returns one row per width and method."""
    import keras

    import r2keras
    from r2keras.workloads.training import accuracy, scores

    keras.utils.set_random_seed(seed)
    model = build(net, data.x_train.shape[1:])
    fit(model, data, 2, seed)
    rows = []
    for num_bits in FLAGS.bits:
        for name, method in METHODS.items():
            start = time.process_time()
            spec = r2keras.QuantSpec(num_bits, activation_bits=8 if method else None, activation_method=method)
            student = r2keras.prepare(model, r2keras.Recipe([(".*", spec)]))
            fit(student, data, 1, seed + 1)
            seconds = time.process_time() - start
            small, record = r2keras.finalize(student)
            in_keras = accuracy(scores(small, data.x_test), data.y_test)
            in_file = accuracy(run_file(small, record, data.x_test), data.y_test)
            row = {
                "net": net,
                "seed": seed,
                "bits": num_bits,
                "rows": name,
                "float": accuracy(scores(model, data.x_test), data.y_test),
            }
            rows.append({**row, "keras": in_keras, "file": in_file, "seconds": seconds, "machine": about})
    return rows


def run_file(small, record, x: np.ndarray) -> np.ndarray:
    """Returns the outputs of the dynamic file of a finalized model."""
    from r2keras.export import LiteRTModel, to_litert

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.tflite")
        to_litert(small, path, record, activations="dynamic")
        return LiteRTModel(path).predict(x)


def table(rows: list[Row]) -> str:
    """Returns the Markdown table: means over the seeds, with the lowest and highest."""
    cells = []
    for net, bits in dict.fromkeys((row["net"], row["bits"]) for row in rows):
        chosen = [row for row in rows if (row["net"], row["bits"]) == (net, bits)]
        found = {
            name: [row["file"] for row in sorted(chosen, key=lambda row: row["seed"]) if row["rows"] == name]
            for name in METHODS
        }
        gains = [after - before for before, after in zip(found["float"], found["dynamic"], strict=True)]
        floats = [row["float"] for row in chosen if row["rows"] == "float"]
        spread = [_spread(values) for values in (floats, found["float"], found["dynamic"])]
        cells.append([net, str(bits), *spread, _spread(gains, "+.2f")])
    header = ["net", "bits", "float net", "trained with float rows", "trained with rounded rows", "difference"]
    return markdown(header, cells)


def _spread(values: list[float], form: str = ".2f") -> str:
    """Returns the mean, the lowest and the highest of shares, in percent."""
    mean, low, high = (f"{100 * value:{form}}" for value in (np.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def main() -> int:
    """Measures every net and prints the table."""
    rows = Rows(FLAGS.out, ("net", "seed", "bits", "rows"))
    if not FLAGS.table:
        from r2keras import workloads

        about = machine()
        data = workloads.data.load("digits" if FLAGS.smoke else "fashion_mnist", FLAGS.data_dir)
        for seed in range(1 if FLAGS.smoke else FLAGS.seeds):
            for net in NETS[:1] if FLAGS.smoke else FLAGS.nets:
                rows.add(measure(net, seed, data, about))
    print(machine_line(rows.rows[0]["machine"]) if rows.rows else "No rows yet.")
    print("", table(rows.rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
