"""Pretrained models of MLPerf Tiny (and a MobileNet), quantized without labels: accuracy of the files.

    python examples/mlperf_tiny.py --data_dir=DIR

DIR holds the CIFAR-10 `.npz` files and a folder `mlperf_tiny` (`ic_resnet8.h5`, `kws_dscnn.h5`, their `_int8.tflite`,
`kws01_eval1000.npz`); `--models=mobilenet_v1_025` takes `mobilenet_v1_025_224.h5` and 1,000 ImageNet images from its
folder `imagenet` (500 calibrate, the others are evaluated). Weights at each bit width, activations float, or with
`--activation_bits=8` integers too: then a file of integer operators is written beside the exact one, and both are
timed. ResNet-8 (CIFAR-10) is calibrated on 2,048 training images; the keyword set has no training part, so its first
500 inputs calibrate (without their labels) and the other 500 are evaluated. The file of integer operators is written
twice: as a whole, and with the end of the model (average, last dense layer, softmax) in float, which decides as Keras
does; once more with codes of fewer bits in 8-bit containers (`optimize="latency"`). With `--output_bits=8` Keras
rounds the end too, and all are on integers to the end. Beside them the int8 files that MLPerf ships.
`--smoke` runs untrained stand-ins on random inputs, to try the installation: its figures mean nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Folder with the data sets and the folder mlperf_tiny.")
MODELS = ("ic_resnet8", "kws_dscnn", "mobilenet_v1_025")
flags.DEFINE_list("models", ["ic_resnet8", "kws_dscnn"], f"Any of {', '.join(MODELS)}.")
flags.DEFINE_list("bits", ["8", "4"], "Bits a weight, 1 to 8.")
flags.DEFINE_string("eight_bits", None, "Pattern over names of layers that keep 8 bits, such as 'conv_dw|conv1'.")
flags.DEFINE_integer("activation_bits", None, "8 quantizes activations too and writes files of integer operators.")
flags.DEFINE_integer("output_bits", None, "8 lets Keras round outputs and averages of all as the file does.")
flags.DEFINE_list("ranges", ["min_max", "mse"], "Any of min_max, mse.")
flags.DEFINE_list("steps", [], "Steps of calibration: fold_batch_norm, equalize, adaround, correct_bias, ...")
flags.DEFINE_string("batch_norm", "auto", "Repair of batch norm statistics: auto, shift, replace or keep.")
flags.DEFINE_string("out", "out/mlperf_tiny", "Folder for the files and results.json; finished rows are kept.")
flags.DEFINE_bool("smoke", False, "Untrained stand-ins and random inputs.")


@dataclasses.dataclass(frozen=True)
class Task:
    """A pretrained model, inputs to calibrate on, inputs and labels to judge by."""

    model: object
    calibration: object
    inputs: object
    labels: object
    shipped: Path | None


def main(argv: list[str]) -> int:
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not FLAGS.smoke and FLAGS.data_dir is None:
        sys.stderr.write("--data_dir is missing: the folder with the data sets and mlperf_tiny. Or try --smoke.\n")
        return 2
    try:
        return run()
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def run() -> int:
    """Fills results.json, then prints the table."""
    from rich.console import Console
    from rich.progress import track

    import r2keras
    from r2keras._files import atomic_write_text

    results = Path(FLAGS.out) / "results.json"
    rows = json.loads(results.read_text()) if results.is_file() else []
    jobs = [(name, kind, int(bits)) for name in FLAGS.models for bits in FLAGS.bits for kind in FLAGS.ranges]
    done = {key_of(row) for row in rows}
    chosen = {"batch_norm": FLAGS.batch_norm, "activation_bits": FLAGS.activation_bits, "steps": FLAGS.steps}
    chosen |= {"eight_bits": FLAGS.eight_bits, "output_bits": FLAGS.output_bits}
    jobs = [{"model": name, "range": kind, "num_bits": bits, **chosen} for name, kind, bits in jobs]
    jobs = [job for job in jobs if key_of(job) not in done]
    tasks = {name: load(name) for name in dict.fromkeys(job["model"] for job in jobs)}
    for job in track(jobs, "Quantizing", disable=not sys.stdout.isatty()):
        rules = [(".*", spec_of(job["num_bits"], job["range"]))]
        if FLAGS.eight_bits is not None:
            rules.insert(0, (FLAGS.eight_bits, spec_of(8, job["range"])))
        recipe = r2keras.Recipe(rules, steps=FLAGS.steps)
        rows.append({**job, **measure(job["model"], tasks[job["model"]], recipe)})
        atomic_write_text(results, json.dumps(rows, indent=1) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table(rows))
    with_integers = [row for row in rows if row.get("activation_bits")]
    console.print(*(integer_tables(with_integers) if with_integers else []))
    return 0


def key_of(row: dict) -> tuple:
    """Returns what tells one experiment from another; rows of older runs lack what they did not have."""
    steps, later = tuple(row.get("steps") or ()), ("activation_bits", "eight_bits", "output_bits")
    return (*(row[name] for name in ("model", "range", "num_bits", "batch_norm")), *map(row.get, later), steps)


def spec_of(bits: int, kind: str):
    """Returns what every layer becomes."""
    import r2keras

    if FLAGS.activation_bits is None:
        return r2keras.QuantSpec(num_bits=bits, range=kind)
    more = {"activation_bits": FLAGS.activation_bits, "activation_range": "min_max"}
    return r2keras.QuantSpec(num_bits=bits, range=kind, **more)


def measure(name: str, task: Task, recipe) -> dict[str, object]:
    """Calibrates, exports, and runs the file."""
    import r2keras

    bits = {"batch_norm": FLAGS.batch_norm, "input_bits": FLAGS.activation_bits, "output_bits": FLAGS.output_bits}
    small, record = r2keras.calibrate(task.model, recipe, task.calibration, **bits)
    spec = recipe.rules[-1][1]
    width = f"w{spec.num_bits}" if spec.activation_bits is None else f"w{spec.num_bits}a{spec.activation_bits}"
    mixed = ["mixed"] * (len(recipe.rules) > 1)
    mixed += ["ends"] * (FLAGS.output_bits is not None)
    path = Path(FLAGS.out) / ("_".join([name, spec.range, width, *mixed, *FLAGS.steps]) + ".tflite")
    sizes = r2keras.export.to_litert(small, path, record)
    found = r2keras.export.verify(small, path, (task.inputs, task.labels))
    integer = {} if spec.activation_bits is None else measure_integers(task, small, record, path)
    return {
        **integer,
        "float_accuracy": accuracy(task.model.predict(task.inputs, verbose=0), task.labels),
        "accuracy": found.model_accuracy,
        "file_accuracy": found.file_accuracy,
        "relative_difference": found.relative_difference,
        "file_bytes": sizes.file_bytes,
        "gzip_bytes": sizes.gzip_bytes,
        "shipped_int8_accuracy": None if task.shipped is None else accuracy(shipped_outputs(task), task.labels),
        "shipped_int8_bytes": None if task.shipped is None else task.shipped.stat().st_size,
        "path": str(path),
    }


def measure_integers(task: Task, small, record, exact: Path) -> dict[str, object]:
    """Writes the file of integer operators, runs it, and times it beside the others."""
    import r2keras

    path = exact.with_name(f"{exact.stem}_integer.tflite")
    r2keras.export.to_litert(small, path, record, activations="int8", data=task.calibration[:512])
    found = r2keras.export.verify(small, path, (task.inputs, task.labels))
    end = exact.with_name(f"{exact.stem}_integer_float_end.tflite")
    r2keras.export.to_litert(small, end, record, activations="int8")
    found_end = r2keras.export.verify(small, end, (task.inputs, task.labels))
    wide = exact.with_name(f"{exact.stem}_integer_8_bit_codes.tflite")
    r2keras.export.to_litert(small, wide, record, activations="int8", data=task.calibration[:512], optimize="latency")
    found_wide = r2keras.export.verify(small, wide, (task.inputs, task.labels))
    plain = exact.with_name(f"{exact.stem}_float.tflite")
    r2keras.export.to_litert(task.model, plain)
    shipped = {} if task.shipped is None else {"shipped": task.shipped}
    files = {
        "float": plain,
        "exact": exact,
        "integer": path,
        "integer, float end": end,
        "integer, 8-bit codes": wide,
        **shipped,
    }
    routes = r2keras.report.compare_routes(files, num_runs=200)
    return {
        "integer_accuracy": found.file_accuracy,
        "integer_agreement": found.agreement,
        "integer_steps": found.steps,
        "float_end_accuracy": found_end.file_accuracy,
        "float_end_agreement": found_end.agreement,
        "wide_accuracy": found_wide.file_accuracy,
        "wide_agreement": found_wide.agreement,
        "routes": routes.to_dict()["rows"],
        "integer_path": str(path),
    }


def load(name: str) -> Task:
    """Loads a task, or its stand-in."""
    from r2keras.workloads import data, nets

    if name not in MODELS:
        raise ValueError(f"--models={name} is unknown: expected any of {', '.join(MODELS)}.")
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
    """Returns an untrained net and random inputs."""
    import numpy as np

    from r2keras.workloads import nets

    x = np.random.default_rng(0).random((64, 16, 16, 3), np.float32)
    return Task(nets.build("cnn", (16, 16, 3), 10), x, x, np.arange(64) % 10, None)


def shipped_outputs(task: Task):
    """Runs the int8 file that MLPerf ships."""
    import r2keras

    return r2keras.export.LiteRTModel(task.shipped).predict(task.inputs)


def accuracy(outputs, labels) -> float:
    """Returns the share of right answers."""
    return float((outputs.argmax(-1) == labels).mean())


def table(rows: list[dict]):
    """Returns the rows as a rich table."""
    from rich.table import Table

    found = Table("model", "range", "bits", "norm", "float %", "file %", "bytes", "gzip", "MLPerf int8 %", "its bytes")
    for row in sorted(rows, key=lambda row: (row["model"], -row["num_bits"], row["range"])):
        percents = [row["float_accuracy"], row["file_accuracy"]]
        shipped = row["shipped_int8_accuracy"]
        found.add_row(
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
    return found


def range_of(row: dict) -> str:
    """Returns how a row's weights were rounded."""
    return ", ".join([row["range"], *(row.get("steps") or ())])


