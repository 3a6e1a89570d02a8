"""Time and memory of `r2keras.calibrate`, each job in a fresh process.

    python benchmarks/calibration.py --data_dir=DIR      # some minutes; rows go to results/calibration.json
    python benchmarks/calibration.py --table             # the table, from results/calibration.json
    python benchmarks/calibration.py --scaling           # by the size of the net; no data needed; a plot
    python benchmarks/calibration.py --scaling --table   # the table and the plot, from results/calibration_scaling.json

The time is that of `calibrate` alone, without imports and data loading; the memory is the peak of the whole process.
DIR holds the CIFAR-10 `.npz` files, `resnet20_cifar10_pytorch.npz` and `mlperf_tiny/ic_resnet8.h5`.

`--scaling` gives the processor time of `prepare`, `finalize` and `calibrate` per kernel; a killed run resumes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import calibration_scaling
from benchmarks.common import Row, Rows, machine, machine_lines, markdown

RESULTS = Path(__file__).with_name("results") / "calibration.json"
SCALING = RESULTS.with_name("calibration_scaling.json")
IMAGES = 1024
# Net, arguments of the spec, calibration steps, and goals: seconds, GiB.
JOBS: dict[str, tuple[str, dict, list[str], tuple[float | None, float | None]]] = {
    "ResNet-8 W8A8": ("resnet8", {"num_bits": 8}, [], (20.0, None)),
    "ResNet-8 W4A8 AdaRound": ("resnet8", {"num_bits": 4}, ["adaround"], (None, None)),
    "ResNet-20 W2A8": ("resnet20", {"num_bits": 2}, [], (None, None)),
    "ResNet-20 W2A8 AdaRound": ("resnet20", {"num_bits": 2}, ["adaround"], (600.0, 3.0)),
}
SMOKE = ("digits", {"num_bits": 4}, ["adaround"])

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Folder of CIFAR-10 and the pretrained models.")
flags.DEFINE_list("jobs", list(JOBS), f"Any of {'; '.join(JOBS)}.")
flags.DEFINE_bool("scaling", False, "Measure nets of 10 to 400 kernels and keras.applications instead.")
flags.DEFINE_list("nets", list(calibration_scaling.NETS), "With --scaling: the nets.")
flags.DEFINE_string("out", None, f"The results file; by default {RESULTS.name}, with --scaling {SCALING.name}.")
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.")
flags.DEFINE_bool("smoke", False, "Run in seconds on the embedded digits; the figures are meaningless.")
flags.DEFINE_string("one", None, "Measure one job in this process and print its row.")


def load(net: str, data_dir: str | None):
    """Returns a trained model (for digits, an untrained one) and its calibration images."""
    from r2keras import workloads

    if net == "digits":
        data = workloads.data.load("digits")
        return workloads.nets.build("cnn", data.input_shape, data.num_classes), data.x_train[:64]
    if net == "resnet8":
        model = workloads.nets.load_mlperf(Path(data_dir) / "mlperf_tiny" / "ic_resnet8.h5")
        return model, workloads.data.load("cifar10", data_dir, scaled=False).x_train[:IMAGES]
    model = workloads.nets.load_resnet20(Path(data_dir) / "resnet20_cifar10_pytorch.npz")
    return model, workloads.data.load("cifar10", data_dir).x_train[:IMAGES]


def measure(net: str, spec: dict, steps: list[str], data_dir: str | None) -> Row:
    """Calibrates once in this process; returns the measurements."""
    import r2keras

    model, images = load(net, data_dir)
    recipe = r2keras.Recipe([(".*", r2keras.QuantSpec(**spec, activation_bits=8))], steps=steps)
    wall, processor = time.perf_counter(), time.process_time()
    r2keras.calibrate(model, recipe, images, input_bits=8, progress=False)
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    return seconds | {"images": len(images), "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def measure_in_fresh_process(job: tuple, data_dir: str | None) -> Row:
    """Calibrates once in a fresh process; returns the measurements."""
    command = [sys.executable, __file__, f"--one={json.dumps(job)}", *([f"--data_dir={data_dir}"] if data_dir else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"The job failed: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table."""
    header = ["job", "images", "seconds", "goal", "processor, s", "peak memory, GiB", "goal"]
    cells = []
    for row in rows:
        goals = ["" if goal is None else f"{goal:g}" for goal in JOBS.get(row["job"], (*SMOKE, (None, None)))[3]]
        figures = [f"{row[name]:.1f}" for name in ("seconds", "processor_seconds", "gib")]
        cells.append([row["job"], f"{row['images']:,}", figures[0], goals[0], *figures[1:], goals[1]])
    return f"{markdown(header, cells)}\n\n{machine_lines(rows, lambda row: row['job'])}"


def scale() -> int:
    """Measures by the size of the net, if `--table` is not given, and shows all rows."""
    unknown = [net for net in FLAGS.nets if net not in calibration_scaling.NETS]
    if unknown:
        expected = ", ".join(calibration_scaling.NETS)
        sys.stderr.write(f"--nets={unknown[0]} is unknown: expected any of {expected}.\n")
        return 2
    store = Rows(FLAGS.out or SCALING, calibration_scaling.KEYS)
    try:
        if not FLAGS.table:
            calibration_scaling.run(store, tuple(FLAGS.nets))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if store.rows:
        calibration_scaling.write_plot(store.rows, store.path.with_suffix(".svg"))
        print(calibration_scaling.table(store.rows), f"The plot is {store.path.with_suffix('.svg')}.", sep="\n\n")
    return 0


def main(argv: list[str]) -> int:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if FLAGS.one:
        print(json.dumps(measure(*json.loads(FLAGS.one), FLAGS.data_dir)))
        return 0
    jobs = {"digits": SMOKE} if FLAGS.smoke else {name: JOBS.get(name, ())[:3] for name in FLAGS.jobs}
    unknown = [name for name, job in jobs.items() if not job]
    if argv[1:]:
        sys.stderr.write(f"Unexpected argument {argv[1]!r}: write --flag=value.\n")
        return 2
    if FLAGS.scaling:
        return scale()
    if unknown:
        sys.stderr.write(f"--jobs={unknown[0]} is unknown: expected any of {'; '.join(JOBS)}.\n")
        return 2
    if not (FLAGS.table or FLAGS.smoke or FLAGS.data_dir):
        sys.stderr.write("--data_dir is missing: give the folder of the data, or try --smoke.\n")
        return 2
    store = Rows(FLAGS.out or RESULTS, ("job",))
    try:
        if not FLAGS.table:
            for name, job in jobs.items():
                store.add([{"job": name, **measure_in_fresh_process(job, FLAGS.data_dir), "machine": machine()}])
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print(table(store.rows))
    return 0


if __name__ == "__main__":
    app.run(main)
