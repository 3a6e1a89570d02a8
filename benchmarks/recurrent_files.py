"""One LSTM as a loop and as LiteRT's fused operator, float and at few bits: bytes, time of a call, error.

    python benchmarks/recurrent_files.py            # some minutes; rows go to results/recurrent_files.json
    python benchmarks/recurrent_files.py --table    # the tables, from results/recurrent_files.json

Random weights (seed 0), 32 time steps, as many features as units, batch size 1, one thread. Files are taken in turn in
a new order each round; the time is the processor's, of the fastest round, since other work on the machine only adds.
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
flags.DEFINE_integer("runs", 20, "Runs of a file in a round; their median counts.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file.", flag_values=FLAGS)


def spec_of(weights: str):
    """Returns the spec of both kernels; None for float."""
    import r2keras

    if weights == "float":
        return None
    if weights.startswith("palette"):
        return r2keras.PaletteSpec(num_bits=4)
    return r2keras.QuantSpec(num_bits=int(weights[0]))


def written(units: int, folder: Path) -> dict[tuple[str, str], Row]:
    """Writes all files of one LSTM; returns path, bytes and error of each."""
    import keras
    import numpy as np

    import r2keras
    from r2keras.export import to_litert, verify

    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH, units))
    model = keras.Model(inputs, keras.layers.LSTM(units)(inputs))
    data = np.random.default_rng(0).normal(size=(8, LENGTH, units)).astype(np.float32)
    found = {}
    for weights in WEIGHTS:
        spec, small, record = spec_of(weights), model, None
        if spec is not None:
            small, record = r2keras.calibrate(model, r2keras.Recipe([(".*", spec)]), data)
        for form in FORMS:
            path = folder / f"{form} {weights}.tflite"
            size = to_litert(small, path, record, recurrent=form)
            off = verify(small, path, data).relative_difference
            found[weights, form] = {"path": path, "bytes": size.file_bytes, "difference": off}
    return found


def run(units: int, about: Row) -> list[Row]:
    """Returns the rows of one LSTM."""
    from r2keras.export.flatbuffer import open_interpreter

    with tempfile.TemporaryDirectory() as folder:
        found, calls = written(units, Path(folder)), {}
        for key, row in found.items():
            interpreter = open_interpreter(row["path"].read_bytes(), "", delegate=True)
            interpreter.allocate_tensors()
            interpreter.invoke()
            calls[key] = interpreter.invoke
        times = interleave(calls, FLAGS.rounds, FLAGS.runs, clock=time.process_time)
    rows = []
    for (weights, form), row in found.items():
        seconds = times[weights, form]
        figures = {"ms": 1e3 * min(seconds), "ms_median": 1e3 * quartiles(seconds)[1]}
        figures |= {"bytes": row["bytes"], "difference": row["difference"]}
        rows.append({"units": units, "weights": weights, "form": form, **figures, "machine": about})
    return rows


def table(rows: list[Row], units: int) -> str:
    """Returns the table of one LSTM."""
    cells = []
    for weights in WEIGHTS:
        loop, fused = (
            next(r for r in rows if (r["units"], r["weights"], r["form"]) == (units, weights, form)) for form in FORMS
        )
        numbers = [f"{loop['bytes']:,}", f"{fused['bytes']:,}", f"{loop['ms']:.3f}", f"{fused['ms']:.3f}"]
        cells.append([weights, *numbers, f"{max(loop['difference'], fused['difference']):.0e}"])
    return markdown(["weights", "loop, bytes", "fused, bytes", "loop, ms", "fused, ms", "off by"], cells)


def main() -> int:
    """Measures and prints the tables."""
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