def integer_tables(rows: list[dict]) -> list:
    """Returns the integer files beside the exact ones as rich tables; times are of one run on one thread."""
    from rich.table import Table

    right = Table(
        *("model", "range", "bits", "float %", "Keras %", "integer %", "agreement %"),
        *("float end %", "agreement %", "8-bit codes %", "agreement %", "MLPerf int8 %"),
    )
    costs = Table("model", "range", "bits", "exact", "integer", "float ms", "exact ms", "integer ms", "MLPerf int8 ms")
    for row in sorted(rows, key=lambda row: (row["model"], -row["num_bits"], row["range"])):
        start = [row["model"], range_of(row), f"W{row['num_bits']}A{row['activation_bits']}"]
        names = ("float_accuracy", "accuracy", "integer_accuracy", "integer_agreement")
        names += ("float_end_accuracy", "float_end_agreement", "wide_accuracy", "wide_agreement")
        found = [row.get(name) for name in (*names, "shipped_int8_accuracy")]
        right.add_row(*start, *("-" if value is None else f"{100 * value:.1f}" for value in found))
        routes = {route["name"]: route for route in row["routes"]}
        times = [routes.get(name, {}).get("median_ms") for name in ("float", "exact", "integer", "shipped")]
        sizes = [f"{routes[name]['file_bytes']:,}" for name in ("exact", "integer")]
        costs.add_row(*start, *sizes, *("-" if value is None else f"{value:.3f}" for value in times))
    return [right, costs]


if __name__ == "__main__":
    app.run(main)
