"""r2keras on the networks of keras.applications: regularize, prepare and train, calibrate, and both kinds of files.

    python benchmarks/applications.py            # an hour or two on 2 cores; finished rows are kept
    python benchmarks/applications.py --table    # the table, from results/applications.json

Every job runs in a fresh process on a network with random weights, whose batch-norm statistics are measured on 128
random images. 64 of them calibrate, 64 others compare the file with Keras. Random weights are harder than trained ones:
nothing has learned to be robust. A row says what failed, if anything did. Differences of integer files from Keras are
root mean squares in steps of the output. Beside them stands how far Keras is from itself if its float sums differ by
two units in the last place, which decides ties otherwise. Every integer operator is also compared with exact arithmetic
on its own inputs.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Row, Rows, machine, machine_lines, markdown
from benchmarks.operator_rounding import codes_off

if TYPE_CHECKING:
    import keras
    import numpy as np

RESULTS = Path(__file__).with_name("results") / "applications.json"
# Sizes in pixels: 64, or the smallest that the network takes.
NETS = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "DenseNet121": 64,
    "InceptionV3": 75,
    "Xception": 71,
    "VGG16": 64,
    "ConvNeXtTiny": 64,
    "NASNetMobile": 64,
}
SMOKE_NETS = {"MobileNet": 32}
CLASSES = 10
IMAGES = 64
# Images on which every operator is compared with exact arithmetic.
OPERATOR_IMAGES = 4
# Seconds after which a job is stopped.
TIMEOUT = 1800

FLAGS = flags.FlagValues()
flags.DEFINE_list("nets", list(NETS), f"Any of {', '.join(NETS)}.", flag_values=FLAGS)
flags.DEFINE_list(
    "jobs",
    ["regularize", "prepare", "exact", "integer"],
    "Any of regularize, prepare, exact, integer.",
    flag_values=FLAGS,
)
flags.DEFINE_string("out", str(RESULTS), "The results file.", flag_values=FLAGS)
flags.DEFINE_bool("again", False, "Measure finished rows again instead of keeping them.", flag_values=FLAGS)
flags.DEFINE_bool("table", False, "Print the table of the results file and stop.", flag_values=FLAGS)
flags.DEFINE_bool("smoke", False, "One small network; the figures are meaningless.", flag_values=FLAGS)
flags.DEFINE_list("one", None, "Run one job (net, size, job) in this process and print its row.", flag_values=FLAGS)


def images(count: int, size: int, seed: int) -> np.ndarray:
    """Returns random images, values from 0 to 255: waves of random direction, length, color and contrast, and noise."""
    import numpy as np

    rng = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, size)
    waves = rng.normal(size=(count, 6, 1, 1, 2)) * 4
    phase = waves[..., 0] * grid[:, None] + waves[..., 1] * grid + rng.uniform(0, 6.3, (count, 6, 1, 1))
    values = np.einsum("nkhw,nkc->nhwc", np.sin(phase), rng.normal(size=(count, 6, 3)))
    values = values * rng.uniform(0.2, 1, (count, 1, 1, 1)) + 0.1 * rng.normal(size=values.shape)
    return np.clip(127 + 60 * values, 0, 255).astype("float32")


def build(net: str, size: int) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Returns a network with measured batch-norm statistics, calibration images and test images."""
    import keras

    import r2keras

    keras.utils.set_random_seed(0)
    shape = (size, size, 3)
    model = getattr(keras.applications, net)(
        weights=None, input_shape=shape, classes=CLASSES, classifier_activation=None
    )
    data = scaled(model, images(2 * IMAGES, size, seed=0))
    r2keras.calibration.reestimate_batch_norm(model, data)
    return model, data[:IMAGES], data[IMAGES:]


