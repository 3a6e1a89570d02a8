"""Pretrained models of MLPerf Tiny, and a MobileNet, quantized without labels: accuracy, size and speed of the files.

    python examples/mlperf_tiny.py --data_dir=DIR

DIR holds the CIFAR-10 `.npz` files and a folder `mlperf_tiny` (`ic_resnet8.h5`, `kws_dscnn.h5`, their `_int8.tflite`,
`kws01_eval1000.npz`). `--models=mobilenet_v1_025` reads `mobilenet_v1_025_224.h5` and 1,000 ImageNet images from DIR's
folder `imagenet`.

Calibration uses no labels: 2,048 CIFAR-10 training images for ResNet-8, and for the other models, which have no
training images here, the first 500 of their 1,000 inputs; the other 500 are for evaluation.

Weights are quantized at each bit width; activations stay float, or with `--activation_bits=8` are quantized too. Then
files of integer operators are written as well, and compared with the exact file:

- one with integer operators from end to end,
- one whose last layers (global average pooling, dense, softmax) compute in float, as in Keras,
- one with the codes in 8-bit containers (`optimize="latency"`).

With `--output_bits=8` Keras rounds its last layers too, and the comparison is on integers from end to end. The int8
files that MLPerf ships are measured for reference. `--smoke` runs untrained stand-ins on random inputs, to check the
installation; its figures are meaningless.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags
from common_lib.flag_checks import UsageError, check_choice
from common_lib.program import make_console, start

from r2keras._util.native_log import quiet_imports

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Folder of the data sets, with the folder mlperf_tiny.")
MODELS = ("ic_resnet8", "kws_dscnn", "mobilenet_v1_025")
flags.DEFINE_list("models", ["ic_resnet8", "kws_dscnn"], f"Any of {', '.join(MODELS)}.")
flags.DEFINE_list("bits", ["8", "4"], "Bits per weight, 1 to 8.")
flags.DEFINE_string("eight_bits", None, "Pattern for names of layers that get 8 bits, such as 'conv_dw|conv1'.")
flags.DEFINE_integer("activation_bits", None, "8 also quantizes activations and writes files of integer operators.")
flags.DEFINE_integer("output_bits", None, "8 makes Keras round outputs and global averages as the file does.")
flags.DEFINE_list("ranges", ["min_max", "mse"], "Any of min_max, mse.")
flags.DEFINE_list("steps", [], "Calibration steps: fold_batch_norm, equalize, adaround, correct_bias, ...")
flags.DEFINE_string("batch_norm", "auto", "How batch-norm statistics are adapted: auto, shift, replace or keep.")
flags.DEFINE_string("out", "out/mlperf_tiny", "Folder for the files and results.json; finished rows are kept.")
flags.DEFINE_bool("smoke", False, "Run untrained stand-ins on random inputs; the figures are meaningless.")


@dataclasses.dataclass(frozen=True)
class Task:
    """A pretrained model, its calibration inputs, its evaluation inputs and labels, and the int8 file of MLPerf."""

    model: object
    calibration: object
    inputs: object
    labels: object
    shipped: Path | None


def main() -> int:
    """Fills results.json, then prints the table; returns the exit code."""
    if not FLAGS.smoke and FLAGS.data_dir is None:
        raise UsageError("--data_dir is missing: give the folder of the data sets and of mlperf_tiny, or try --smoke")
    with quiet_imports():
        import r2keras
    from rich.progress import track

    from r2keras._util.files import atomic_write_text

    results = Path(FLAGS.out) / "results.json"
    rows = json.loads(results.read_text()) if results.is_file() else []
    jobs = [(name, kind, int(bits)) for name in FLAGS.models for bits in FLAGS.bits for kind in FLAGS.ranges]
    finished = {key_of(row) for row in rows}
    options = {"batch_norm": FLAGS.batch_norm, "activation_bits": FLAGS.activation_bits, "steps": FLAGS.steps}
    options |= {"eight_bits": FLAGS.eight_bits, "output_bits": FLAGS.output_bits}
    jobs = [{"model": name, "range": kind, "num_bits": bits, **options} for name, kind, bits in jobs]
    jobs = [job for job in jobs if key_of(job) not in finished]
    tasks = {name: load(name) for name in dict.fromkeys(job["model"] for job in jobs)}
    for job in track(jobs, "Quantizing", disable=not sys.stdout.isatty()):
        rules = [(".*", make_spec(job["num_bits"], job["range"]))]
        if FLAGS.eight_bits is not None:
            rules.insert(0, (FLAGS.eight_bits, make_spec(8, job["range"])))
        recipe = r2keras.Recipe(rules, steps=FLAGS.steps)
        rows.append({**job, **measure(job["model"], tasks[job["model"]], recipe)})
        atomic_write_text(results, json.dumps(rows, indent=1) + "\n")
    console = make_console(160)
    console.print(table(rows))
    integer_rows = [row for row in rows if row.get("activation_bits")]
    if integer_rows:
        console.print(*integer_tables(integer_rows))
    return 0


def key_of(row: dict) -> tuple:
    """Returns what identifies an experiment; rows of older versions lack the optional columns."""
    required = [row[name] for name in ("model", "range", "num_bits", "batch_norm")]
    optional = [row.get(name) for name in ("activation_bits", "eight_bits", "output_bits")]
    return (*required, *optional, tuple(row.get("steps") or ()))


def make_spec(bits: int, kind: str):
    """Returns the spec of a layer with this bit width and kind of range."""
    import r2keras

    if FLAGS.activation_bits is None:
        return r2keras.QuantSpec(num_bits=bits, range=kind)
    activations = {"activation_bits": FLAGS.activation_bits, "activation_range": "min_max"}
    return r2keras.QuantSpec(num_bits=bits, range=kind, **activations)


def measure(name: str, task: Task, recipe) -> dict[str, object]:
    """Calibrates, exports and runs the file; returns the measurements of a row."""
    import r2keras

    options = {"batch_norm": FLAGS.batch_norm, "input_bits": FLAGS.activation_bits, "output_bits": FLAGS.output_bits}
    small, record = r2keras.calibrate(task.model, recipe, task.calibration, **options)
    spec = recipe.rules[-1][1]
    width = f"w{spec.num_bits}" if spec.activation_bits is None else f"w{spec.num_bits}a{spec.activation_bits}"
    parts = [name, spec.range, width]
    if len(recipe.rules) > 1:
        parts.append("mixed")
    if FLAGS.output_bits is not None:
        parts.append("ends")
    path = Path(FLAGS.out) / ("_".join([*parts, *FLAGS.steps]) + ".tflite")
    sizes = r2keras.export.to_litert(small, path, record)
    verification = r2keras.export.verify(small, path, (task.inputs, task.labels))
    integer_columns = {} if spec.activation_bits is None else measure_integer_files(task, small, record, path)
    return {
        **integer_columns,
        "float_accuracy": accuracy(task.model.predict(task.inputs, verbose=0), task.labels),
        "accuracy": verification.model_accuracy,
        "file_accuracy": verification.file_accuracy,
        "relative_difference": verification.relative_difference,
        "file_bytes": sizes.file_bytes,
        "gzip_bytes": sizes.gzip_bytes,
        "shipped_int8_accuracy": None if task.shipped is None else accuracy(shipped_outputs(task), task.labels),
        "shipped_int8_bytes": None if task.shipped is None else task.shipped.stat().st_size,
        "path": str(path),
    }


def measure_integer_files(task: Task, small, record, exact: Path) -> dict[str, object]:
    """Writes the files of integer operators, runs them, and times all files."""
    import r2keras

    paths = {
        "float": exact.with_name(f"{exact.stem}_float.tflite"),
        "exact": exact,
        "integer": exact.with_name(f"{exact.stem}_integer.tflite"),
        "integer, float end": exact.with_name(f"{exact.stem}_integer_float_end.tflite"),
        "integer, 8-bit codes": exact.with_name(f"{exact.stem}_integer_8_bit_codes.tflite"),
    }
    if task.shipped is not None:
        paths["shipped"] = task.shipped

    def write_and_verify(name: str, **options):
        r2keras.export.to_litert(small, paths[name], record, activations="int8", **options)
        return r2keras.export.verify(small, paths[name], (task.inputs, task.labels))

    data = task.calibration[:512]
    integer = write_and_verify("integer", data=data)
    float_end = write_and_verify("integer, float end")  # Without data, the last layers stay float.
    wide = write_and_verify("integer, 8-bit codes", data=data, optimize="latency")
    r2keras.export.to_litert(task.model, paths["float"])
    routes = r2keras.report.compare_routes(paths, num_runs=200)
    return {
        "integer_accuracy": integer.file_accuracy,
        "integer_agreement": integer.agreement,
        "integer_steps": integer.steps,
        "float_end_accuracy": float_end.file_accuracy,
        "float_end_agreement": float_end.agreement,
        "wide_accuracy": wide.file_accuracy,
        "wide_agreement": wide.agreement,
        "routes": routes.to_dict()["rows"],
        "integer_path": str(paths["integer"]),
    }


def load(name: str) -> Task:
    """Loads a task; with `--smoke`, a stand-in."""
    from r2keras.workloads import data, nets

    check_choice("models", name, MODELS)
    if FLAGS.smoke:
        return stand_in()
    folder = Path(FLAGS.data_dir)
    if name == "mobilenet_v1_025":
        images = data.load("imagenet_samples", folder / "imagenet")
        model = nets.load_mlperf(folder / "imagenet" / "mobilenet_v1_025_224.h5")
        return Task(model, images.x_test[:500], images.x_test[500:], images.y_test[500:], None)
    model = nets.load_mlperf(folder / "mlperf_tiny" / f"{name}.h5")
    shipped = folder / "mlperf_tiny" / f"{name}_int8.tflite"
    shipped = shipped if shipped.is_file() else None
    if name == "ic_resnet8":
        images = data.load("cifar10", folder, scaled=False)
        return Task(model, images.x_train[:2048], images.x_test, images.y_test, shipped)
    words = data.load("speech_commands_eval", folder / "mlperf_tiny")
    return Task(model, words.x_test[:500], words.x_test[500:], words.y_test[500:], shipped)


def stand_in() -> Task:
    """Returns a task with an untrained net and random inputs."""
    import numpy as np

    from r2keras.workloads import nets

    x = np.random.default_rng(0).random((64, 16, 16, 3), np.float32)
    return Task(nets.build("cnn", (16, 16, 3), 10), x, x, np.arange(64) % 10, None)


def shipped_outputs(task: Task):
    """Returns the outputs of the int8 file that MLPerf ships."""
    import r2keras

    return r2keras.export.LiteRTModel(task.shipped).predict(task.inputs)


def accuracy(outputs, labels) -> float:
    """Returns the fraction of correct decisions."""
    return float((outputs.argmax(-1) == labels).mean())


def table(rows: list[dict]):
    """Returns the rows as a rich table."""
    from rich.table import Table

    columns = ("model", "range", "bits", "norm", "float %", "file %", "bytes", "gzip", "MLPerf int8 %", "its bytes")
    result = Table(*columns)
    for row in sorted(rows, key=lambda row: (row["model"], -row["num_bits"], row["range"])):
        percents = [row["float_accuracy"], row["file_accuracy"]]
        shipped = row["shipped_int8_accuracy"]
        result.add_row(
            row["model"],
            range_of(row),
            str(row["num_bits"]),
            row["batch_norm"],
            *(f"{100 * value:.1f}" for value in percents),
            f"{row['file_bytes']:,}",
            f"{row['gzip_bytes']:,}",
            "-" if shipped is None else f"{100 * shipped:.1f}",
            "-" if shipped is None else f"{row['shipped_int8_bytes']:,}",
        )
    return result


def range_of(row: dict) -> str:
    """Returns the range and the calibration steps of a row as text."""
    return ", ".join([row["range"], *(row.get("steps") or ())])


def integer_tables(rows: list[dict]) -> list:
    """Returns rich tables of the integer files: accuracies, and bytes with the times of one run on one thread."""
    from rich.table import Table

    accuracies = Table(
        *("model", "range", "bits", "float %", "Keras %", "integer %", "agreement %"),
        *("float end %", "agreement %", "8-bit codes %", "agreement %", "MLPerf int8 %"),
    )
    costs = Table("model", "range", "bits", "exact", "integer", "float ms", "exact ms", "integer ms", "MLPerf int8 ms")
    for row in sorted(rows, key=lambda row: (row["model"], -row["num_bits"], row["range"])):
        first_cells = [row["model"], range_of(row), f"W{row['num_bits']}A{row['activation_bits']}"]
        names = ("float_accuracy", "accuracy", "integer_accuracy", "integer_agreement")
        names += ("float_end_accuracy", "float_end_agreement", "wide_accuracy", "wide_agreement")
        fractions = [row.get(name) for name in (*names, "shipped_int8_accuracy")]
        accuracies.add_row(*first_cells, *("-" if value is None else f"{100 * value:.1f}" for value in fractions))
        routes = {route["name"]: route for route in row["routes"]}
        times = [routes.get(name, {}).get("median_ms") for name in ("float", "exact", "integer", "shipped")]
        sizes = [f"{routes[name]['file_bytes']:,}" for name in ("exact", "integer")]
        costs.add_row(*first_cells, *sizes, *("-" if value is None else f"{value:.3f}" for value in times))
    return [accuracies, costs]


if __name__ == "__main__":
    start(main)
