"""Every form of a palettized model's file: bytes, gzip, time per call, peak memory, error.

    python benchmarks/palette_files.py            # about a minute; rows go to results/palette_files.json
    python benchmarks/palette_files.py --table    # the tables, from results/palette_files.json

Two nets with random weights (seed 0) and 4-bit palettes of int8 entries: convolutions with batch normalization (70,746
values) and dense layers (235,146). One thread, batch size 1, forms timed in a new random order each round. The time is
that of the fastest round, because other work on the machine can only add to it; the peak memory is that of a process
that loads the file and runs it. `expanded` is the float file that `r2keras.export.expand` makes from `size`; `float` is
the file of the float model.
"""

from __future__ import annotations

import gzip
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, machine, machine_line, markdown, quartiles
from r2keras.cli import common as cli

if TYPE_CHECKING:
    import keras

FORMS = ("memory", "size", "latency")
ORDER = ("float", *FORMS, "expanded")
RESULTS = Path(__file__).with_name("results") / "palette_files.json"

FLAGS = flags.FlagValues()
flags.DEFINE_bool("table", False, "Print the tables of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 15, "Rounds; each times every file.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("runs", 50, "Runs per file and round; their median is used.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file.", flag_values=FLAGS)


def conv_net() -> keras.Model:
    """Returns five convolutions with batch normalization on 28 x 28 pixels."""
    import keras
    from keras import layers

    x = inputs = keras.Input((28, 28, 1))
    for filters, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)), name="conv")


def dense_net() -> keras.Model:
    """Returns three dense layers on 784 values."""
    import keras
    from keras import layers

    x = inputs = keras.Input((784,))
    for units in (256, 128):
        x = layers.Dense(units, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="dense")


def write_files(model: keras.Model, folder: Path) -> tuple[dict[str, Path], dict[str, float], Row]:
    """Palettizes a model and writes its files.

    Returns:
        By form, the files and their largest difference from Keras relative to the output range; the columns for the
        milliseconds of `expand` and the bytes of the bundle.
    """
    import numpy as np

    import r2keras
    from r2keras.export import bundle, expand, to_litert, verify

    data = np.random.default_rng(0).normal(size=(64, *model.inputs[0].shape[1:])).astype(np.float32)
    recipe = r2keras.Recipe([(".*", r2keras.PaletteSpec(num_bits=4, table_dtype="int8"))])
    model, record = r2keras.calibrate(model, recipe, data)
    files = {form: folder / f"{form}.tflite" for form in ORDER}
    to_litert(model, files["float"])
    for form in FORMS:
        to_litert(model, files[form], record, optimize=form)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        expanded = expand(files["size"])
        seconds.append(time.perf_counter() - start)
    files["expanded"].write_bytes(expanded)
    differences = {form: verify(model, path, data).relative_difference for form, path in files.items()}
    columns = {"expand_ms": 1e3 * min(seconds), "bundle_bytes": len(bundle(files["size"]))}
    return files, differences, columns


def measure(files: dict[str, Path], xnnpack: bool) -> dict[str, Row]:
    """Measures time and memory of each file."""
    from r2keras.export import LiteRTModel
    from r2keras.export.runtime.peak_memory import peak_memory

    runners = {form: LiteRTModel(path, xnnpack=xnnpack) for form, path in files.items()}
    times: dict[str, list[float]] = {form: [] for form in files}
    order, shuffle = list(files), random.Random(0).shuffle
    for _ in range(FLAGS.rounds):
        shuffle(order)
        for form in order:
            times[form].append(runners[form].latency(FLAGS.runs).median_ms)
    rows = {}
    for form, path in files.items():
        peak = peak_memory(path, xnnpack=xnnpack)
        figures = {"ms": min(times[form]), "ms_median": quartiles(times[form])[1]}
        rows[form] = {**figures, "peak_kib": None if peak is None else peak // 1024}
    return rows


def table(rows: list[Row], net: str) -> str:
    """Returns the Markdown table of one net."""
    header = ["form", "bytes", "gzip", "ms, XNNPACK", "ms, without", "peak KiB, XNNPACK", "without", "off by"]
    cells = []
    for form in ORDER:
        fast, plain = (
            next(r for r in rows if (r["net"], r["form"], r["xnnpack"]) == (net, form, x)) for x in (True, False)
        )
        peaks = ["-" if row["peak_kib"] is None else f"{row['peak_kib']:,}" for row in (fast, plain)]
        times = [f"{row['ms']:.3f}" for row in (fast, plain)]
        cells.append([form, f"{fast['bytes']:,}", f"{fast['gzip']:,}", *times, *peaks, f"{fast['difference']:.0e}"])
    return markdown(header, cells)


def main() -> int:
    """Measures both nets and prints their tables."""
    rows = Rows(FLAGS.out, ("net", "form", "xnnpack"))
    if not FLAGS.table:
        about = machine()
        for build in (conv_net, dense_net):
            rows.add(run(build, about))
    print(machine_line(rows.rows[0]["machine"]))
    for first in (row for row in rows.rows if row["form"] == "size" and row["xnnpack"]):
        title = f"{first['net']}, {first['values']:,} values; bundle {first['bundle_bytes']:,} bytes; "
        print("", title + f"expand takes {first['expand_ms']:.0f} ms", "", table(rows.rows, first["net"]), sep="\n")
    return 0


def run(build: Callable[[], keras.Model], about: Row) -> list[Row]:
    """Measures one net; returns its rows."""
    import keras

    keras.utils.set_random_seed(0)
    model = build()
    with tempfile.TemporaryDirectory() as folder:
        files, differences, columns = write_files(model, Path(folder))
        rows = []
        for xnnpack in (True, False):
            for form, figures in measure(files, xnnpack).items():
                data = files[form].read_bytes()
                sizes = {"bytes": len(data), "gzip": len(gzip.compress(data, 6, mtime=0))}
                key = {"net": model.name, "form": form, "xnnpack": xnnpack, "values": model.count_params()}
                rows.append({**key, **sizes, **figures, "difference": differences[form], **columns, "machine": about})
    return rows


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
