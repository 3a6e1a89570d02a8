"""One LSTM as a loop and as LiteRT's fused operator, float and at few bits: bytes, time per call, error.

    python benchmarks/recurrent_files.py            # some minutes; rows go to results/recurrent_files.json
    python benchmarks/recurrent_files.py --table    # the tables, from results/recurrent_files.json

Random weights (seed 0), 32 time steps, as many features as units, batch size 1, one thread. The files are timed in a
new random order each round. The time is the processor time of the fastest round, because other work on the machine can
only add to it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, interleave, machine, machine_line, markdown, quartiles
from r2keras.cli import common as cli

RESULTS = Path(__file__).with_name("results") / "recurrent_files.json"
WEIGHTS = ("float", "8 bits", "4 bits", "2 bits", "palette, 4 bits")
FORMS = ("loop", "fused")
LENGTH = 32

FLAGS = flags.FlagValues()
flags.DEFINE_bool("table", False, "Print the tables of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_multi_integer("units", [64, 300], "Units of the LSTM.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("rounds", 15, "Rounds; each times every file.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("runs", 20, "Runs per file and round; their median is used.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file.", flag_values=FLAGS)


def make_spec(weights: str):
    """Returns the spec of both kernels; None for float."""
    import r2keras

    if weights == "float":
        return None
    if weights.startswith("palette"):
        return r2keras.PaletteSpec(num_bits=4)
    return r2keras.QuantSpec(num_bits=int(weights[0]))


def write_files(units: int, folder: Path) -> dict[tuple[str, str], Row]:
    """Writes all files of one LSTM; returns path, bytes and error of each by (weights, form)."""
    import keras
    import numpy as np

    import r2keras
    from r2keras.export import to_litert, verify

    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH, units))
    model = keras.Model(inputs, keras.layers.LSTM(units)(inputs))
    data = np.random.default_rng(0).normal(size=(8, LENGTH, units)).astype(np.float32)
    files = {}
    for weights in WEIGHTS:
        small, record = model, None
        spec = make_spec(weights)
        if spec is not None:
            small, record = r2keras.calibrate(model, r2keras.Recipe([(".*", spec)]), data)
        for form in FORMS:
            path = folder / f"{form} {weights}.tflite"
            size = to_litert(small, path, record, recurrent=form)
            difference = verify(small, path, data).relative_difference
            files[weights, form] = {"path": path, "bytes": size.file_bytes, "difference": difference}
    return files


def run(units: int, about: Row) -> list[Row]:
    """Measures one LSTM; returns its rows."""
    from r2keras.export.tflite.interpreter import open_interpreter

    with tempfile.TemporaryDirectory() as folder:
        files = write_files(units, Path(folder))
        calls = {}
        for key, file in files.items():
            interpreter = open_interpreter(file["path"].read_bytes(), "", delegate=True)
            interpreter.allocate_tensors()
            interpreter.invoke()
            calls[key] = interpreter.invoke
        times = interleave(calls, FLAGS.rounds, FLAGS.runs, clock=time.process_time)
    rows = []
    for (weights, form), file in files.items():
        seconds = times[weights, form]
        figures = {"ms": 1e3 * min(seconds), "ms_median": 1e3 * quartiles(seconds)[1]}
        figures |= {"bytes": file["bytes"], "difference": file["difference"]}
        rows.append({"units": units, "weights": weights, "form": form, **figures, "machine": about})
    return rows


def table(rows: list[Row], units: int) -> str:
    """Returns the Markdown table of one LSTM."""
    cells = []
    for weights in WEIGHTS:
        loop, fused = (
            next(r for r in rows if (r["units"], r["weights"], r["form"]) == (units, weights, form)) for form in FORMS
        )
        numbers = [f"{loop['bytes']:,}", f"{fused['bytes']:,}", f"{loop['ms']:.3f}", f"{fused['ms']:.3f}"]
        cells.append([weights, *numbers, f"{max(loop['difference'], fused['difference']):.0e}"])
    return markdown(["weights", "loop, bytes", "fused, bytes", "loop, ms", "fused, ms", "off by"], cells)


def main() -> int:
    """Measures every LSTM and prints the tables."""
    rows = Rows(FLAGS.out, ("units", "weights", "form"))
    if not FLAGS.table:
        about = machine()
        for units in FLAGS.units:
            rows.add(run(units, about))
    print(machine_line(rows.rows[0]["machine"]) if rows.rows else "No rows yet.")
    for units in dict.fromkeys(row["units"] for row in rows.rows):
        print("", f"{units} units", "", table(rows.rows, units), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