def scaled(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Returns pixels as a network takes them: as they are if its preprocessing is inside, else from -1 to 1."""
    names = [layer.name for layer in model.layers]
    inside = any("rescaling" in name or name == "normalization" or "prestem" in name for name in names)
    return pixels if inside else pixels / 127.5 - 1


def regularize(model: keras.Model, train: np.ndarray, test: np.ndarray) -> Row:
    """Attaches R2 losses to every kernel and trains one step."""
    import r2keras
    from r2keras.regularizers import R2Linf

    regularized = r2keras.regularize(model, R2Linf(0.01))
    return {"loss": _one_step(regularized, train)}


def prepare(model: keras.Model, train: np.ndarray, test: np.ndarray) -> Row:
    """Prepares the network at W4A8, trains one step and finalizes it."""
    import r2keras

    student = r2keras.prepare(model, _recipe(4, activation_bits=8), input_bits=8, output_bits=8)
    loss = _one_step(student, train)
    _, record = r2keras.finalize(student)
    return {"loss": loss, "kernels": len(record.tensors), "activations": len(record.activations)}


def exact(model: keras.Model, train: np.ndarray, test: np.ndarray) -> Row:
    """Calibrates 4-bit weights, writes the exact file and compares it with Keras."""
    import r2keras

    start = time.process_time()
    small, record = r2keras.calibrate(model, _recipe(4), train, progress=False)
    return {"calibrate_s": time.process_time() - start, **_file(small, record, test)}


def integer(model: keras.Model, train: np.ndarray, test: np.ndarray) -> Row:
    """Calibrates W8A8, writes the integer file and compares it with Keras."""
    import numpy as np

    import r2keras
    from benchmarks.matrix_rounding import against_itself

    start = time.process_time()
    recipe = _recipe(8, activation_bits=8)
    small, record = r2keras.calibrate(model, recipe, train, input_bits=8, output_bits=8, progress=False)
    row = {"calibrate_s": time.process_time() - start, **_file(small, record, test, activations="int8")}
    outputs, rounded = (net.predict(test, verbose=0) for net in (model, small))
    error = np.linalg.norm(rounded - outputs) / np.linalg.norm(outputs - outputs.mean(axis=0))
    moved, equal = against_itself(small, test)
    row |= {"itself_steps": moved / row["output_step"], "itself_agreement": equal}
    return row | {"error_to_float": float(error)}


JOBS: dict[str, Callable[[keras.Model, np.ndarray, np.ndarray], Row]] = {
    "regularize": regularize,
    "prepare": prepare,
    "exact": exact,
    "integer": integer,
}


def _recipe(bits: int, **options: int):
    import r2keras

    return r2keras.Recipe([(".*", r2keras.QuantSpec(num_bits=bits, granularity="per_channel", **options))])


def _one_step(model: keras.Model, train: np.ndarray) -> float:
    """Trains one step; returns its loss."""
    import keras
    import numpy as np

    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = float(model.train_on_batch(train[:16], np.arange(16) % CLASSES))
    if not np.isfinite(loss):
        raise RuntimeError(f"The loss of the first step is {loss}")
    return loss


def _file(model: keras.Model, record, test: np.ndarray, **options: str) -> Row:
    """Writes the file and compares it with Keras."""
    import r2keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        with warnings.catch_warnings():
            # A warning names the operators that compute in float; they are counted below.
            warnings.simplefilter("ignore")
            r2keras.export.to_litert(model, path, record, **options)
        result = r2keras.export.verify(model, path, test)
        off = r2keras.export.LiteRTModel(path).predict(test) - model.predict(test, verbose=0)
        operators = _operators(path)
        off_codes = codes_off(path, test[:OPERATOR_IMAGES]) if options else {}
        size = path.stat().st_size
    return {
        "codes_off": off_codes,
        "kernels": len(record.tensors),
        "bytes": size,
        "relative_difference": result.relative_difference,
        "steps": result.steps,
        "output_step": result.output_step,
        "mean_steps": None if result.output_step is None else float((off**2).mean() ** 0.5 / result.output_step),
        "agreement": result.agreement,
        "operators": sum(operators.values()),
        "float_operators": operators["float32"],
    }


def _operators(path: Path) -> collections.Counter:
    """Counts the operators of a file that compute, by the type of their output."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kinds = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kinds)
    types = {tensor["index"]: tensor["dtype"].__name__ for tensor in interpreter.get_tensor_details()}
    operators = (op for op in interpreter._get_ops_details() if op["op_name"] not in ("DEQUANTIZE", "QUANTIZE"))
    return collections.Counter(types[int(op["outputs"][0])] for op in operators)


def measure(net: str, size: int, job: str) -> Row:
    """Runs one job in this process; returns its row."""
    start = time.process_time()
    row = JOBS[job](*build(net, size))
    return row | {"processor_seconds": time.process_time() - start}


def measure_in_fresh_process(net: str, size: int, job: str) -> Row:
    """Runs one job in a fresh process; returns its row, with `fault` if it failed."""
    command = [sys.executable, __file__, f"--one={net},{size},{job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"fault": f"stopped after {TIMEOUT} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"fault": lines[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def run(nets: dict[str, int], jobs: list[str], store: Rows, again: bool) -> None:
    """Runs the jobs that have no row yet and stores their rows."""
    pairs = [(net, job) for net in nets for job in jobs]
    finished = {(row["net"], row["job"]) for row in store.rows if "fault" not in row and not again}
    for number, (net, job) in enumerate(pairs, 1):
        if (net, job) not in finished:
            about = machine()
            row = measure_in_fresh_process(net, nets[net], job)
            store.add([{"net": net, "job": job, "pixels": nets[net], **row, "machine": about}])
            result = row.get("fault") or f"{row['processor_seconds']:.0f} s of processor time"
            sys.stderr.write(f"{number} of {len(pairs)}: {net} {job}: {result}\n")


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table, one line per network."""
    header = ["network", "pixels", "kernels", "R2, one step", "W4A8, one step", "W4 file, MB", "its difference"]
    header += ["W8A8 file, MB", "its difference, steps", "at most", "same decision"]
    header += ["Keras and itself, steps", "same decision", "codes off per million", "at most"]
    header += ["float operators", "error to float"]
    by_net: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_net.setdefault(row["net"], {})[row["job"]] = row
    cells = [[net, *_cells(jobs)] for net, jobs in by_net.items()]
    faults = [f"- {row['net']}, {row['job']}: {row['fault']}" for row in rows if "fault" in row]
    return "\n\n".join([markdown(header, cells), *(["\n".join(faults)] if faults else []), _machines(rows)])


def _machines(rows: list[Row]) -> str:
    """Returns the machine of the rows, whose load differs from row to row, on one line."""
    steady = [row | {"machine": row["machine"] | {"load": "not recorded"}} for row in rows]
    return machine_lines(steady, lambda row: f"{row['net']} {row['job']}").replace(
        "; load not recorded before the run", ""
    )


def _cells(jobs: dict[str, Row]) -> list[str]:
    """Returns the cells of one network."""

    def cell(job: str, form: Callable[[Row], str]) -> str:
        row = jobs.get(job)
        return "" if row is None else "fault" if "fault" in row else form(row)

    pixels = str(next(iter(jobs.values()))["pixels"])
    kernels = next((str(row["kernels"]) for row in jobs.values() if "kernels" in row), "")
    return [
        pixels,
        kernels,
        cell("regularize", lambda row: "yes"),
        cell("prepare", lambda row: "yes"),
        cell("exact", lambda row: f"{row['bytes'] / 1e6:.2f}"),
        cell("exact", lambda row: f"{row['relative_difference']:.1e}"),
        cell("integer", lambda row: f"{row['bytes'] / 1e6:.2f}"),
        cell("integer", lambda row: "" if row["mean_steps"] is None else f"{row['mean_steps']:.1f}"),
        cell("integer", lambda row: "" if row["steps"] is None else f"{row['steps']:.1f}"),
        cell("integer", lambda row: f"{row['agreement']:.1%}"),
        cell("integer", lambda row: f"{row['itself_steps']:.1f}"),
        cell("integer", lambda row: f"{row['itself_agreement']:.1%}"),
        cell("integer", lambda row: f"{1e6 * _sum(row, 'off') / _sum(row, 'values'):.1f}"),
        cell("integer", lambda row: f"{max(item.get('largest', 0) for item in row['codes_off'].values()):.0f}"),
        cell("integer", lambda row: f"{row['float_operators']} of {row['operators']}"),
        cell("integer", lambda row: f"{row['error_to_float']:.3f}"),
    ]


def _sum(row: Row, name: str) -> float:
    """Returns a sum over all kinds of integer operators."""
    return sum(item.get(name, 0) for item in row["codes_off"].values())


def main() -> int:
    argv = FLAGS(sys.argv)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if FLAGS.one:
        net, size, job = FLAGS.one
        print(json.dumps(measure(net, int(size), job)))
        return 0
    unknown = [f"--nets={net}" for net in FLAGS.nets if net not in NETS]
    unknown += [f"--jobs={job}" for job in FLAGS.jobs if job not in JOBS]
    if argv[1:] or unknown:
        sys.stderr.write(f"{(unknown or argv[1:])[0]} is unknown. See --helpshort.\n")
        return 2
    store = Rows(FLAGS.out, ("net", "job"))
    if not FLAGS.table:
        run(SMOKE_NETS if FLAGS.smoke else {net: NETS[net] for net in FLAGS.nets}, FLAGS.jobs, store, FLAGS.again)
    print(table(store.rows))
    return 1 if any("fault" in row for row in store.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
