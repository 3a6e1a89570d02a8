"""Accuracy against bytes of pretrained models' files: r2keras beside TFLite, MLPerf's files and litert-quantizer.

    pip install 'r2keras[rivals]'                        # litert-quantizer, in an environment of its own
    python benchmarks/front.py --data_dir=DIR            # rows go to results/front.json; a killed run resumes
    python benchmarks/front.py --table                   # the tables, from results/front.json
    python benchmarks/front.py --figure                  # results/front.svg

DIR holds the CIFAR-10 `.npz` files, `resnet20_cifar10_pytorch.npz`, and the folders `mlperf_tiny` and `imagenet`. No
labels and no training; every tool gets the same calibration inputs, which a seed draws. Accuracy is that of the file on
ai-edge-litert; the time is the processor's, to make the file. AdaRound runs with three seeds.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import front_figure, front_models, front_table, front_tools
from benchmarks.common import Row, Rows, machine
from benchmarks.front_tools import Job, Variant
from r2keras.cli import common as cli

RESULTS = Path(__file__).with_name("results") / "front.json"
KEYS = ("model", "tool", "variant", "seed")
TOOLS = (front_tools.FLOAT, front_tools.TFLITE, front_tools.MLPERF, front_tools.RIVAL, front_tools.OURS)

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Folder of the data and the pretrained models.", flag_values=FLAGS)
flags.DEFINE_list("models", list(front_models.MODELS), f"Any of {', '.join(front_models.MODELS)}.", flag_values=FLAGS)
flags.DEFINE_list("tools", list(TOOLS), f"Any of {', '.join(TOOLS)}.", flag_values=FLAGS)
flags.DEFINE_list("variants", ["*"], "Shell patterns over the names of variants.", flag_values=FLAGS)
flags.DEFINE_integer(
    "iterations", None, "AdaRound's iterations per kernel; by default r2keras' own.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_string("out", str(RESULTS), "The results file; the figure gets its name.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the tables of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_bool("figure", False, "Draw the figure of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_bool(
    "smoke", False, "Measure an untrained net in seconds; the figures are meaningless.", flag_values=FLAGS
)


def planned(
    names: list[str], tools: list[str], finished: set[tuple], patterns: Sequence[str] = ("*",)
) -> list[tuple[str, Variant, int]]:
    """Returns the rows to measure, in the order in which they are due."""
    shipped = ("resnet8", "dscnn")
    every = [(name, variant, seed) for name in names for variant in front_tools.variants() for seed in variant.seeds]
    every = [row for row in every if row[1].tool != front_tools.MLPERF or row[0] in shipped]
    every = [row for row in every if row[1].tool in tools]
    every = [row for row in every if any(fnmatch.fnmatchcase(row[1].name, pattern) for pattern in patterns)]
    every = [row for row in every if (row[0], row[1].tool, row[1].name, row[2]) not in finished]
    return sorted(every, key=lambda row: (_rank(row[1], row[2]), row[2]))


def _rank(variant: Variant, seed: int) -> int:
    """Returns when a row is due: the main rows first, then those of other tools, which are quick."""
    if variant.is_main:
        return 2 if seed else 0
    return 3 if variant.tool == front_tools.OURS else 1


def measure(task: front_models.Task, float_file: Path, variant: Variant, seed: int, folder: Path) -> Row:
    """Writes the file of a variant and runs it on all evaluation inputs."""
    import numpy as np

    import r2keras

    path = Path(tempfile.mkdtemp(dir=folder)) / "file.tflite"
    job = Job(task, float_file, task.calibration(seed), FLAGS.iterations, path)
    wall, processor = time.perf_counter(), time.process_time()
    variant.write(job)
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    # In a process of its own, because other tools' files may crash the runtime.
    outputs = np.asarray(r2keras.export.LiteRTModel(path, isolated=True).predict(task.inputs))
    return {
        "tool": variant.tool,
        "variant": variant.name,
        "seed": seed,
        "bits": variant.bits,
        "bytes": path.stat().st_size,
        "accuracy": float((outputs.argmax(-1) == task.labels).mean()),
        "not_finite": float((~np.isfinite(outputs.astype(np.float64))).any(-1).mean()),
        "weights": front_tools.weight_types(path),
        "calibration_inputs": len(job.calibration),
        "iterations": FLAGS.iterations if variant.learned else None,
        "evaluation_inputs": len(task.labels),
        **seconds,
    }


def run(store: Rows, names: list[str], tools: list[str]) -> None:
    """Measures what the results file lacks, one row after the other."""
    front_tools.require(tools)
    finished = {tuple(row[key] for key in KEYS) for row in store.rows}
    jobs = planned(names, tools, finished, FLAGS.variants)
    loaded: tuple[str, front_models.Task] | None = None
    with tempfile.TemporaryDirectory() as folder:
        float_file = Path(folder) / "float.tflite"
        for index, (name, variant, seed) in enumerate(jobs, 1):
            if loaded is None or loaded[0] != name:
                loaded = name, front_models.load(name, FLAGS.data_dir)
                front_tools.write_float(loaded[1], float_file)
            row = measure(loaded[1], float_file, variant, seed, Path(folder))
            store.add([{"model": name, **row, "machine": machine()}])
            progress = f"{index}/{len(jobs)} {name}, {variant.tool} {variant.name}, seed {seed}"
            print(f"{progress}: {row['accuracy']:.4f} in {row['bytes']:,} bytes", file=sys.stderr, flush=True)


def main() -> int:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.ERROR)  # litert-quantizer logs each file it writes.
    names = [front_models.SMOKE] if FLAGS.smoke else FLAGS.models
    choices = (("models", names, [*front_models.MODELS, front_models.SMOKE]), ("tools", FLAGS.tools, TOOLS))
    wrong = [(flag, value, known) for flag, values, known in choices for value in values if value not in known]
    for flag, value, known in wrong:
        sys.stderr.write(f"--{flag}={value} is unknown: expected any of {', '.join(known)}.\n")
        return 2
    if not (FLAGS.table or FLAGS.figure or FLAGS.smoke or FLAGS.data_dir):
        sys.stderr.write("--data_dir is missing: give the folder of the data, or try --smoke.\n")
        return 2
    try:
        store = Rows(FLAGS.out, KEYS)
        if not (FLAGS.table or FLAGS.figure):
            run(store, names, FLAGS.tools)
        if FLAGS.figure:
            path = Path(FLAGS.out).with_suffix(".svg")
            front_figure.draw(store.rows, path)
            print(f"The figure is {path}.")
        else:
            print(front_table.tables(store.rows))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
