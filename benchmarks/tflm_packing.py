"""Time to convert one million weights to look-up tables for microcontrollers: r2keras against the tflite-micro wheel.

    python benchmarks/tflm_packing.py            # about two minutes
    python benchmarks/tflm_packing.py --table    # the table, from results/tflm_packing.json

Both start from the float32 values and end with the bytes of indices, header and tables, which must be equal. Both run
on one core. The time is processor time, which excludes that of other programs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, interleave, machine, machine_line, markdown, quartiles
from r2keras.cli import common as cli

SHAPE = (256, 3, 3, 434)
CASES = ((1, None), (2, None), (4, None), (7, None), (4, 0))
ROUNDS = 5
RESULTS = Path(__file__).with_name("results") / "tflm_packing.json"

FLAGS = flags.FlagValues()
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.", flag_values=FLAGS)


class Weights:
    """A tensor with the attributes that the wheel's compressor reads."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape = array, array.shape


def weights(num_bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns random weights with `2**num_bits` different values."""
    rng = np.random.default_rng(0)
    return rng.choice(rng.normal(size=2**num_bits).astype(np.float32), shape)


def ours(values: np.ndarray, axis: int | None) -> tuple[bytes, bytes]:
    """Returns the packed indices, and the header with the tables, by r2keras."""
    from r2keras.export.weights.lookup_table import tabulate

    lookup = tabulate(values, axis)
    return lookup.packed().tobytes(), lookup.ancillary().tobytes()


def wheels(values: np.ndarray, axis: int | None, num_bits: int) -> tuple[bytes, bytes]:
    """Returns the same bytes by the wheel."""
    from tflite_micro.tensorflow.lite.micro.compression import lut, spec

    mode = spec.PerTensor() if axis is None else spec.PerChannel(axis=axis)
    method = spec.LookUpTableCompression(index_bitwidth=num_bits, mode=mode)
    compressed = lut.LutCompressor().compress(Weights(values), method)
    return compressed.encoded_data, compressed.ancillary_data


def measure(num_bits: int, axis: int | None, shape: tuple[int, ...] = SHAPE, rounds: int = ROUNDS) -> Row:
    """Times both, interleaved; returns the median seconds of each, and the ratio with its quartiles.

    Raises:
        RuntimeError: their bytes differ.
    """
    values = weights(num_bits, shape)
    steps = {"ours": lambda: ours(values, axis), "wheel": lambda: wheels(values, axis, num_bits)}
    if steps["ours"]() != steps["wheel"]():
        raise RuntimeError(f"The bytes of r2keras and of the wheel differ at {num_bits} bits, axis {axis}")
    seconds = interleave(steps, rounds, 1, clock=time.process_time)
    ratios = [wheel / our for our, wheel in zip(seconds["ours"], seconds["wheel"], strict=True)]
    row = {name: quartiles(times)[1] for name, times in seconds.items()}
    return {"num_bits": num_bits, "axis": axis, "weights": values.size, **row, "ratio": quartiles(ratios)}


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table."""
    header = ["bits", "tables", "weights", "r2keras, s", "tflite-micro, s", "times faster (quartiles)"]
    cells = []
    for row in rows:
        tables = "one" if row["axis"] is None else "one per channel"
        low, middle, high = row["ratio"]
        times = f"{middle:.1f} ({low:.1f} to {high:.1f})"
        seconds = [f"{row[name]:.3f}" for name in ("ours", "wheel")]
        cells.append([str(row["num_bits"]), tables, f"{row['weights']:,}", *seconds, times])
    return markdown(header, cells)


def main() -> int:
    """Measures every case and prints the table."""
    rows = Rows(RESULTS, ("num_bits", "axis"))
    if not FLAGS.table:
        about = machine()
        for num_bits, axis in CASES:
            rows.add([{**measure(num_bits, axis), "machine": about}])
    print(machine_line(rows.rows[0]["machine"]), "", table(rows.rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
