"""Few-bit files whose products run on packed kernels, against float files, 8-bit files and litert-quantizer's.

    python benchmarks/fast_bits.py --data_dir=DIR                  # ten minutes on 2 cores
    python benchmarks/fast_bits.py --nets=dense,lstm --rounds=30
    python benchmarks/fast_bits.py --table                         # the table of the rows in --out

The files of a net run by turns in one process, one thread each, batch 1. Each round gives one ratio per file; the table
shows the median and the quartiles. Weights and inputs are random, which changes neither bytes nor milliseconds. The
last columns are root mean square differences of the outputs over their standard deviation, from the float file and, for
packed files, from the exact one with the same weights. DIR holds MLPerf Tiny's folder mlperf_tiny; without it, ds_cnn
is left out. litert-quantizer takes part if it is installed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, interleave, machine, machine_lines, markdown, quartiles
from benchmarks.fast_bits_files import NETS, WORDS, baseline
from r2keras.cli import common as cli

RESULTS = Path(__file__).with_name("results") / "fast_bits.json"
SMOKE = ["dense"]
# Inputs on which files are compared.
SAMPLES = 48

FLAGS = flags.FlagValues()
flags.DEFINE_list("nets", list(NETS), f"Any of {', '.join(NETS)}.", flag_values=FLAGS)
flags.DEFINE_string("data_dir", None, "Folder that holds mlperf_tiny, for ds_cnn.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 25, "Rounds; each gives one ratio per file.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("runs", 21, "Runs of each file per round.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "The results file; new rows replace old ones.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_bool("smoke", False, "One net, one round; the figures are meaningless.", flag_values=FLAGS)


class File:
    """A file that is ready to run on random inputs."""

    def __init__(self, path: Path):
        from r2keras.export.tflite.interpreter import open_interpreter

        self.bytes = path.stat().st_size
        self.interpreter = open_interpreter(path.read_bytes(), "", delegate=True)
        self.interpreter.allocate_tensors()
        for item in self.interpreter.get_input_details():
            self.interpreter.set_tensor(item["index"], _input(item["shape"], item["dtype"]))
        self.run()

    def run(self) -> None:
        """Runs the file once."""
        self.interpreter.invoke()

    def outputs(self) -> np.ndarray:
        """Returns the largest output for a few dozen inputs."""
        item = max(self.interpreter.get_output_details(), key=lambda item: np.prod(item["shape"]))
        found = []
        for seed in range(SAMPLES):
            for source in self.interpreter.get_input_details():
                self.interpreter.set_tensor(source["index"], _input(source["shape"], source["dtype"], seed))
            self.run()
            found.append(self.interpreter.get_tensor(item["index"]).astype(np.float64))
        return np.stack(found)


def _input(shape: np.ndarray, dtype: type, seed: int = 0) -> np.ndarray:
    """Returns a random input; integers are words."""
    generator = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        return generator.integers(0, WORDS, shape).astype(dtype)
    return generator.normal(size=shape).astype(dtype)


def measure(net: str, data_dir: Path | None, rounds: int, runs: int) -> list[Row]:
    """Returns the rows of a net."""
    import keras

    about = machine()
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: File(path) for name, path in NETS[net](Path(folder), data_dir).items()}
    seconds = interleave({name: file.run for name, file in files.items()}, rounds, runs)
    first = baseline(net)
    rows = []
    for name, file in files.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds[first], strict=True)]
        low, middle, high = quartiles(ratios)
        row = {"net": net, "file": name, "baseline": first, "ms": 1e3 * float(np.median(seconds[name]))}
        row |= {"ratio": middle, "lower_quartile": low, "upper_quartile": high, "bytes": file.bytes}
        for title, source in (("from_float", "float"), ("from_exact", name.replace("packed", "exact"))):
            if source in files and source != name:
                reference = files[source].outputs()
                row[title] = float(np.sqrt(np.mean((file.outputs() - reference) ** 2)) / reference.std())
        rows.append(row | {"machine": about})
    return rows


def table(rows: list[Row]) -> str:
    """Returns the Markdown table, and the machines."""
    cells = [
        [
            row["net"],
            row["file"],
            f"{row['bytes']:,}",
            f"{row['ms']:.3f}",
            f"{row['ratio']:.2f}",
            f"{row['lower_quartile']:.2f} to {row['upper_quartile']:.2f}",
            f"{row['from_float']:.4f}" if "from_float" in row and "word" not in row["net"] else "",
            f"{row['from_exact']:.4f}" if "from_exact" in row else "",
        ]
        for row in rows
    ]
    header = ["net", "file", "bytes", "ms", "times the first", "quartiles", "from float", "from exact"]
    return f"{markdown(header, cells)}\n\n{machine_lines(rows, lambda row: row['net'])}"


def main() -> int:
    unknown = [name for name in FLAGS.nets if name not in NETS]
    if unknown:
        raise ValueError(f"--nets={unknown[0]} is unknown; expected any of {', '.join(NETS)}")
    store = Rows(FLAGS.out, ("net", "file"))
    data_dir = None if FLAGS.data_dir is None else Path(FLAGS.data_dir)
    if not FLAGS.table:
        for net in SMOKE if FLAGS.smoke else FLAGS.nets:
            if net == "ds_cnn" and data_dir is None:
                sys.stderr.write("ds_cnn is left out: it needs --data_dir\n")
                continue
            store.add(measure(net, data_dir, *((1, 1) if FLAGS.smoke else (FLAGS.rounds, FLAGS.runs))))
            sys.stderr.write(f"{net}: done\n")
    print(table(store.rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
