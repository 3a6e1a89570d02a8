"""Flash and memory of files for microcontrollers: tables, Huffman codes, and integer operators.

    python benchmarks/tflm_huffman.py --data_dir=DIR    # some minutes; DIR as in front.py
    python benchmarks/tflm_huffman.py --table           # the table, from results/tflm_huffman.json

`to_tflm` writes each quantized net with `optimize="memory"` and with `optimize="size"`. Both files must compute the
same outputs, bit for bit, on LiteRT for Microcontrollers. `pruned` is what the weights would take in the other form
that the runtime decodes, a mask of zeros and the other values as int8. Beside them stand the integer files of
`to_litert`, of the same grid with activations of 8 bits, in the same two forms.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import front_models
from benchmarks.common import Row, Rows, machine, machine_line, markdown
from r2keras.cli import common as cli

if TYPE_CHECKING:
    import keras

    from r2keras import Recipe
    from r2keras.export import TFLMSizes

NETS = ("resnet8", "dscnn")
# Grids by name: bits and range of uniform ones, bits of palettes.
GRIDS = {
    "8 bits, min-max": (8, "min_max"),
    "8 bits, MSE": (8, "mse"),
    "4 bits, min-max": (4, "min_max"),
    "4 bits, MSE": (4, "mse"),
    "2 bits, min-max": (2, "min_max"),
    "2 bits, MSE": (2, "mse"),
    "palette of 16": (4, None),
}
SAMPLES, ROUNDS = 4, 5
# The default of `calibrate` also corrects biases; the rows of results/ are without.
STEPS = ("reestimate_batch_norm",)
RESULTS = Path(__file__).with_name("results") / "tflm_huffman.json"

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Folder of the models and data.", flag_values=FLAGS)
flags.DEFINE_list("nets", list(NETS), "Nets to measure.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.", flag_values=FLAGS)


def recipe(num_bits: int, chosen_range: str | None, *, integer: bool = False) -> Recipe:
    """Returns a recipe of one grid; first and last kernels have 8 bits. `integer` is for operators on integers."""
    import r2keras

    activation_bits = 8 if integer else None
    if chosen_range is None:
        table = "int8" if integer else "float32"
        options = {"table_dtype": table, "activation_bits": activation_bits}
        # An operator of a kernel that is too small for a table would compute in float.
        options |= {"min_size": 0} if integer else {}
        palette = r2keras.PaletteSpec(num_bits=num_bits, **options)
        edge = r2keras.QuantSpec(8, activation_bits=activation_bits)
        return r2keras.Recipe([("<edges>", edge), (".*", palette)], STEPS)
    return r2keras.Recipe.uniform(num_bits, range=chosen_range, activation_bits=activation_bits, steps=STEPS)


def measure(net: str, grid: str, data_dir: str | None) -> Row:
    """Returns flash, memory and time per sample of both forms of each file.

    Raises:
        RuntimeError: the outputs of two forms differ.
    """
    import r2keras
    from r2keras.export import to_tflm

    task = front_models.load(net, data_dir)
    data = task.calibration(0)
    small, record = r2keras.calibrate(task.model, recipe(*GRIDS[grid]), data)
    row: Row = {"net": net, "grid": grid, "pruned": _pruned_bytes(record)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        row |= _both_forms(lambda form: to_tflm(small, path, record, optimize=form), path, data)
        row |= {f"integers_{key}": value for key, value in _integers(task, *GRIDS[grid], path).items()}
    return row


def _integers(task: front_models.Task, num_bits: int, chosen_range: str | None, path: Path) -> Row:
    """Returns flash, memory and time per sample of both integer files."""
    import r2keras
    from r2keras.export import to_litert

    data = task.calibration(0)
    chosen = recipe(num_bits, chosen_range, integer=True)
    small, record = r2keras.calibrate(_single(task.model), chosen, data, integer=True)
    return _both_forms(lambda form: to_litert(small, path, record, target="mcu", optimize=form), path, data)


def _single(model: keras.Model) -> keras.Model:
    """Returns a model that takes one sample at a time."""
    import keras

    copy = keras.models.clone_model(model, input_tensors=keras.Input(model.input_shape[1:], batch_size=1))
    copy.set_weights(model.get_weights())
    return copy


def _both_forms(write: Callable[[str], TFLMSizes], path: Path, data: np.ndarray) -> Row:
    """Returns flash, memory, time per sample, and the number of weights with Huffman codes of both forms of a file."""
    from r2keras.export import TFLMModel

    row, outputs = Row(), []
    for form in ("memory", "size"):
        found = write(form)
        model = TFLMModel(path)
        outputs.append(model.predict(data[:SAMPLES]))
        row |= {f"{form}_flash": found.file_bytes, f"{form}_arena": found.arena_bytes}
        row |= {f"{form}_ms": _milliseconds(model, data[:SAMPLES])}
        row[f"{form}_huffman"] = sum("Huffman" in tensor.note for tensor in found.tensors)
    if not np.array_equal(*outputs):
        raise RuntimeError("Huffman codes change the outputs")
    return row


def _milliseconds(model, data: np.ndarray) -> float:
    """Returns the least time of a sample, on this machine."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        model.predict(data)
        times.append(time.process_time() - start)
    return 1e3 * min(times) / len(data)


def _pruned_bytes(record) -> int:
    """Returns the bytes of quantized weights as a mask and the values that are not zero."""
    from r2keras.record import QuantizedTensor

    codes = [tensor.codes for tensor in record.tensors.values() if isinstance(tensor, QuantizedTensor)]
    return sum(array.size // 8 + int(np.count_nonzero(array)) for array in codes)


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table: files with tables, then integer files, each without and with codes."""
    parts = ["flash", "with Huffman codes", "RAM", "RAM with them", "time with them"]
    header = ["net", "weights", f"tables: {parts[0]}", *parts[1:], f"integers: {parts[0]}", *parts[1:]]
    cells = [
        [front_models.MODELS.get(row["net"], row["net"]), row["grid"], *_cells(row, ""), *_cells(row, "integers_")]
        for row in rows
    ]
    return markdown(header, cells)


def _cells(row: Row, kind: str) -> list[str]:
    """Returns flash and memory of one kind of file, and how many times as long a sample takes with Huffman codes."""
    columns = [f"{kind}{form}_{column}" for column in ("flash", "arena") for form in ("memory", "size")]
    return [*(f"{row[column]:,}" for column in columns), f"{row[f'{kind}size_ms'] / row[f'{kind}memory_ms']:.2f}"]


def main() -> int:
    """Measures every case and prints the table."""
    rows = Rows(RESULTS, ("net", "grid"))
    if not FLAGS.table:
        about = machine()
        for net in FLAGS.nets:
            for grid in GRIDS:
                rows.add([{**measure(net, grid, FLAGS.data_dir), "machine": about}])
                print(table(rows.rows[-1:]).splitlines()[-1], flush=True)
    print(machine_line(rows.rows[0]["machine"]), "", table(rows.rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
