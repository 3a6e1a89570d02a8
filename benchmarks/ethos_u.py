r"""Flash, SRAM and accuracy of low-bit files on an Ethos-U NPU, as Arm's compiler Vela and LiteRT see them.

Each row: a pretrained net of MLPerf Tiny, quantized to 8, 4 or 2 bits per weight and 8 per activation, or trained at 2
bits towards its own float outputs; the file of to_litert(..., target="ethos-u"); Vela's report for each accelerator;
the accuracy of the file. Needs `pip install 'r2keras[npu]'`.

    python benchmarks/ethos_u.py --data_dir=DIR
    python benchmarks/ethos_u.py --data_dir=DIR --methods=trained2 --epochs=12
    python benchmarks/ethos_u.py --table

Rows go to benchmarks/results/ethos_u.json as they finish; a run continues where it stopped.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from absl import flags

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import common, ethos_u_training, front_models
from r2keras._util.files import atomic_write_text
from r2keras.cli import common as cli

RESULTS = Path(__file__).resolve().parent / "results" / "ethos_u.json"
NETS = ("resnet8", "dscnn")
# Titles of the methods; "shipped" is the file of MLPerf Tiny.
METHODS = {
    "shipped": "MLPerf's int8 file",
    "w8": "8 bits",
    "adaround4": "4 bits, AdaRound",
    "adaround2": "2 bits, AdaRound",
    "trained2": "2 bits, trained",
    "palette2": "palettes of 4 entries, trained",
}
ACCELERATORS = ("ethos-u55-128", "ethos-u65-256", "ethos-u85-256")
# DS-CNN trains on 500 inputs, and as many steps as ResNet-8 on 18,000.
PASSES = {"resnet8": 1, "dscnn": 36}
# Methods that have no chance in them.
FIXED = ("shipped", "w8")

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Folder with the data sets and the folder mlperf_tiny.", flag_values=FLAGS)
flags.DEFINE_list("nets", list(NETS), "Any of resnet8, dscnn.", flag_values=FLAGS)
flags.DEFINE_list("methods", list(METHODS), f"Any of {', '.join(METHODS)}.", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of calibration data and training.", flag_values=FLAGS)
flags.DEFINE_integer("epochs", 12, "Passes over the training images.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("results", str(RESULTS), "The rows, .json.", flag_values=FLAGS)
flags.DEFINE_string("out", "out/ethos_u", "Folder for the files.", flag_values=FLAGS)
flags.DEFINE_boolean("table", False, "Only print the table.", flag_values=FLAGS)
flags.DEFINE_boolean("smoke", False, "One pass over 64 inputs; the figures are meaningless.", flag_values=FLAGS)


def main() -> int:
    """Measures the rows that are missing, and prints the table."""
    rows = read(FLAGS.results)
    if not FLAGS.table:
        for key in missing(rows):
            print(f"{key['net']}, {METHODS[key['method']]}, seed {key['seed']}", flush=True)
            rows.append({**key, **measured(**key)})
            write(FLAGS.results, rows)
    print(table(rows))
    return 0


def missing(rows: list[dict]) -> list[dict]:
    """Returns the keys of the rows that the flags ask for and the file lacks, cheap methods first."""
    keys = []
    for method in METHODS:
        seeds = [0] if method in FIXED else [int(seed) for seed in FLAGS.seeds]
        for seed in seeds:
            for net in FLAGS.nets:
                epochs = 0 if not is_trained(method) else 1 if FLAGS.smoke else FLAGS.epochs * PASSES[net]
                key = {"net": net, "method": method, "seed": seed, "epochs": epochs}
                if method in FLAGS.methods and not any(key.items() <= row.items() for row in rows):
                    keys.append(key)
    return keys


def is_trained(method: str) -> bool:
    """Whether a method trains."""
    return method in ("trained2", "palette2")


def measured(net: str, method: str, seed: int, epochs: int) -> dict:
    """Returns the figures of one row."""
    import r2keras

    task = front_models.load(net, FLAGS.data_dir)
    start = time.time()
    name = f"{net}_{method}_{seed}"
    if method == "shipped":
        path = task.shipped
    else:
        model, record = quantized(task, net, method, seed, epochs)
        path = Path(FLAGS.out, f"{name}.tflite")
        r2keras.export.to_litert(model, path, record, target="ethos-u")
        record.save(Path(FLAGS.out, f"{name}.record.npz"))
        model.save(Path(FLAGS.out, f"{name}.keras"))
    outputs = r2keras.export.LiteRTModel(path).predict(task.inputs, batch_size=1)
    correct = int((outputs.argmax(-1) == task.labels.ravel()).sum())
    return {
        "seconds": round(time.time() - start),
        "file_bytes": path.stat().st_size,
        "correct": correct,
        "samples": len(task.labels),
        "vela": {name: r2keras.export.ethos_u(path, name).to_dict() for name in ACCELERATORS},
        "machine": common.machine(),
    }


def quantized(task: front_models.Task, net: str, method: str, seed: int, epochs: int) -> tuple:
    """Returns the quantized model and its record."""
    import keras

    import r2keras

    keras.utils.set_random_seed(seed)
    if not is_trained(method):
        bits = int(method[-1])
        steps = ["adaround", "correct_bias"] if method.startswith("adaround") else ["reestimate_batch_norm"]
        recipe = r2keras.Recipe.uniform(bits, 8 if bits < 8 else None, 8, steps)
        return r2keras.calibrate(task.model, recipe, task.calibration(seed), integer=True)
    spec = r2keras.QuantSpec(2, activation_bits=8)
    if method == "palette2":
        spec = r2keras.PaletteSpec(num_bits=2, table_dtype="int8", min_size=0, activation_bits=8)
    recipe = r2keras.Recipe([("<edges>", r2keras.QuantSpec(8, activation_bits=8)), (".*", spec)])
    count = 64 if FLAGS.smoke else None
    x, y = training_data(task, net)
    targets = None if y is None else y[:count]
    return ethos_u_training.trained(task.model, recipe, x[:count], targets, epochs, seed, images=net == "resnet8")


def training_data(task: front_models.Task, net: str) -> tuple:
    """Returns inputs to train on, and their classes; None where only unlabeled inputs are at hand."""
    from r2keras.workloads import data

    if net != "resnet8":
        return task.pool, None
    images = data.load("cifar10", FLAGS.data_dir, scaled=False)
    return images.x_train, images.y_train


def read(path: str) -> list[dict]:
    """Returns the rows of an earlier run."""
    return json.loads(Path(path).read_text())["rows"] if Path(path).exists() else []


def write(path: str, rows: list[dict]) -> None:
    """Writes the rows, whole or not at all."""
    atomic_write_text(path, json.dumps({"rows": rows}, indent=1) + "\n")


def table(rows: list[dict]) -> str:
    """Returns the table of the documents: one row per net and method, with mean and spread over seeds."""
    header = [
        "net",
        "weights",
        "file %",
        "file bytes",
        "flash KiB",
        "SRAM KiB",
        "on the NPU",
        "cycles",
        "U85: DRAM KiB",
    ]
    cells = []
    for net in NETS:
        for method, title in METHODS.items():
            group = [row for row in rows if row["net"] == net and row["method"] == method]
            if group:
                cells.append(_cells(front_models.MODELS[net], title, group))
    return common.markdown(header, cells)


def _cells(net: str, title: str, group: list[dict]) -> list[str]:
    """Returns the cells of one row."""
    small, large = ([row["vela"][name] for row in group] for name in ("ethos-u55-128", "ethos-u85-256"))
    shares = [100 * row["correct"] / row["samples"] for row in group]
    epochs = f", {group[0]['epochs']} epochs" if group[0]["epochs"] else ""
    return [
        net,
        title + epochs,
        spread(shares),
        f"{group[0]['file_bytes']:,}",
        spread([report["flash_bytes"] / 1024 for report in small]),
        spread([report["sram_bytes"] / 1024 for report in small]),
        f"{small[0]['npu_operators']} of {small[0]['npu_operators'] + small[0]['cpu_operators']}",
        f"{round(statistics.mean(report['cycles'] for report in small)):,}",
        spread([report["dram_bytes"] / 1024 for report in large]),
    ]


def spread(values: list[float]) -> str:
    """Returns the mean, with the sample standard deviation if there are several values.

    >>> spread([1.0, 2.0, 3.0]), spread([1.25])
    ('2.0 ± 1.0', '1.2')
    """
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    sys.exit(cli.run(FLAGS, __doc__, main))
